"""What controls do to a sampling, from the nodes' side."""

import hashlib

import pytest
import torch

from minihost import shims


def hash_of(model) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.model.diffusion_model.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def test_a_control_steers_and_the_base_stays_as_it_was(base, prompts, draw, load, apply, hint):
    before = hash_of(base[0])
    plain = draw(**prompts)
    controlled = draw(**apply(prompts, load("first"), hint))
    assert controlled.isfinite().all()
    assert (controlled - plain).abs().max() > 0.01
    assert not torch.equal(draw(**apply(prompts, load("first"), 1 - hint)), controlled)
    assert hash_of(base[0]) == before
    assert torch.equal(draw(**prompts), plain)


def test_an_untrained_control_changes_no_bit(prompts, draw, load, apply, hint):
    assert torch.equal(draw(**apply(prompts, load("silent"), hint)), draw(**prompts))


def test_the_same_control_twice_draws_the_same(prompts, draw, load, apply, hint):
    control = load("first")
    first = draw(**apply(prompts, control, hint))
    draw(**apply(prompts, control, 1 - hint, strength=0.3))
    assert torch.equal(draw(**apply(prompts, control, hint)), first)


def test_strength_0_is_absence_and_costs_no_network(prompts, load, apply, unit, merge, hint):
    control = load("first")
    assert apply(prompts, control, hint, strength=0.0) == prompts
    assert merge(prompts, unit(control, hint, strength=0.0)) == prompts
    alone, both = unit(load("second"), hint), unit(control, hint, strength=0.0)
    merged = merge(prompts, alone, both)["positive"][0][1]["control"]
    assert len(merged.get_models()) == 1


def test_strength_scales_the_residuals(prompts, draw, load, apply, hint):
    plain, control = draw(**prompts), load("first")
    moved = [
        float((draw(**apply(prompts, control, hint, strength=s)) - plain).norm()) for s in (0.05, 0.2, 1.0)
    ]
    assert moved == sorted(moved)


def test_the_parts_of_a_range_differ_from_the_whole(prompts, draw, load, apply, hint):
    control = load("first")
    early = draw(**apply(prompts, control, hint, end_percent=0.5))
    late = draw(**apply(prompts, control, hint, start_percent=0.5))
    whole = draw(**apply(prompts, control, hint))
    plain = draw(**prompts)
    pictures = [early, late, whole, plain]
    assert all(not torch.equal(a, b) for i, a in enumerate(pictures) for b in pictures[:i])


@pytest.fixture
def loads(monkeypatch):
    """The model patchers of each time that the host is asked to load some."""
    asked, load = [], shims.model_management.load_models_gpu
    monkeypatch.setattr(
        shims.model_management,
        "load_models_gpu",
        lambda models, **how: asked.append(list(models)) or load(models, **how),
    )
    return asked


def test_a_range_that_misses_every_step_loads_no_weights(
    prompts, draw, load, apply, unit, merge, hint, loads, base
):
    """It lies between the second and the third of four steps."""
    control, missed = load("first"), {"start_percent": 0.501, "end_percent": 0.502}
    plain = draw(**prompts)
    loads.clear()
    assert torch.equal(draw(**apply(prompts, control, hint, **missed)), plain)
    assert torch.equal(draw(**merge(prompts, unit(control, hint, **missed))), plain)
    assert loads == [[base[0]], [base[0]]]


def test_weights_of_a_range_are_loaded_once_when_it_begins(
    prompts, draw, load, apply, unit, merge, hint, loads, base
):
    control = load("first")
    late = {"start_percent": 0.5}
    patcher = control.network.patcher
    draw(**apply(prompts, control, hint, **late))
    assert loads == [[base[0]], [patcher]]
    loads.clear()
    draw(**merge(prompts, unit(control, hint), unit(control, 1 - hint, **late)))
    assert loads[0] == [base[0], patcher] and all(models == [patcher] for models in loads[1:])


def test_each_late_unit_of_a_merge_has_its_weights_loaded(
    prompts, draw, load, unit, merge, hint, loads, base
):
    first, second, late = load("first"), load("second"), {"start_percent": 0.5}
    draw(**merge(prompts, unit(first, hint, **late), unit(second, hint, **late)))
    assert loads == [[base[0]], [first.network.patcher], [second.network.patcher]]


def test_a_network_of_two_units_is_loaded_once(prompts, load, unit, merge, hint):
    shared = load("first")
    control = merge(prompts, unit(shared, hint), unit(shared, 1 - hint))["positive"][0][1]["control"]
    assert control.get_models() == [shared.network.patcher]


def test_the_host_keeps_room_for_weights_that_are_loaded_later(prompts, load, apply, unit, merge, hint):
    control, late = load("first"), {"end_percent": 0.5}

    def room(controlled):
        return controlled["positive"][0][1]["control"].inference_memory_requirements(torch.float32)

    size = control.network.patcher.model_size()
    whole = room(apply(prompts, control, hint))
    assert room(apply(prompts, control, hint, **late)) == whole + size
    early = unit(control, hint, **late)
    assert room(merge(prompts, early, early)) == 2 * whole + size
    assert room(merge(prompts, early, unit(control, hint))) == 2 * whole


def test_the_hint_is_encoded_once_per_run(prompts, draw, load, apply, hint):
    control = load("first")
    calls = []
    handle = control.network.net.input_hint_block.register_forward_hook(lambda *_: calls.append(1))
    draw(**apply(prompts, control, hint))
    handle.remove()
    assert len(calls) == 1


def test_the_network_runs_once_a_step_for_prompt_and_negative_together(prompts, draw, load, apply, hint):
    control = load("first")
    batches = []
    handle = control.network.net.middle_block_out[0].register_forward_hook(
        lambda _module, inputs, _out: batches.append(inputs[0].shape[0])
    )
    draw(**apply(prompts, control, hint))
    assert batches == [2] * 4
    batches.clear()
    draw(**apply(prompts, control, hint, end_percent=0.5))
    handle.remove()
    assert 0 < len(batches) < 4


@pytest.fixture
def projected(load):
    """The rows of text that each layer of the control "first" projects to keys."""
    control = load("first")
    layers = [m for name, m in control.network.net.named_modules() if name.endswith("attn2.to_k")]
    rows: list[int] = []
    handles = [m.register_forward_hook(lambda _m, inputs, _out: rows.append(len(inputs[0]))) for m in layers]
    yield control, len(layers), rows
    for handle in handles:
        handle.remove()


def test_the_text_is_projected_once_per_run_however_many_latents_and_units(
    projected, prompts, draw, apply, unit, merge, hint
):
    control, layers, rows = projected
    chain = apply(apply(prompts, control, hint), control, 1 - hint)
    merged = merge(prompts, unit(control, hint), unit(control, 1 - hint))
    expected = draw(**chain)
    assert rows == [2] * layers
    rows.clear()
    found = draw(**merged, batch=3)
    assert rows == [2] * layers
    torch.testing.assert_close(found[:1], draw(**merged), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(draw(**merged), expected, rtol=1e-4, atol=1e-5)


def test_each_latent_of_a_batch_keeps_its_own_prompt(projected, prompts, draw, apply, hint):
    control, layers, rows = projected
    other = {kind: [[5 * value.flip(2), options] for value, options in prompts[kind]] for kind in prompts}
    both = {
        kind: [[torch.cat([prompts[kind][0][0], other[kind][0][0]]), prompts[kind][0][1]]] for kind in prompts
    }
    found = draw(**apply(both, control, hint), batch=2)
    assert rows == [4] * layers
    for i, alone in enumerate((prompts, other)):
        # Noise is drawn for the whole batch.
        torch.testing.assert_close(
            found[i], draw(**apply(alone, control, hint), batch=2)[i], rtol=1e-3, atol=1e-4
        )
    assert (found[1] - draw(**apply(prompts, control, hint), batch=2)[1]).abs().max() > 1e-2


def test_one_unit_is_plain_apply_in_every_mode(prompts, draw, load, apply, unit, merge, hint):
    expected = draw(**apply(prompts, load("first"), hint))
    for mode in ("sum", "average"):
        assert torch.equal(draw(**merge(prompts, unit(load("first"), hint), mode=mode)), expected)


def test_the_sum_of_units_is_a_chain_of_applies(prompts, draw, load, apply, unit, merge, hint):
    first, second = load("first"), load("second")
    chained = apply(apply(prompts, first, hint, strength=0.7), second, 1 - hint)
    merged = merge(prompts, unit(first, hint, strength=0.7), unit(second, 1 - hint))
    torch.testing.assert_close(draw(**merged), draw(**chained), rtol=1e-4, atol=1e-5)


def test_the_order_of_units_does_not_matter(prompts, draw, load, unit, merge, hint):
    one, two = unit(load("first"), hint), unit(load("second"), 1 - hint, strength=0.5)
    for mode in ("sum", "average"):
        a, b = draw(**merge(prompts, one, two, mode=mode)), draw(**merge(prompts, two, one, mode=mode))
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_average_of_equals_is_one_of_them(prompts, draw, load, apply, unit, merge, hint):
    equal = [unit(load("first"), hint, strength=s) for s in (0.5, 0.25, 1.0)]
    expected = draw(**apply(prompts, load("first"), hint))
    torch.testing.assert_close(draw(**merge(prompts, *equal, mode="average")), expected, rtol=1e-4, atol=1e-5)


def test_a_unit_outside_its_range_counts_for_nothing_in_an_average(
    prompts, draw, load, apply, unit, merge, hint
):
    """Else the other units would fade while it is silent."""
    early = unit(load("second"), hint, end_percent=0.0)
    whole = unit(load("first"), hint)
    late_steps = draw(**merge(prompts, whole, early, mode="average"))
    alone = draw(**apply(prompts, load("first"), hint))
    shared = draw(**merge(prompts, whole, unit(load("second"), hint), mode="average"))
    assert (late_steps - alone).norm() < (shared - alone).norm()


def test_merging_behind_an_apply_keeps_both(prompts, draw, load, apply, unit, merge, hint):
    first, second = load("first"), load("second")
    behind = draw(**merge(apply(prompts, first, hint), unit(second, 1 - hint)))
    before = draw(**apply(merge(prompts, unit(second, 1 - hint)), first, hint))
    torch.testing.assert_close(behind, before, rtol=1e-4, atol=1e-5)
    assert not torch.equal(behind, draw(**apply(prompts, first, hint)))


def test_each_picture_of_a_batch_follows_its_own_hint(prompts, draw, load, apply, hint):
    """Three latents, two hints: the third latent gets the first hint again."""
    hints = torch.cat([hint, 1 - hint])
    control = load("first")
    both = draw(**apply(prompts, control, hints), batch=3)
    first = draw(**apply(prompts, control, hint), batch=3)
    second = draw(**apply(prompts, control, 1 - hint), batch=3)
    for i, alone in enumerate((first, second, first)):
        torch.testing.assert_close(both[i], alone[i], rtol=1e-3, atol=1e-4)


def test_hints_of_every_size_and_kind_of_pixel_serve(prompts, draw, load, apply):
    control = load("first")
    for shape in [(1, 7, 9, 3), (1, 200, 30, 1), (1, 40, 40, 4), (5, 16, 16, 3)]:
        assert draw(**apply(prompts, control, torch.rand(shape))).isfinite().all()


def test_a_transparent_hint_is_read_over_black(prompts, draw, load, apply, hint):
    control = load("first")
    alpha = (hint[..., :1] > 0.5).float()
    over_black = draw(**apply(prompts, control, hint * alpha))
    assert torch.equal(draw(**apply(prompts, control, torch.cat([hint, alpha], -1))), over_black)


def test_a_control_keeps_its_hint_when_the_loaded_one_is_used_again(prompts, load, apply, hint):
    control = load("first")
    apply(prompts, control, hint)
    assert control.cond_hint_original is None


def test_the_hosts_apply_node_sets_strength_and_range(load, hint):
    control = load("first").copy().set_cond_hint(hint.movedim(-1, 1), 0.5, (0.2, 0.6))
    timing = control.weighting.timing
    assert (timing.strength, timing.start_percent, timing.end_percent) == (0.5, 0.2, 0.6)
    assert control.weighting.timed


def test_a_hint_larger_than_the_picture_does_not_raise_the_estimate(prompts, load, apply):
    small, large = (
        apply(prompts, load("first"), torch.zeros(1, side, side, 3))["positive"][0][1]["control"]
        for side in (1024, 2048)
    )
    assert small.inference_memory_requirements(torch.float16) > 0
    assert small.inference_memory_requirements(torch.float16) == large.inference_memory_requirements(
        torch.float16
    )


def test_the_hosts_node_for_types_changes_nothing_where_there_are_none(prompts, draw, load, apply, hint):
    typed = load("first").copy()
    typed.set_extra_arg("control_type", [3])
    expected = draw(**apply(prompts, load("first"), hint))
    assert torch.equal(draw(**apply(prompts, typed, hint)), expected)

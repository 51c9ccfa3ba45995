"""What a control answers the host with: over time, sides, frames, blocks and space."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cnet_core.control.blocks import BlockWeights
from minihost.shims.api_input import CurveInput
from minihost.shims.controlnet import ControlBase

COND, UNCOND = 0, 1
HEIGHT, WIDTH = 4, 5


@pytest.fixture
def ask(base):
    """Ask the control in a conditioning for its residuals: ask(conditionings, sides=[UNCOND, COND], ...).

    going_on: in the run of the question before.
    """

    def ask(
        prompts: dict[str, list],
        sides: tuple[int, ...] = (UNCOND, COND),
        batch: int = 1,
        percent: float = 0.5,
        window: Any = None,
        size: tuple[int, int] = (HEIGHT, WIDTH),
        going_on: bool = False,
    ) -> dict[str, list] | None:
        control = prompts["positive"][0][1]["control"]
        model = base[0].model
        if not going_on:
            control.pre_run(model, model.model_sampling.percent_to_sigma)
        generator = torch.Generator().manual_seed(1)
        latents = torch.randn(16, 4, *size, generator=generator)
        latents = latents[list(window.index_list) if window and window.dim == 0 else list(range(batch))]
        rows = len(sides) * latents.shape[0]
        texts = {side: prompts[kind][0][0] for side, kind in ((COND, "positive"), (UNCOND, "negative"))}
        context = torch.cat([texts[side].repeat(latents.shape[0], 1, 1) for side in sides])
        sigma = torch.full((rows,), float(model.model_sampling.percent_to_sigma(percent)))
        options = {"cond_or_uncond": list(sides), "uuids": list(sides)}
        if window is not None:
            options["context_window"] = window
        return control.get_control(
            latents.repeat(len(sides), 1, 1, 1), sigma, {"c_crossattn": context}, len(sides), options
        )

    return ask


@pytest.fixture
def runs(load):
    """The rows of each forward pass of the control called "first"."""
    control, rows = load("first"), []
    handle = control.network.net.middle_block_out[0].register_forward_hook(
        lambda _module, inputs, _out: rows.append(inputs[0].shape[0])
    )
    yield SimpleNamespace(control=control, rows=rows)
    handle.remove()


@pytest.fixture
def keyframes(call):
    """A schedule of (percent, strength, interpolation) points."""

    def keyframes(*points: tuple[float, float, str]) -> Any:
        schedule = None
        for percent, strength, how in points:
            schedule = call(
                "CNetKeyframe", percent=percent, strength=strength, interpolation=how, previous=schedule
            )
        return schedule

    return keyframes


def blocks(answer: dict[str, list]) -> list[torch.Tensor]:
    return [*answer["output"], *answer["middle"]]


def assert_same(got: list[torch.Tensor], expected: list[torch.Tensor], **tolerance) -> None:
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, **(tolerance or {"rtol": 0, "atol": 0}))


def mask_of(*columns: int) -> torch.Tensor:
    """White in these columns of a latent's width."""
    mask = torch.zeros(1, HEIGHT * 8, WIDTH * 8)
    for column in columns:
        mask[..., column * 8 : column * 8 + 8] = 1
    return mask


# Time


def test_the_schedule_at_the_sigma_of_a_step_is_its_strength(prompts, load, apply, hint, ask, keyframes):
    schedule = keyframes((0.0, 0.0, "linear"), (1.0, 1.0, "linear"))
    for percent in (0.2, 0.5, 0.75):
        whole = blocks(ask(apply(prompts, load("first"), hint), percent=percent))
        faded = blocks(ask(apply(prompts, load("first"), hint, schedule=schedule), percent=percent))
        assert_same(faded, [block * percent for block in whole], rtol=2e-2, atol=1e-5)
    assert ask(apply(prompts, load("first"), hint, schedule=schedule), percent=0.0) is None


def test_a_curve_drawn_on_the_node_is_that_of_a_curve_editor(call):
    drawn = {"points": [[0.0, 1.0], [0.5, 0.4], [1.0, 0.0]], "interpolation": "linear"}
    for curve in (drawn, CurveInput.from_raw(drawn)):
        schedule = call("CNetStrengthCurve", curve=curve, lowest=1.0, highest=2.0)
        assert [schedule.at(percent) for percent in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([2, 1.7, 1.4, 1])


def test_a_step_without_strength_runs_no_network(prompts, apply, hint, ask, runs, keyframes):
    schedule = keyframes((0.0, 1.0, "hold"), (0.5, 0.0, "linear"))
    controlled = apply(prompts, runs.control, hint, schedule=schedule)
    assert ask(controlled, percent=0.3) is not None
    assert ask(controlled, percent=0.6) is None
    assert runs.rows == [2]


def test_every_noise_schedule_has_a_clock_of_its_own(host):
    class Sampling:
        """What a host's model_sampling is to a clock: something that is not exchanged."""

    schedules = {10.0: Sampling(), 1.0: Sampling()}
    clocks = [
        host.steered._clock_of(sampling, lambda percent, most=most: most * (1 - percent))
        for most, sampling in schedules.items()
    ]
    assert [clock.percent(0.5) for clock in clocks] == pytest.approx([0.95, 0.5])


# Sides


def test_a_side_of_gain_0_gets_nothing_and_costs_nothing(prompts, apply, hint, ask, runs):
    whole = blocks(ask(apply(prompts, runs.control, hint)))
    cond = blocks(ask(apply(prompts, runs.control, hint, uncond_gain=0.0)))
    assert runs.rows == [2, 1]
    for half, both in zip(cond, whole, strict=True):
        assert not half[0].any()
        torch.testing.assert_close(half[1], both[1], rtol=1e-4, atol=1e-5)


def test_a_chunk_of_one_side_only_is_weighed_by_that_side(prompts, apply, hint, ask, runs):
    controlled = apply(prompts, runs.control, hint, uncond_gain=0.0)
    assert ask(controlled, sides=(UNCOND,)) is None
    assert ask(controlled, sides=(COND,)) is not None
    assert runs.rows == [1]


def test_promptless_is_soft_weights_on_the_prompts_side(prompts, load, apply, hint, ask):
    whole = blocks(ask(apply(prompts, load("first"), hint)))
    guess = blocks(ask(apply(prompts, load("first"), hint, balance="promptless")))
    soft = BlockWeights("soft").of(len(whole))
    for block, both, weight in zip(guess, whole, soft, strict=True):
        assert not block[0].any()
        torch.testing.assert_close(block[1], both[1] * weight, rtol=1e-4, atol=1e-5)


# Frames


def test_frames_have_strengths_of_their_own_and_silent_ones_are_not_run(
    prompts, apply, hint, ask, runs, call
):
    schedule = call("CNetFrameStrengths", strengths="1, 0\n0.5")
    whole = blocks(ask(apply(prompts, runs.control, hint), batch=4))
    framed = blocks(ask(apply(prompts, runs.control, hint, schedule=schedule), batch=4))
    assert runs.rows == [8, 6]
    for part, all_of in zip(framed, whole, strict=True):
        for row in range(8):
            factor = (1.0, 0.0, 0.5, 0.5)[row % 4]
            torch.testing.assert_close(part[row], all_of[row] * factor, rtol=1e-4, atol=1e-5)


def test_every_context_window_gets_the_hints_masks_and_strengths_of_its_frames(
    prompts, load, apply, hint, ask, call
):
    """Also a second window of a run, which in the host loses the hints beyond the first one's length."""
    hints = torch.rand(6, 32, 40, 3, generator=torch.Generator().manual_seed(2))
    masks = torch.rand(6, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(3))
    schedule = call("CNetFrameStrengths", strengths="0.1 0.2 0.3 0.4 0.5 0.6")
    controlled = apply(prompts, load("first"), hints, schedule=schedule, mask=masks)
    whole = blocks(ask(controlled, batch=6))
    for i, frames in enumerate(([0, 1, 2, 3], [2, 3, 4, 5], [5, 0])):
        window = SimpleNamespace(dim=0, index_list=frames, total_frames=6)
        seen = blocks(ask(controlled, window=window, going_on=i > 0))
        rows = [side * 6 + frame for side in range(2) for frame in frames]
        assert_same(seen, [block[rows] for block in whole], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("anchor", "frames"), [(None, (2, 3)), (-1, (2, 3)), (0, (0, 2, 3)), (1, (1, 2, 3))])
def test_the_frame_that_the_host_puts_before_a_window_counts(host, anchor, frames):
    window = SimpleNamespace(dim=0, index_list=[2, 3], total_frames=4, causal_anchor_index=anchor)
    asked = host.calls.Call(torch.zeros(2, 4, 4, 5), torch.ones(2), {}, 1, {"context_window": window})
    assert asked.frames == frames and asked.total == 4


def test_a_window_over_the_frames_of_a_video_cuts_no_picture(host):
    window = SimpleNamespace(dim=2, index_list=[2, 3], total_frames=6)
    asked = host.calls.Call(torch.zeros(1, 16, 2, 4, 5), torch.ones(1), {}, 1, {"context_window": window})
    image = torch.rand(1, 3, 32, 40)
    assert host.calls.window_of(image, asked) is image


def test_a_window_over_columns_sees_its_part_of_hint_and_mask(prompts, load, apply, ask):
    """The left half of a hint steers the left window as it would by itself."""
    hint = torch.rand(1, 32, 64, 3, generator=torch.Generator().manual_seed(4))
    mask = torch.rand(1, 4, 8, generator=torch.Generator().manual_seed(5))
    for columns in (range(4), range(4, 8)):
        window = SimpleNamespace(dim=3, index_list=list(columns), total_frames=8)
        start = columns.start
        alone = apply(
            prompts,
            load("first"),
            hint[:, :, start * 8 : start * 8 + 32],
            mask=mask[..., start : start + 4],
        )
        seen = blocks(ask(apply(prompts, load("first"), hint, mask=mask), window=window, size=(4, 4)))
        assert_same(seen, blocks(ask(alone, size=(4, 4))), rtol=1e-5, atol=1e-6)


def test_a_window_of_a_closed_loop_sees_the_end_of_a_hint_and_then_its_beginning(prompts, load, apply, ask):
    hint = torch.rand(1, 32, 64, 3, generator=torch.Generator().manual_seed(4))
    mask = torch.rand(1, 4, 8, generator=torch.Generator().manual_seed(5))
    window = SimpleNamespace(dim=3, index_list=[6, 7, 0, 1], total_frames=8)
    rolled, alone = hint.roll(16, 2)[:, :, :32], mask.roll(2, -1)[..., :4]
    seen = blocks(ask(apply(prompts, load("first"), hint, mask=mask), window=window, size=(4, 4)))
    expected = blocks(ask(apply(prompts, load("first"), rolled, mask=alone), size=(4, 4)))
    assert_same(seen, expected, rtol=1e-5, atol=1e-6)


def test_a_window_over_columns_sees_a_hint_of_another_shape_cut_as_the_whole_picture_would(
    prompts, load, apply, ask
):
    wide = torch.rand(1, 32, 128, 3, generator=torch.Generator().manual_seed(4))
    window = SimpleNamespace(dim=3, index_list=list(range(4, 8)), total_frames=8)
    seen = ask(apply(prompts, load("first"), wide), window=window, size=(4, 4))
    # The whole picture is 4x8: of the hint the middle 64 columns remain, and of these the right half.
    alone = apply(prompts, load("first"), wide[:, :, 64:96])
    assert_same(blocks(seen), blocks(ask(alone, size=(4, 4))), rtol=1e-5, atol=1e-6)


def test_a_control_whose_mask_leaves_nothing_of_one_window_may_act_in_the_next(prompts, load, apply, ask):
    mask = torch.zeros(1, 4, 8)
    mask[..., 6:] = 1
    controlled = apply(prompts, load("first"), torch.rand(1, 32, 64, 3), mask=mask)
    left, right = (
        SimpleNamespace(dim=3, index_list=list(columns), total_frames=8)
        for columns in (range(4), range(4, 8))
    )
    assert ask(controlled, window=left, size=(4, 4)) is None
    assert ask(controlled, window=right, size=(4, 4), going_on=True) is not None


# Blocks and space


def test_block_weights_count_from_the_outermost_to_the_middle(prompts, load, apply, hint, ask, call):
    whole = blocks(ask(apply(prompts, load("first"), hint)))
    values = tuple(i / 4 for i in range(len(whole)))
    weights = call("CNetBlockWeights", preset={"preset": "custom", "weights": str(values).strip("()")})
    weighed = ask(apply(prompts, load("first"), hint, blocks=weights))
    assert weighed["output"][0] is None
    for block, weight, plain in zip(blocks(weighed)[1:], values[1:], whole[1:], strict=True):
        torch.testing.assert_close(block, plain * weight)


def test_a_full_mask_changes_no_bit_and_an_empty_one_is_absence(prompts, load, apply, hint, ask, caplog):
    whole = blocks(ask(apply(prompts, load("first"), hint)))
    full = blocks(ask(apply(prompts, load("first"), hint, mask=torch.ones(1, 64, 64))))
    assert_same(full, whole)
    assert not caplog.records
    assert apply(prompts, load("first"), hint, mask=torch.zeros(1, 64, 64)) == prompts
    assert "A mask is black everywhere" in caplog.text
    half = blocks(ask(apply(prompts, load("first"), hint, mask=torch.full((1, 9, 9), 0.5))))
    assert_same(half, [block * 0.5 for block in whole])


def test_a_mask_lets_the_control_act_where_it_is_white(prompts, load, apply, hint, ask):
    whole = blocks(ask(apply(prompts, load("first"), hint)))
    left = blocks(ask(apply(prompts, load("first"), hint, mask=mask_of(0, 1))))
    assert torch.equal(left[0][..., :2], whole[0][..., :2])
    assert not left[0][..., 2:].any()


def test_a_mask_lies_over_tokens_row_by_row(prompts, load, apply, base, hint, host):
    mask = torch.arange(20.0).reshape(1, HEIGHT, WIDTH) / 20
    control = apply(prompts, load("first"), hint, mask=mask)["positive"][0][1]["control"]
    model = base[0].model
    control.pre_run(model, model.model_sampling.percent_to_sigma)
    asked = host.calls.Call(torch.zeros(2, 4, HEIGHT, WIDTH), torch.ones(2), {}, 2, {})
    found = control.mask_for(torch.zeros(2, HEIGHT * WIDTH, 8), asked)
    assert torch.equal(found, mask.flatten()[None, :, None].expand(2, -1, -1))


def test_frames_and_pictures_that_a_mask_leaves_nothing_of_are_not_run(
    prompts, load, apply, unit, merge, hint, ask, runs
):
    whole = blocks(ask(apply(prompts, load("first"), hint), batch=3))
    runs.rows.clear()
    masks = torch.stack([torch.ones(8, 8), torch.zeros(8, 8)])
    masked = blocks(ask(apply(prompts, runs.control, hint, mask=masks), batch=3))
    assert runs.rows == [4]
    for block, plain in zip(masked, whole, strict=True):
        torch.testing.assert_close(block[[0, 2, 3, 5]], plain[[0, 2, 3, 5]], rtol=1e-4, atol=1e-5)
        assert not block[[1, 4]].any()
    # Of this square the picture, five wide and four high, has not the uppermost rows.
    outside = torch.zeros(1, 50, 50)
    outside[:, :5] = 1
    runs.rows.clear()
    assert ask(apply(prompts, runs.control, hint, mask=outside)) is None
    assert ask(merge(prompts, unit(runs.control, hint, mask=outside))) is None
    assert ask(apply(prompts, runs.control, hint, mask=outside), size=(5, 5)) is not None
    assert runs.rows == [2]


class Counting(ControlBase):
    """A control as a host makes them: each latent's hint and its own content go into the first block."""

    def __init__(self, asked: list[int]):
        super().__init__()
        self.asked = asked

    def copy(self) -> "Counting":
        other = Counting(self.asked)
        self.copy_to(other)
        return other

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        self.asked.append(x_noisy.shape[0])
        means = self.cond_hint_original.mean((1, 2, 3))
        index = torch.arange(x_noisy.shape[0] // batched_number) % len(means)
        value = x_noisy.mean(1, keepdim=True) + means[index].repeat(batched_number)[:, None, None, None]
        return {"input": [], "middle": [], "output": [value.repeat(1, 32, 1, 1)]}


def test_the_hosts_controls_run_no_frame_of_strength_0_or_of_an_empty_mask(prompts, apply, ask, call):
    asked: list[int] = []
    hints = torch.rand(4, 32, 40, 3, generator=torch.Generator().manual_seed(2))
    schedule = call("CNetFrameStrengths", strengths="1, 0\n0.5")
    masks = torch.ones(4, 8, 10)
    masks[3] = 0
    whole = ask(apply(prompts, Counting(asked), hints), batch=4)["output"][0]
    framed = ask(apply(prompts, Counting(asked), hints, schedule=schedule), batch=4)["output"][0]
    masked = ask(apply(prompts, Counting(asked), hints, mask=masks, uncond_gain=0.0), batch=4)["output"][0]
    assert asked == [8, 6, 3]
    for row in range(8):
        torch.testing.assert_close(framed[row], whole[row] * (1.0, 0.0, 0.5, 0.5)[row % 4])
        torch.testing.assert_close(masked[row], whole[row] * float(row in (4, 5, 6)))


def test_masks_go_to_the_pictures_of_a_batch(prompts, load, apply, hint, ask):
    whole = blocks(ask(apply(prompts, load("first"), hint), batch=3))
    masks = torch.stack([torch.ones(8, 8), torch.zeros(8, 8)])
    masked = blocks(ask(apply(prompts, load("first"), hint, mask=masks), batch=3))
    for block, plain in zip(masked, whole, strict=True):
        # A smaller batch may be added up in another order.
        torch.testing.assert_close(block[[0, 2, 3, 5]], plain[[0, 2, 3, 5]], rtol=1e-4, atol=1e-5)
        assert not block[[1, 4]].any()


# Merging


def test_units_of_one_network_run_as_one_batch_and_say_the_same_as_apart(
    prompts, apply, unit, merge, hint, ask, runs
):
    left, right = {"mask": mask_of(0, 1)}, {"mask": mask_of(2, 3, 4), "strength": 0.5}
    apart = [
        blocks(ask(apply(prompts, runs.control, image, **how)))
        for image, how in ((hint, left), (1 - hint, right))
    ]
    runs.rows.clear()
    units = unit(runs.control, hint, **left), unit(runs.control, 1 - hint, **right)
    merged = ask(merge(prompts, *units))
    assert runs.rows == [4]
    assert_same(blocks(merged), [a + b for a, b in zip(*apart, strict=True)], rtol=1e-4, atol=1e-5)


def test_a_silent_unit_is_left_out_of_the_batch(prompts, unit, merge, hint, ask, runs):
    units = unit(runs.control, hint), unit(runs.control, 1 - hint, end_percent=0.3)
    ask(merge(prompts, *units), percent=0.6)
    assert runs.rows == [2]


def test_two_regions_steer_each_its_own_part(prompts, load, apply, unit, merge, hint, ask):
    one = blocks(ask(apply(prompts, load("first"), hint)))
    two = blocks(ask(apply(prompts, load("second"), hint)))
    units = unit(load("first"), hint, mask=mask_of(0, 1)), unit(load("second"), hint, mask=mask_of(2, 3, 4))
    merged = blocks(ask(merge(prompts, *units, mode="regions")))
    assert torch.equal(merged[0][..., :2], one[0][..., :2])
    assert torch.equal(merged[0][..., 2:], two[0][..., 2:])


def test_a_unit_that_is_off_is_left_out(prompts, load, unit, merge, hint):
    off = unit(load("first"), hint, enabled=False)
    assert merge(prompts, off) == prompts
    control = merge(prompts, off, unit(load("second"), hint))["positive"][0][1]["control"]
    assert len(control.get_models()) == 1


def test_what_is_off_needs_no_hint(prompts, load, apply, unit, merge, hint):
    """A hint's loader may be muted with it; what is on still asks for its own."""
    on, off = unit(load("second"), hint), unit(load("first"), None, enabled=False)
    for absent in (off, unit(load("first"), None, strength=0.0)):
        assert merge(prompts, absent) == prompts
        assert len(merge(prompts, absent, on)["positive"][0][1]["control"].get_models()) == 1
    assert apply(prompts, load("first"), None, strength=0.0) == prompts
    for wanting in (lambda: unit(load("first"), None), lambda: apply(prompts, load("first"), None)):
        with pytest.raises(ValueError, match="no hint"):
            wanting()


@pytest.mark.parametrize("mode", ["sum", "average", "normalised", "strongest", "priority", "regions"])
def test_one_unit_is_plain_apply(mode, prompts, load, apply, unit, merge, hint, ask):
    expected = blocks(ask(apply(prompts, load("first"), hint)))
    options = {"softness": 0.2} if mode == "strongest" else {}
    merged = blocks(ask(merge(prompts, unit(load("first"), hint), mode=mode, **options)))
    assert_same(merged, expected)


@pytest.mark.parametrize(
    ("preset", "mode", "first"),
    [("equal", "normalised", 0), ("pose leads", "priority", 0), ("depth leads", "priority", 1)],
)
def test_presets_for_pose_and_depth_are_merges(
    preset, mode, first, prompts, load, unit, merge, hint, ask, call
):
    pair = unit(load("first"), hint), unit(load("second"), 1 - hint)
    out = call("CNetPoseDepth", **prompts, pose=pair[0], depth=pair[1], preset=preset)
    got = blocks(ask(dict(zip(("positive", "negative"), out, strict=True))))
    assert_same(got, blocks(ask(merge(prompts, pair[first], pair[1 - first], mode=mode))))


def test_the_layout_preset_keeps_depth_out_of_the_outermost_block(
    prompts, load, apply, unit, hint, ask, call
):
    pair = unit(load("first"), hint), unit(load("second"), 1 - hint)
    preset = "pose leads, depth for the layout"
    out = call("CNetPoseDepth", **prompts, pose=pair[0], depth=pair[1], preset=preset)
    got = blocks(ask(dict(zip(("positive", "negative"), out, strict=True))))
    pose = blocks(ask(apply(prompts, load("first"), hint)))
    assert torch.equal(got[0], pose[0]) and not torch.equal(got[-1], pose[-1])


# What is kept


@pytest.mark.parametrize("uses", [1, 2], ids=["alone", "in a chain with itself"])
def test_keys_and_values_of_the_text_are_computed_once_per_run(prompts, draw, load, apply, hint, uses):
    control = load("first")
    layers = [m for name, m in control.network.net.named_modules() if name.endswith("attn2.to_k")]
    calls = []
    handles = [layer.register_forward_hook(lambda *_: calls.append(1)) for layer in layers]
    for _ in range(uses):
        prompts = apply(prompts, control, hint)
    for runs in (1, 2):
        draw(**prompts)
        assert layers and len(calls) == runs * len(layers)
    for handle in handles:
        handle.remove()


def test_a_hint_that_is_exchanged_amid_a_run_acts_from_then_on(prompts, load, apply, hint, ask):
    controlled = apply(prompts, load("first"), hint)
    before = blocks(ask(controlled))
    control = controlled["positive"][0][1]["control"]
    control.cond_hint_original = 1 - control.cond_hint_original
    exchanged = blocks(ask(controlled, going_on=True))
    assert not torch.equal(exchanged[-1], before[-1])
    assert_same(exchanged, blocks(ask(apply(prompts, load("first"), 1 - hint))))


def test_nothing_of_a_run_is_left_on_the_control_or_the_network(
    prompts, draw, load, apply, unit, merge, hint
):
    control = load("first")
    before = set(vars(control.network.net))
    merged = merge(prompts, unit(control, hint), unit(load("second"), hint))
    for controlled in (apply(prompts, control, hint), merged):
        draw(**controlled)
        used = controlled["positive"][0][1]["control"]
        assert used.tiles is None
        assert all(one.run is None and one.tiles is None for one in getattr(used, "controls", [used]))
    assert set(vars(control.network.net)) == before
    assert not any(p.grad is not None for p in control.network.net.parameters())

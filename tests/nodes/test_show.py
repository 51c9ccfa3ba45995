"""The pictures of what controls do are of what they do."""

import math
import sys

import pytest
import torch

from minihost.shims import samplers
from minihost.shims.controlnet import ControlBase

BLUE = torch.tensor([0, 114, 178]) / 255
STEPS = 4


@pytest.fixture
def chart(call, base):
    def chart(prompts, steps=STEPS, scheduler="normal", denoise=1.0, **sigmas) -> torch.Tensor:
        settings = {"scheduler": scheduler, "steps": steps, "denoise": denoise, **sigmas}
        return call("CNetPreviewStrength", positive=prompts["positive"], model=base[0], **settings)

    return chart


def heights(chart: torch.Tensor, steps: int = STEPS) -> list[int]:
    """The pixels of the first control's bars, at the middle of each."""
    bars = (chart[0] - BLUE).abs().amax(-1) < 0.01
    left, right = 64, chart.shape[2] - 16
    return [int(bars[:, round(left + (right - left) * (i + 0.5) / steps)].sum()) for i in range(steps)]


@pytest.fixture
def runs(load):
    """Forward passes of the control called "first"."""
    control, runs = load("first"), []
    handle = control.network.net.middle_block_out[0].register_forward_hook(lambda *_: runs.append(1))
    yield control, runs
    handle.remove()


@pytest.mark.parametrize("span", [(0.0, 1.0), (0.0, 0.5), (0.5, 1.0), (0.3, 0.7)])
def test_bars_stand_at_the_steps_at_which_the_network_runs(chart, prompts, draw, apply, runs, hint, span):
    control, passes = runs
    controlled = apply(prompts, control, hint, start_percent=span[0], end_percent=span[1])
    bars = heights(chart(controlled))
    draw(**controlled)
    assert 0 < len(passes) == sum(bar > 0 for bar in bars)


def test_bars_are_as_high_as_the_schedule_says(call, chart, prompts, load, apply, hint):
    schedule = None
    for percent, strength in ((0.0, 1.0), (0.2, 0.5), (0.9, 0.25)):
        schedule = call(
            "CNetKeyframe", percent=percent, strength=strength, interpolation="hold", previous=schedule
        )
    bars = heights(chart(apply(prompts, load("first"), hint, schedule=schedule)))
    assert bars[0] > 40
    assert [bar / bars[0] for bar in bars] == pytest.approx([1, 0.5, 0.5, 0.25], abs=0.03)


def test_a_lower_denoise_shows_the_end_of_a_longer_run(chart, prompts, load, apply, hint):
    early = apply(prompts, load("first"), hint, end_percent=0.5)
    assert sum(bar > 0 for bar in heights(chart(early, steps=8), 8)) == 4
    assert heights(chart(early, denoise=0.4)) == [0] * 4


def test_sigmas_are_shown_in_place_of_a_schedule(chart, prompts, base, load, apply, hint):
    early = apply(prompts, load("first"), hint, end_percent=0.5)
    sampling = base[0].get_model_object("model_sampling")
    shown = chart(early, sigmas=samplers.calculate_sigmas(sampling, "normal", 8)[2:])
    assert [bar > 0 for bar in heights(shown, 6)] == [True] * 2 + [False] * 4
    # The same but for the title.
    same = chart(early, steps=6, denoise=0.75)
    assert torch.equal(shown[:, 40:], same[:, 40:])
    for wrong in (torch.zeros(0), torch.ones(1), torch.ones(2, 2), torch.tensor([math.nan, 0])):
        with pytest.raises(ValueError, match="sigmas holds"):
            chart(early, sigmas=wrong)


def test_every_control_of_a_chain_has_its_row(chart, prompts, load, apply, unit, merge, hint):
    one = apply(prompts, load("first"), hint)
    both = merge(one, unit(load("second"), hint), unit(load("first"), hint, strength=0.5))
    rows = [chart(controlled).shape[1] for controlled in (one, both)]
    row = (rows[1] - rows[0]) // 2
    with_hosts = ControlBase().set_cond_hint(torch.zeros(1, 3, 8, 8), 0.5, (0.0, 0.5))
    entries = both["positive"]
    with_hosts.set_previous_controlnet(entries[0][1]["control"])
    chained = {"positive": [[text, {**options, "control": with_hosts}] for text, options in entries]}
    assert chart(chained).shape[1] == rows[1] + row


def test_sides_frames_and_blocks_are_shown_where_they_differ(call, chart, prompts, load, apply, hint):
    plain = chart(apply(prompts, load("first"), hint))
    assert chart(apply(prompts, load("first"), hint, uncond_gain=0.5)).shape[1] > plain.shape[1]
    frames = call("CNetFrameStrengths", strengths="1, 0")
    assert heights(chart(apply(prompts, load("first"), hint, schedule=frames))) != heights(plain)
    blocks = call("CNetBlockWeights", preset={"preset": "even"})
    assert torch.equal(chart(apply(prompts, load("first"), hint, blocks=blocks)), plain)


def test_a_references_style_fidelity_is_shown(call, base, chart, prompts, apply, hint):
    """As a gain on the negative's side, which it is."""

    def shown(style_fidelity, **settings):
        reference = call("CNetReference", style_fidelity=style_fidelity)
        return chart(apply(prompts, reference, hint, vae=base[2], **settings))

    assert torch.equal(shown(0.5), shown(0.0, uncond_gain=0.5))
    assert not torch.equal(shown(0.5), shown(0.0)) and not torch.equal(shown(1.0), shown(0.0))


def test_a_prompt_without_controls_is_refused(chart, prompts):
    with pytest.raises(ValueError, match="carries no control"):
        chart(prompts)


@pytest.fixture
def compare(call, base, prompts):
    """(maps [pairs,H,W,3], table) of some units."""

    def compare(*units, percent: float = 0.3, batch: int = 1, **sigmas):
        return call(
            "CNetCompareControls",
            model=base[0],
            **prompts,
            units={f"unit{i}": unit for i, unit in enumerate(units)},
            latent_image={"samples": torch.zeros(batch, 4, 4, 5)},
            seed=7,
            steps=STEPS,
            cfg=3.0,
            sampler_name="euler",
            scheduler="normal",
            percent=percent,
            **sigmas,
        )

    return compare


def colour(maps: torch.Tensor) -> list[int]:
    """The one colour of a map."""
    found = maps[:, :-64].reshape(-1, 3).unique(dim=0)
    assert len(found) == 1
    return (found[0] * 255).round().int().tolist()


def test_a_control_agrees_with_itself_however_weak(compare, load, unit, hint):
    maps, table = compare(unit(load("first"), hint), unit(load("first"), hint, strength=0.5))
    assert colour(maps) == [33, 102, 172]
    rows = [line.split() for line in table.splitlines()[2:]]
    assert rows[-1][0] == "middle"
    assert all(float(row[-2]) == pytest.approx(2 * float(row[-1]), rel=0.02) for row in rows)


def test_a_control_out_of_its_range_is_silent(compare, load, unit, hint):
    late = unit(load("second"), hint, start_percent=0.9)
    maps, table = compare(unit(load("first"), hint), late)
    assert colour(maps) == [228, 228, 228]
    assert "second is silent" in table


def test_a_control_speaks_where_its_range_begins(compare, load, unit, hint):
    """Between two steps too: there it acts from the second on."""
    for start in (0.3, 0.4, 0.6):
        late = unit(load("second"), hint, start_percent=start)
        assert "silent" not in compare(unit(load("first"), hint), late, percent=start)[1]


def test_a_control_inside_the_attention_is_not_called_silent(call, base, compare, load, unit, hint):
    reference = call("CNetReference", style_fidelity=0.5)
    for span, note in (
        ({}, "ReferenceControl acts inside the attention, and has no residuals"),
        ({"start_percent": 0.9}, "ReferenceControl is silent at this step"),
    ):
        one = unit(reference, hint, vae=base[2], **span)
        _, table = compare(unit(load("first"), hint), one)
        assert note in table and table.count("ReferenceControl") == 2


def test_controls_without_a_common_block_are_named(compare, load, unit, hint):
    class Encoder(ControlBase):
        """A host's control that speaks to the encoder, as adapters do."""

        def copy(self):
            other = Encoder()
            self.copy_to(other)
            return other

        def get_models(self):
            return []

        def get_control(self, x_noisy, *rest):
            return {"input": [torch.ones(x_noisy.shape[0], 32, 4, 5)], "middle": [], "output": []}

    maps, table = compare(unit(load("first"), hint), unit(Encoder(), hint))
    assert colour(maps) == [228, 228, 228]
    assert "first and Encoder share no block" in table and "silent" not in table
    assert "share no block" not in compare(unit(load("first"), hint), unit(load("second"), hint))[1]


def test_each_pair_and_picture_has_its_map(compare, load, unit, hint):
    units = [unit(load("first"), hint), unit(load("second"), hint), unit(load("first"), 1 - hint)]
    assert compare(*units)[0].shape[0] == 3
    assert compare(*units, batch=2)[0].shape[0] == 6
    # One of them silent.
    late = unit(load("second"), hint, start_percent=0.9)
    maps, _ = compare(units[0], late, units[2], batch=2)
    assert maps.shape[0] == 6 and colour(maps[:2]) == colour(maps[4:]) == [228, 228, 228]


@pytest.mark.parametrize(("percent", "steps"), [(0.0, 1), (0.4, 3), (1.0, 4)])
def test_sampling_ends_at_the_moment_that_is_looked_at(compare, load, unit, runs, hint, percent, steps):
    control, passes = runs
    _, table = compare(unit(control, hint), unit(load("second"), hint), percent=percent)
    assert len(passes) == steps
    assert f"step {steps} of {STEPS}" in table


def test_sigmas_are_sampled_in_place_of_a_schedule(compare, base, load, unit, hint):
    units = unit(load("first"), hint), unit(load("second"), hint)
    sampling = base[0].get_model_object("model_sampling")
    same = compare(*units, sigmas=samplers.calculate_sigmas(sampling, "normal", STEPS))
    expected = compare(*units)
    assert torch.equal(same[0], expected[0]) and same[1] == expected[1]
    # The later half: the moment is its second step's.
    _, table = compare(*units, percent=0.6, sigmas=samplers.calculate_sigmas(sampling, "normal", 8)[4:])
    assert "step 2 of 4" in table


def test_blocks_of_transformers_are_counted_as_they_are_read(host, answers):
    """From the beginning of their lists, where a UNet takes its encoder's from the end."""
    tokens, maps = answers.Part(torch.zeros(1, 4, 8)), answers.Part(torch.zeros(1, 8, 2, 2))
    for one, inputs, outputs, names in (
        (tokens, 2, 2, ["block 0", "block 1", "single block 0", "single block 1"]),
        (tokens, 0, 2, ["block 0", "block 1"]),
        (maps, 2, 1, ["input 1", "input 0", "skip 0"]),
    ):
        parts = {"input": [one] * inputs, "output": [one] * outputs, "middle": []}
        assert list(host.Record(1.0, spoken=[parts], rows=[0]).residuals()) == names


def test_a_recorded_merge_acts_as_a_plain_one(nodes, prompts, draw, load, unit, merge, hint):
    units = [unit(load("first"), hint), unit(load("second"), 1 - hint)]
    module = sys.modules[nodes["CNetCompareControls"].__module__]
    record = module.host.Record(1.0)
    recording = module.host.RecordingControl([one.control for one in units], module.Rule(), record)
    recorded = module.conditioning.attach(recording, prompts["positive"], prompts["negative"])
    assert torch.equal(draw(*recorded), draw(**merge(prompts, *units)))
    said = record.residuals()
    assert list(said)[-1] == "middle" and all(len(block) == 2 for block in said.values())
    assert {residual.shape[0] for block in said.values() for residual in block} == {1}


def test_a_record_is_of_the_prompts_rows_of_the_largest_picture_nearest_to_its_moment(
    host, base, load, unit, hint
):
    record, model = host.Record(2.0), base[0].model
    one = unit(load("first"), hint, uncond_gain=0.5)
    control = host.RecordingControl([one.control], host.merged.Rule(), record)
    control.pre_run(model, model.model_sampling.percent_to_sigma)
    cond = {"c_crossattn": torch.zeros(4, 3, 8)}

    def recorded(sigma: float, width: int, sides: tuple[int, ...] = (1, 0)) -> tuple:
        options = {"cond_or_uncond": list(sides)}
        control.get_control(torch.zeros(4, 4, 4, width), torch.full((4,), sigma), cond, 2, options)
        return record.sigma, record.size, record.rows

    assert recorded(3.0, 5) == (3.0, (4, 5), [2, 3])
    assert recorded(2.0, 5, (0, 1)) == (2.0, (4, 5), [0, 1])
    assert recorded(2.0, 3) == (2.0, (4, 5), [0, 1])
    assert recorded(2.0, 7) == (2.0, (4, 7), [2, 3])
    assert recorded(4.0, 9) == (2.0, (4, 7), [2, 3])


def test_comparing_wants_two_controls_that_act(compare, load, unit, hint):
    with pytest.raises(ValueError, match="1 of 2 units act"):
        compare(unit(load("first"), hint), unit(load("second"), hint, strength=0.0))


def test_a_prompt_that_does_not_act_yet_is_said(compare, prompts, load, unit, hint):
    prompts["positive"] = [[text, {**values, "start_percent": 0.6}] for text, values in prompts["positive"]]
    units = unit(load("first"), hint), unit(load("second"), hint)
    with pytest.raises(ValueError, match=r"does not act up to 0\.3 of the sampling.*raise percent"):
        compare(*units)
    assert "first" in compare(*units, percent=0.9)[1]

"""What weighs a control: blocks, masks, sides, frames, and when it counts as absent."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cnet_core.control.blocks import PRESETS, BlockWeights
from cnet_core.control.mask import fit_mask, leaves_some, prepare_mask, token_grid
from cnet_core.control.merge import Rule, merge
from cnet_core.control.schedule import INTERPOLATIONS, Clock, Keyframe, Keyframes, Schedule
from cnet_core.control.timing import Timing
from cnet_core.control.weighting import BALANCES, Weighting, effective_strengths
from cnet_core.errors import ControlError

COND, UNCOND = 0, 1


def no_mask(_residual):
    return None


def blocks_of(*shapes):
    return [None if shape is None else torch.ones(shape) for shape in shapes]


# Blocks


def test_soft_weights_are_the_releases_balance():
    assert BlockWeights("soft").of(13) == [0.825 ** (12 - i) for i in range(13)]


@pytest.mark.parametrize("count", [25, 57, 60])
def test_soft_weights_fall_as_far_over_the_many_blocks_of_transformers(count):
    weights = BlockWeights("soft").of(count)
    assert weights == sorted(weights)
    assert (weights[0], weights[-1]) == (pytest.approx(0.825**12), 1)
    assert sum(weights) / count == pytest.approx(sum(BlockWeights("soft").of(13)) / 13, rel=0.1)
    assert BlockWeights("soft").of(10) == [0.825 ** (9 - i) for i in range(10)]


@pytest.mark.parametrize("count", [1, 4, 10, 13, 38])
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_give_each_block_a_weight_of_at_most_1(preset, count):
    weights = BlockWeights(preset).of(count)
    assert len(weights) == count
    assert all(0 <= weight <= 1 for weight in weights)


def test_structure_rises_with_depth_and_detail_falls():
    assert BlockWeights("structure first").of(5) == sorted(BlockWeights("structure first").of(5))
    assert BlockWeights("detail first").of(5) == BlockWeights("structure first").of(5)[::-1]


@given(values=st.lists(st.floats(0, 5), min_size=1, max_size=20), count=st.integers(1, 40))
def test_own_weights_are_stretched_from_end_to_end_in_straight_lines(values, count):
    weights = BlockWeights(values=tuple(values)).of(count)
    places = np.linspace(0, len(values) - 1, count)
    assert weights == pytest.approx(np.interp(places, range(len(values)), values).tolist())
    if count == len(values):
        assert weights == values


def test_block_weights_multiply():
    both = BlockWeights(values=(1.0, 2.0, 3.0)) * BlockWeights("soft")
    assert both.of(3) == [0.825**2, 2 * 0.825, 3.0]


def test_a_decoder_block_of_a_unet_has_the_weight_of_the_skip_that_it_reads():
    weights = BlockWeights(values=(1.0, 2.0, 3.0)).of_unet(2)
    assert weights == {("input", 0): 1, ("input", 1): 2, ("output", 1): 1, ("output", 0): 2, ("middle", 0): 3}


@pytest.mark.parametrize("wrong", [{"preset": "loud"}, {"values": (1.0, -1.0)}, {"values": (float("inf"),)}])
def test_wrong_block_weights_are_refused(wrong):
    with pytest.raises(ControlError):
        BlockWeights(**wrong)


# Masks


def test_a_mask_is_fitted_by_area():
    mask = torch.zeros(1, 4, 4)
    mask[:, :, :1] = 1
    assert fit_mask(mask, 2, 2).tolist() == [[[0.5, 0.0], [0.5, 0.0]]]


def test_a_mask_is_cut_from_the_centre_as_hints_are():
    mask = torch.zeros(1, 4, 12)
    mask[..., 4:8] = 1
    assert fit_mask(mask, 2, 2).min() == 1
    assert fit_mask(mask.mT, 2, 2).min() == 1


@given(height=st.integers(1, 40), width=st.integers(1, 40), h=st.integers(1, 12), w=st.integers(1, 12))
def test_a_full_mask_stays_full_and_an_empty_one_empty_at_any_size(height, width, h, w):
    for value in (0.0, 1.0):
        fitted = fit_mask(torch.full((2, height, width), value), h, w)
        assert fitted.shape == (2, h, w)
        assert (fitted == value).all()


def test_feathering_makes_a_ramp_around_the_edge_and_keeps_the_rest():
    mask = torch.zeros(1, 40, 60)
    mask[..., 30:] = 1
    soft = prepare_mask(mask, 8.0)[0]
    assert (soft[:, :21] == 0).all() and torch.allclose(soft[:, 39:], torch.ones(()))
    assert (soft.diff(dim=1) >= -1e-6).all()
    assert 0.3 < float(soft[20, 29]) < 0.7
    assert torch.equal(prepare_mask(mask, 0.0), mask)


@pytest.mark.parametrize("feather", range(1, 10))
def test_a_feather_reaches_as_many_pixels_to_either_side(feather):
    mask = torch.zeros(1, 40, 60)
    mask[..., 30:] = 1
    changed = (prepare_mask(mask, float(feather)) != mask)[0, 20]
    assert changed.nonzero().flatten().tolist() == list(range(30 - feather, 30 + feather))


@pytest.mark.parametrize("shape", [(5, 7), (3, 5, 7), (3, 1, 5, 7)])
def test_masks_come_in_several_shapes(shape):
    assert prepare_mask(torch.rand(shape)).shape == (1 if len(shape) == 2 else 3, 5, 7)


def test_a_mask_is_kept_within_0_and_1():
    assert prepare_mask(torch.tensor([[2.0, -1.0, 0.5]])).tolist() == [[[1.0, 0.0, 0.5]]]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(2, 3, 5, 7), r"shape \(2, 3, 5, 7\)"),
        (torch.zeros(0, 5, 7), "shape"),
        (torch.full((1, 5, 7), float("nan")), "not finite"),
    ],
)
def test_wrong_masks_are_refused(mask, message):
    with pytest.raises(ControlError, match=message):
        prepare_mask(mask)


def test_tokens_are_laid_out_as_square_patches():
    assert token_grid(16 * 24, 32, 48) == (16, 24)
    assert token_grid(17 * 24, 33, 48) == (17, 24)
    with pytest.raises(ControlError, match="100 tokens"):
        token_grid(100, 32, 48)


# Rows and weighing


def test_rows_are_sides_times_frames():
    weighting = Weighting(Timing(2.0), Schedule(over_frames=(1.0, 0.5)), cond_gain=1.0, uncond_gain=0.25)
    assert weighting.rows(2.0, [UNCOND, COND], [0, 1]) == [0.5, 0.25, 2.0, 1.0]


def test_rows_whose_mask_leaves_nothing_have_no_strength():
    assert Weighting().rows(1.0, [1, 0], [0, 1, 2], seen=[True, False]) == [1, 0, 1, 1, 0, 1]
    mask = torch.zeros(2, 8, 8)
    mask[0, 0], mask[1, 4] = 1, 1
    assert leaves_some(mask, 8, 8) == [True, True]
    assert leaves_some(mask, 4, 8) == [False, True]


def test_blocks_are_counted_without_the_empty_places():
    weighting = Weighting(blocks=BlockWeights(values=(1.0, 2.0, 0.0)))
    parts = weighting.weigh(blocks_of(None, (1, 2, 3, 3), (1, 2, 3, 3), None, (1, 2, 1, 1)), [1.0], no_mask)
    assert [part and part.weight for part in parts] == [None, 1.0, 2.0, None, None]


def test_in_an_average_block_weights_still_say_how_much_is_drawn():
    weighting = Weighting(blocks=BlockWeights(values=(0.5, 1.0)))
    parts = weighting.weigh(blocks_of((1, 2, 3, 3), (1, 2, 3, 3)), [0.7], no_mask)
    assert [float(merge([part], Rule("average")).mean()) for part in parts] == [0.5, 1.0]


def test_full_strength_leaves_the_residual_itself():
    residual = torch.randn(2, 3, 4, 4)
    (part,) = Weighting().weigh([residual], [1.0, 1.0], no_mask)
    assert part.value is residual


def test_rows_of_different_strength_are_weighed_each():
    (part,) = Weighting().weigh(blocks_of((2, 3, 4, 4)), [0.5, 0.0], no_mask)
    assert part.value[0].unique().tolist() == [0.5] and not part.value[1].any()


# Absence


def fading(*strengths):
    points = [Keyframe(i / max(1, len(strengths) - 1), s) for i, s in enumerate(strengths)]
    return Schedule(Keyframes(tuple(points)))


@pytest.mark.parametrize(
    "weighting",
    [
        Weighting(Timing(0.0)),
        Weighting(cond_gain=0.0, uncond_gain=0.0),
        Weighting(mask=torch.zeros(1, 4, 4)),
        Weighting(schedule=Schedule(over_frames=(0.0, 0.0))),
        Weighting(schedule=fading(0.0, 0.0)),
        Weighting(Timing(1.0, 0.6, 1.0), fading(1.0, 0.0, 0.0)),
        Weighting(blocks=BlockWeights(values=(0.0,))),
        Weighting(blocks=BlockWeights(values=(0.0, 0.0))).led_by("prompt first"),
    ],
    ids=["strength", "gains", "mask", "frames", "schedule", "schedule in range", "blocks", "balanced blocks"],
)
def test_what_never_says_anything_is_absent(weighting):
    assert weighting.absent


def test_a_strength_that_holds_into_the_range_is_no_absence():
    held = Schedule(Keyframes((Keyframe(0.0, 1.0),)))
    assert not Weighting(Timing(1.0, 0.3, 0.9), held).absent


@given(
    start=st.floats(0, 0.9),
    length=st.floats(1e-4, 0.1),
    how=st.sampled_from(list(INTERPOLATIONS)),
)
def test_a_moment_of_strength_is_no_absence_however_short(start, length, how):
    points = (Keyframe(0.95 * start, 0.0, how), Keyframe(start + length, 1.0, how), Keyframe(1.0, 0.0))
    short = Keyframe(start + length + 1e-4, 0.0)
    for chosen in (points, (*points[:2], short)):
        assert not Weighting(schedule=Schedule(Keyframes(chosen))).absent
    later = Timing(1.0, short.percent, 1.0)
    assert Weighting(later, Schedule(Keyframes((*points[:2], short)))).absent


@pytest.mark.parametrize("balance", BALANCES)
def test_no_balance_makes_a_control_absent(balance):
    assert not Weighting().led_by(balance).absent


def test_the_promptless_balance_is_soft_weights_on_the_prompts_side_only():
    weighting = Weighting().led_by("promptless")
    assert weighting.rows(1.0, [UNCOND, COND], [0]) == [0.0, 1.0]
    assert weighting.blocks.of(13) == BlockWeights("soft").of(13)


def test_control_first_is_whole_on_the_prompts_side_and_nothing_on_the_negatives():
    weighting = Weighting().led_by("control first")
    assert weighting.rows(1.0, [UNCOND, COND], [0]) == [0.0, 1.0]
    assert weighting.blocks.of(13) == [1.0] * 13


def test_a_balance_keeps_what_was_set_before():
    weighting = Weighting(blocks=BlockWeights(values=(0.5,)), uncond_gain=0.5).led_by("prompt first")
    assert weighting.blocks.of(2) == [0.5 * 0.825, 0.5] and weighting.uncond_gain == 0.5
    with pytest.raises(ControlError, match=r"'loud'.*balanced"):
        Weighting().led_by("loud")


@pytest.mark.parametrize("gain", [-0.5, float("nan")])
def test_wrong_gains_are_refused(gain):
    with pytest.raises(ControlError, match="uncond gain"):
        Weighting(uncond_gain=gain)


# What is shown is what happens


def test_effective_strengths_are_range_schedule_and_gains_at_each_noise_level():
    keyframes = Keyframes((Keyframe(0.0, 1.0), Keyframe(1.0, 0.0)))
    weighting = Weighting(Timing(2.0, 0.25, 1.0), Schedule(keyframes, (0.5, 0.1)), uncond_gain=0.5)
    clock = Clock([10.0, 8.0, 6.0, 4.0, 2.0])
    found = effective_strengths(weighting, [10.0, 8.0, 5.0, 2.0], clock, (8.0, 2.0))
    assert found == [(0.0, 0.0), (1.5, 0.75), (0.75, 0.375), (0.0, 0.0)]


def test_without_a_schedule_the_strength_is_flat():
    found = effective_strengths(Weighting(Timing(0.7)), [9.0, 1.0], Clock([10.0, 0.0]), None)
    assert found == [(0.7, 0.7)] * 2

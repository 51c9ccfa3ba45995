"""The laws of merging."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cnet_core.control.merge import MODES, Part, Rule, merge
from cnet_core.errors import ControlError

MAP, TOKENS = (2, 4, 3, 5), (2, 15, 4)

modes = pytest.mark.parametrize("mode", MODES)
orderless = pytest.mark.parametrize("mode", ["sum", "average", "normalised", "strongest", "regions"])
strengths = st.floats(0.01, 10)
seeds = st.integers(0, 2**32)
shapes = st.sampled_from([MAP, TOKENS])


def residual(seed: int, scale: float = 1.0, shape: tuple[int, ...] = MAP) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def space(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], 1, *shape[2:]) if len(shape) == 4 else (shape[0], shape[1], 1)


@st.composite
def a_part(draw, shape=MAP, masked=True) -> Part:
    mask = None
    if masked and draw(st.booleans()):
        mask = torch.rand(space(shape), generator=torch.Generator().manual_seed(draw(seeds))).round(
            decimals=1
        )
    weight = draw(strengths)
    if draw(st.booleans()):
        weight = torch.tensor([weight, draw(strengths)]).view(2, *[1] * (len(shape) - 1))
    block = draw(st.sampled_from([1.0, 0.5, 2.0])) if masked else 1.0
    return Part(residual(draw(seeds), shape=shape), weight * block, mask, block)


@st.composite
def some_parts(draw, masked=True, most=5) -> list[Part]:
    shape = draw(shapes)
    return draw(st.lists(a_part(shape, masked), min_size=1, max_size=most))


def rule(mode: str) -> Rule:
    return Rule(mode, 0.3 if mode == "strongest" else 0.0)


@modes
@given(seed=seeds, scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e6]), half=st.booleans(), shape=shapes)
def test_one_control_at_strength_1_comes_out_bit_for_bit(mode, seed, scale, half, shape):
    tensor = residual(seed, scale, shape)
    tensor = tensor.half() if half else tensor
    assert torch.equal(merge([Part(tensor)], Rule(mode)), tensor)


@orderless
@given(parts=some_parts(), seed=seeds)
def test_order_matters_by_rounding_only(mode, parts, seed):
    shuffled = random.Random(seed).sample(parts, len(parts))
    torch.testing.assert_close(merge(shuffled, rule(mode)), merge(parts, rule(mode)), rtol=1e-3, atol=1e-3)


@modes
@given(parts=some_parts(most=3))
def test_nothing_that_goes_in_is_changed(mode, parts):
    before = [part.residual.clone() for part in parts]
    merge(parts, Rule(mode))
    assert all(torch.equal(part.residual, old) for part, old in zip(parts, before, strict=True))


@modes
@given(parts=some_parts(most=3), seed=seeds)
def test_a_control_with_an_empty_mask_is_as_good_as_absent(mode, parts, seed):
    shape = parts[0].residual.shape
    empty = Part(residual(seed, shape=shape), 1.0, torch.zeros(space(shape)))
    torch.testing.assert_close(merge([*parts, empty], Rule(mode)), merge(parts, Rule(mode)))


@given(parts=some_parts())
def test_the_sum_is_plain_addition(parts):
    expected = torch.stack([part.value for part in parts]).double().sum(0)
    torch.testing.assert_close(merge(parts).double(), expected, rtol=1e-5, atol=1e-4)


@given(seed=seeds, strength=st.lists(strengths, min_size=1, max_size=5))
def test_the_average_of_one_residual_at_any_strengths_is_that_residual(seed, strength):
    tensor = residual(seed)
    merged = merge([Part(tensor, s) for s in strength], Rule("average"))
    torch.testing.assert_close(merged, tensor, rtol=1e-4, atol=1e-5)


@given(parts=some_parts(masked=False))
def test_the_average_stays_between_the_residuals(parts):
    plain = torch.stack([part.residual for part in parts])
    merged = merge(parts, Rule("average"))
    assert (merged <= plain.amax(0) + 1e-4).all()
    assert (merged >= plain.amin(0) - 1e-4).all()


def test_the_average_counts_a_control_only_where_its_mask_lets_it_be():
    left = torch.zeros(1, 1, 1, 4)
    left[..., :2] = 1
    one, three = torch.ones(1, 2, 1, 4), torch.full((1, 2, 1, 4), 3.0)
    merged = merge([Part(one), Part(three, 1.0, left)], Rule("average"))
    assert merged[0, 0, 0].tolist() == [2, 2, 1, 1]
    alone = merge([Part(three, 2.0, left), Part(one, 1.0, left)], Rule("average"))
    torch.testing.assert_close(alone[0, 0, 0], torch.tensor([7 / 3, 7 / 3, 0, 0]))


@given(parts=some_parts(masked=False), seed=seeds, block=st.sampled_from([0.1, 1.0, 2.0]))
def test_the_average_of_controls_that_share_a_mask_and_block_weights_is_weighed_by_them(parts, seed, block):
    """By a feather or a grey mask too: these say where and how much, not against whom."""
    shape = parts[0].residual.shape
    mask = torch.rand(space(shape), generator=torch.Generator().manual_seed(seed))
    weighed = [part._replace(weight=part.weight * block, mask=mask, block=block) for part in parts]
    expected = merge(parts, Rule("average")) * mask * block
    torch.testing.assert_close(merge(weighed, Rule("average")), expected, rtol=1e-4, atol=1e-4)


def test_towards_a_mask_s_soft_edge_the_average_becomes_the_other_control():
    fading = torch.tensor([1.0, 0.5, 0.0]).view(1, 1, 1, 3)
    one, three = torch.ones(1, 2, 1, 3), torch.full((1, 2, 1, 3), 3.0)
    merged = merge([Part(one), Part(three, 1.0, fading)], Rule("average"))
    # Half present, it has a third of the say, and what is drawn is (1 + 1/2 * 1/2) / (1 + 1/2) present.
    middle = (1 + 0.5 * 3) / 1.5 * (1.25 / 1.5)
    torch.testing.assert_close(merged[0, 0, 0], torch.tensor([2.0, middle, 1.0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
@modes
def test_a_merge_has_the_precision_of_its_controls_and_their_last_sparks_stay_numbers(mode, masked, dtype):
    shape = (2, 4, 3, 5)
    mask = torch.linspace(0, 1, 15, dtype=dtype).view(1, 1, 3, 5) if masked else None
    for strength in (1.0, 1e-3, 1e-6, 1e-7):
        rows = torch.tensor([strength, 0.0], dtype=dtype).view(2, 1, 1, 1)
        for weight in (strength, rows):
            parts = [Part(residual(seed, shape=shape).to(dtype), weight, mask) for seed in (1, 2)]
            for some in (parts, parts[:1]):
                merged = merge(some, rule(mode))
                assert merged.dtype == dtype and merged.isfinite().all()


@given(seed=seeds, strength=st.sampled_from([1e-2, 1e-4, 1e-6]))
def test_a_control_that_fades_out_leaves_the_others_average(seed, strength):
    other = Part(residual(seed), 0.1, None, 0.1)
    nearly = merge([Part(residual(seed + 1), strength), other], Rule("average"))
    gone = merge([other], Rule("average"))
    torch.testing.assert_close(nearly, gone, rtol=0, atol=60 * strength)


@given(parts=some_parts())
def test_normalised_is_the_sum_but_no_louder_than_the_loudest(parts):
    def loudness(tensor):
        return tensor.flatten(1).pow(2).mean(1).sqrt()

    merged, total = merge(parts, Rule("normalised")), merge(parts)
    limit = torch.stack([loudness(part.value) for part in parts]).amax(0)
    assert (loudness(merged) <= limit * (1 + 1e-4) + 1e-6).all()
    quiet = loudness(total) < limit * 0.999
    torch.testing.assert_close(merged[quiet], total[quiet])
    along = torch.nn.functional.cosine_similarity(merged.flatten(1), total.flatten(1))
    assert ((along > 0.999) | (loudness(total) < 1e-6)).all()


def test_normalised_measures_half_precision_without_overflow():
    loud = torch.full((1, 4, 2, 2), 300.0, dtype=torch.float16)
    assert merge([Part(loud), Part(loud)], Rule("normalised")).unique().tolist() == [300]


@given(parts=some_parts())
def test_strongest_without_softness_takes_each_place_from_one_control(parts):
    merged = merge(parts, Rule("strongest"))
    channels = -1 if merged.ndim == 3 else 1
    values = torch.stack([part.value for part in parts])
    norms = values.norm(dim=channels if channels == -1 else channels + 1)
    best = norms.amax(0)
    torch.testing.assert_close(merged.norm(dim=channels), best)


def test_softness_leads_from_one_speaker_to_all():
    loud, soft = torch.full((1, 2, 1, 1), 3.0), torch.full((1, 2, 1, 1), -1.0)
    said = [float(merge([Part(loud), Part(soft)], Rule("strongest", s))[0, 0]) for s in (0, 0.2, 1)]
    assert said[0] == 3
    assert said[0] > said[1] > said[2]
    assert said[2] == pytest.approx(3 * 0.75 - 0.25)


@given(parts=some_parts())
def test_under_priority_no_later_control_cancels_what_an_earlier_one_says(parts):
    first = parts[0].value
    channels = -1 if first.ndim == 3 else 1
    added = merge(parts, Rule("priority")) - first
    along = (added * first).sum(channels)
    size = added.norm(dim=channels) * first.norm(dim=channels)
    # Up to five controls: the cyclic projection comes close, it need not arrive.
    assert (along >= -1e-2 * size - 1e-4).all()


@given(seed=seeds, weight=strengths)
def test_priority_takes_away_opposition_and_nothing_else(seed, weight):
    first, second = residual(seed), residual(seed + 1)
    merged = merge([Part(first), Part(second, weight)], Rule("priority"))
    agrees = ((first * second).sum(1, keepdim=True) >= 0).expand_as(first)
    torch.testing.assert_close(merged[agrees], (first + second * weight)[agrees])
    opposite = merge([Part(first), Part(-first, weight)], Rule("priority"))
    torch.testing.assert_close(opposite, first, atol=1e-4, rtol=1e-4)


def test_regions_share_what_they_both_cover_and_keep_soft_edges_towards_nothing():
    masks = [torch.tensor([1.0, 1.0, 0.5, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.5, 0.5, 0.0])]
    one, three = torch.ones(1, 2, 1, 5), torch.full((1, 2, 1, 5), 3.0)
    parts = [Part(r, 1.0, m.view(1, 1, 1, 5)) for r, m in zip((one, three), masks, strict=True)]
    assert merge(parts, Rule("regions"))[0, 0, 0].tolist() == [1, 2, 2, 1.5, 0]


@modes
@given(seed=seeds)
def test_a_row_of_weight_0_is_as_if_the_part_were_not_there(mode, seed):
    silent, speaking = residual(seed), residual(seed + 1)
    weight = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    merged = merge([Part(silent, weight), Part(speaking)], rule(mode))
    torch.testing.assert_close(merged[0], speaking[0])


@modes
def test_parts_of_weight_0_say_nothing(mode):
    assert not merge([Part(residual(seed), 0.0) for seed in (1, 2)], rule(mode)).any()


def test_an_unknown_mode_names_those_there_are():
    with pytest.raises(ControlError, match=r"'loudest'.*sum, average"):
        Rule("loudest")
    with pytest.raises(ControlError, match="softness is 2"):
        Rule("strongest", 2)


@modes
def test_residuals_of_two_bases_are_refused_with_their_shapes(mode):
    with pytest.raises(ControlError, match=r"\(1, 4, 8, 8\).*\(1, 8, 8, 8\).*same base model"):
        merge([Part(torch.zeros(1, 4, 8, 8)), Part(torch.zeros(1, 8, 8, 8))], Rule(mode))

"""The laws of merging."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cnet_core.control.merge import MODES, merge
from cnet_core.errors import ControlError

modes = pytest.mark.parametrize("mode", MODES)
strengths = st.floats(0.01, 10)
seeds = st.integers(0, 2**32)


def residual(seed: int, scale: float = 1.0, shape: tuple[int, ...] = (2, 4, 3, 5)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def weighted(seeds_and_strengths):
    return [(residual(seed) * strength, strength) for seed, strength in seeds_and_strengths]


controls = st.lists(st.tuples(seeds, strengths), min_size=1, max_size=5).map(weighted)


@modes
@given(seed=seeds, scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e6]), half=st.booleans())
def test_one_control_at_strength_1_comes_out_bit_for_bit(mode, seed, scale, half):
    tensor = residual(seed, scale)
    tensor = tensor.half() if half else tensor
    assert torch.equal(merge([(tensor, 1.0)], mode), tensor)


@modes
@given(parts=controls, seed=seeds)
def test_order_matters_by_rounding_only(mode, parts, seed):
    shuffled = random.Random(seed).sample(parts, len(parts))
    torch.testing.assert_close(merge(shuffled, mode), merge(parts, mode), rtol=1e-4, atol=1e-4)


@modes
@given(parts=controls)
def test_nothing_that_goes_in_is_changed(mode, parts):
    before = [tensor.clone() for tensor, _ in parts]
    merge(parts, mode)
    assert all(torch.equal(tensor, old) for (tensor, _), old in zip(parts, before, strict=True))


@given(parts=controls)
def test_the_sum_is_plain_addition(parts):
    expected = torch.stack([tensor for tensor, _ in parts]).double().sum(0)
    torch.testing.assert_close(merge(parts, "sum").double(), expected, rtol=1e-5, atol=1e-4)


@given(seed=seeds, strength=st.lists(strengths, min_size=1, max_size=5))
def test_the_average_of_one_residual_at_any_strengths_is_that_residual(seed, strength):
    tensor = residual(seed)
    merged = merge([(tensor * s, s) for s in strength], "average")
    torch.testing.assert_close(merged, tensor, rtol=1e-4, atol=1e-5)


@given(parts=controls, factor=st.floats(0.1, 10))
def test_the_average_heeds_only_the_ratio_of_the_strengths(parts, factor):
    scaled = [(tensor * factor, strength * factor) for tensor, strength in parts]
    torch.testing.assert_close(merge(scaled, "average"), merge(parts, "average"), rtol=1e-4, atol=1e-4)


@given(seeds=st.lists(st.tuples(seeds, strengths), min_size=1, max_size=5))
def test_the_average_stays_between_the_residuals(seeds):
    plain = torch.stack([residual(seed) for seed, _ in seeds])
    merged = merge(weighted(seeds), "average")
    assert (merged <= plain.amax(0) + 1e-5).all()
    assert (merged >= plain.amin(0) - 1e-5).all()


def test_an_unknown_mode_names_those_there_are():
    with pytest.raises(ControlError, match=r"'loudest'.*sum, average"):
        merge([(residual(0), 1.0)], "loudest")


@modes
def test_residuals_of_two_bases_are_refused_with_their_shapes(mode):
    with pytest.raises(ControlError, match=r"\(1, 4, 8, 8\).*\(1, 8, 8, 8\).*same base model"):
        merge([(torch.zeros(1, 4, 8, 8), 1.0), (torch.zeros(1, 8, 8, 8), 1.0)], mode)

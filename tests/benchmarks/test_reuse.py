"""The figures of what a control computed at some steps only does to pictures."""

import pytest
import torch

from benchmarks.pictures import psnr
from benchmarks.reuse import error


def test_the_error_is_that_of_the_mean():
    assert error([1.0, 3.0]) == pytest.approx(1.0)
    assert error([1.0, 3.0] * 8) == pytest.approx((16 / 15 / 16) ** 0.5)


def test_psnr_of_equal_pictures_and_of_those_a_tenth_apart():
    exact = torch.zeros(2, 4, 4, 3)
    drawn = exact + torch.tensor([0.0, 0.1]).view(2, 1, 1, 1)
    assert psnr(drawn, exact) == pytest.approx([120, 20], abs=1e-3)

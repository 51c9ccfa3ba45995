"""Strength and range: what is accepted, and when a control acts."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cnet_core.control.timing import Timing, active
from cnet_core.errors import ControlError

fractions = st.floats(0, 1)


@given(strength=st.floats(0, 1e6), ends=st.tuples(fractions, fractions))
def test_every_sensible_setting_is_accepted(strength, ends):
    timing = Timing(strength, min(ends), max(ends))
    assert timing.absent == (strength == 0)


def test_the_defaults_are_as_trained_and_all_the_time():
    assert Timing() == Timing(1.0, 0.0, 1.0)


@pytest.mark.parametrize("strength", [-0.01, -1.0, math.inf, -math.inf, math.nan])
def test_strengths_that_mean_nothing_are_refused(strength):
    with pytest.raises(ControlError, match=f"strength is {strength}"):
        Timing(strength)


@given(start=st.floats(allow_nan=True), end=st.floats(allow_nan=True))
def test_ranges_outside_0_to_1_are_refused(start, end):
    assume(not (0 <= start <= 1 and 0 <= end <= 1))
    with pytest.raises(ControlError, match=r"leaves 0\.\.1"):
        Timing(1.0, start, end)


@given(start=fractions, end=fractions)
def test_a_range_that_ends_before_it_starts_is_refused(start, end):
    assume(start > end)
    with pytest.raises(ControlError, match="swap"):
        Timing(1.0, start, end)


@given(sigma=st.floats(0, 1000), ends=st.tuples(st.floats(0, 1000), st.floats(0, 1000)))
def test_active_means_within_the_range_ends_included(sigma, ends):
    high, low = max(ends), min(ends)
    assert active(sigma, (high, low)) == (low <= sigma <= high)
    assert active(high, (high, low)) and active(low, (high, low))

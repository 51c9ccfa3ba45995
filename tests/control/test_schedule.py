"""Strength over time and from frame to frame."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnet_core.control.schedule import INTERPOLATIONS, Clock, Keyframe, Keyframes, Schedule
from cnet_core.errors import ControlError


def keyframes(*points):
    return Keyframes(tuple(Keyframe(*point) for point in points))


@pytest.mark.parametrize("how", INTERPOLATIONS)
def test_keyframes_are_met_exactly_and_hold_at_both_ends(how):
    over_time = keyframes((0.2, 1.0, how), (0.5, 0.4, how), (0.8, 2.0, how))
    assert [over_time(p) for p in (0, 0.2, 0.5, 0.8, 1)] == [1.0, 1.0, 0.4, 2.0, 2.0]


def test_between_keyframes_the_first_one_says_how():
    assert keyframes((0, 1), (1, 0))(0.25) == 0.75
    assert keyframes((0, 1, "hold"), (1, 0))(0.99) == 1
    smooth = keyframes((0, 0, "smooth"), (1, 1))
    assert smooth(0.5) == 0.5 and smooth(0.1) < 0.1 and smooth(0.9) > 0.9


@given(percent=st.floats(0, 1), how=st.sampled_from(list(INTERPOLATIONS)))
def test_between_two_keyframes_no_strength_leaves_their_range(percent, how):
    assert 0.3 <= keyframes((0.1, 0.3, how), (0.9, 0.7, how))(percent) <= 0.7


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([], "at least one"),
        ([(0.5, 1), (0.2, 1)], "0.2 comes after the one at 0.5"),
        ([(0.5, 1), (0.5, 2)], "order of time"),
        ([(1.5, 1)], "percent 1.5"),
        ([(0.5, -1)], "strength -1"),
        ([(0.5, float("nan"))], "strength nan"),
        ([(0.5, 1, "bouncy")], "'bouncy'.*linear"),
    ],
)
def test_wrong_keyframes_are_refused(points, message):
    with pytest.raises(ControlError, match=message):
        keyframes(*points)


def test_a_schedule_multiplies_time_by_frame_and_the_last_frame_holds():
    schedule = Schedule(lambda percent: 1 - percent, (1.0, 0.5))
    assert schedule.at(0.25) == 0.75
    assert [schedule.of_frame(i) for i in range(4)] == [1.0, 0.5, 0.5, 0.5]
    assert Schedule(lambda percent: -1.0).at(0.5) == 0
    assert Schedule().at(0.3) == Schedule().of_frame(7) == 1


def test_a_wrong_frame_is_named():
    with pytest.raises(ControlError, match="frame 1 is -2"):
        Schedule(over_frames=(1.0, -2.0))


@given(percent=st.floats(0, 1))
def test_the_clock_finds_the_time_of_a_noise_level(percent):
    def sigma_at(p):
        return 1e9 if p <= 0 else 0.0 if p >= 1 else 14.6 * (1 - p) ** 3 + 0.03 * (1 - p)

    clock = Clock.of(sigma_at)
    sigma = min(sigma_at(percent), 14.63)
    assert clock.percent(sigma) == pytest.approx(percent, abs=2e-3)
    assert clock.percent(1e6) == 0
    assert clock.percent(-1.0) == 1

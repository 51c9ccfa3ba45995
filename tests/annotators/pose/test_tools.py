"""Merge, keep, transform and smooth: their laws."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from annotators.errors import PoseError
from annotators.pose.keypoints import BODY, FACE, L_WRIST, LEFT_HAND, R_WRIST, RIGHT_HAND, Frame
from annotators.pose.smooth import smooth, tracks
from annotators.pose.tools import Change, Keep, keep, merge, numbers, transform

from .people import frame_lists, random_people

SIZE = (320, 240)


def near(found: list[Frame], expected: list[Frame]) -> bool:
    return all(
        (one.width, one.height) == (other.width, other.height) and np.allclose(one.people, other.people)
        for one, other in zip(found, expected, strict=True)
    )


def single(seed: int = 0, count: int = 1) -> Frame:
    return Frame(*SIZE, random_people(seed, count, *SIZE, missing=0.2))


# Merge


@given(frames=frame_lists())
def test_one_pose_merged_is_itself(frames):
    assert near(merge([frames]), frames)


@given(first=frame_lists(SIZE), second=frame_lists(SIZE), third=frame_lists(SIZE))
def test_merging_keeps_the_order_and_may_be_done_in_steps(first, second, third):
    length = min(len(one) for one in (first, second, third))
    first, second, third = first[:length], second[:length], third[:length]
    merged = merge([first, second, third])
    for frame, *parts in zip(merged, first, second, third, strict=True):
        assert np.allclose(frame.people, np.concatenate([part.people for part in parts]))
    assert near(merge([merge([first, second]), third]), merged)


def test_a_single_frame_is_merged_into_all():
    many = [single(i) for i in range(3)]
    merged = merge([many, [single(7)]])
    assert [len(frame.people) for frame in merged] == [2, 2, 2]
    assert len(merge([[single(7)], many])) == 3


def test_frames_must_be_as_many():
    with pytest.raises(PoseError, match="2, 3, 1 frames"):
        merge([[single()] * 2, [single()] * 3, [single()]])


def test_another_canvas_is_fitted_to_the_first():
    small = Frame(32, 24, random_people(3, 1, 32, 24))
    (merged,) = merge([[single()], [small]])
    assert (merged.width, merged.height) == SIZE
    seen = small.people[0, :, 2] > 0
    assert np.allclose(merged.people[1, seen, :2], (small.people[0, seen, :2] + 0.5) * 10 - 0.5)


# Keep


@given(frames=frame_lists())
def test_all_are_kept_by_default(frames):
    assert keep(frames, Keep()) == frames


def test_points_and_people_of_low_scores_go():
    frame = single(count=2)
    frame.people[1, :, 2] *= 0.2
    (kept,) = keep([frame], Keep(point_score=0.1))
    assert (kept.people[..., 2][kept.people[..., 2] > 0] >= 0.1).all()
    (kept,) = keep([frame], Keep(person_score=0.3))
    assert np.array_equal(kept.people, frame.people[:1])


def sized(*heights: float) -> Frame:
    """People of these heights, side by side."""
    people = np.zeros((len(heights), 136, 3))
    for i, (person, height) in enumerate(zip(people, heights, strict=True)):
        person[0], person[1] = (40 * i + 5, 10, 1), (40 * i + 25, 10 + height, 1)
    return Frame(*SIZE, people)


def test_the_largest_are_kept_in_their_order():
    frame = sized(50, 90, 20, 70)
    (kept,) = keep([frame], Keep(largest=2))
    assert np.array_equal(kept.people, frame.people[[1, 3]])
    (kept,) = keep([frame], Keep(size=60 / 240))
    assert np.array_equal(kept.people, frame.people[[1, 3]])


def test_people_are_kept_by_number():
    frame = sized(50, 90, 20, 70)
    (kept,) = keep([frame], Keep(people=numbers("3, 0-1, 9")))
    assert np.array_equal(kept.people, frame.people[[0, 1, 3]])


def test_a_region_keeps_who_stands_in_it():
    frame = sized(50, 90, 20, 70)
    region = np.zeros((1, 6, 8), bool)
    region[..., 2:] = True  # from 80 pixels on
    (kept,) = keep([frame], Keep(region=region))
    assert np.array_equal(kept.people, frame.people[2:])
    first, second = keep([frame, frame], Keep(region=np.concatenate([region, ~region])))
    assert len(first.people) == len(second.people) == 2
    with pytest.raises(PoseError, match="3 masks for 2 frames"):
        keep([frame, frame], Keep(region=np.zeros((3, 6, 8), bool)))


def test_parts_are_taken_off():
    (kept,) = keep([single()], Keep(without=("left hand", "face", "nose")))
    assert (
        not kept.people[0, LEFT_HAND].any() and not kept.people[0, FACE].any() and not kept.people[0, 0].any()
    )
    assert kept.people[0, RIGHT_HAND, 2].any()
    with pytest.raises(PoseError, match="'tail' is no part"):
        keep([single()], Keep(without=("tail",)))


@pytest.mark.parametrize("text", ["a", "1-", "-1", "5-2", "0-99999999", "1.5"])
def test_lists_of_numbers_are_checked(text):
    with pytest.raises(PoseError):
        numbers(text)


def test_an_empty_list_of_numbers_is_all():
    assert numbers(" , ") is None
    assert numbers("2,4-6 9") == {2, 4, 5, 6, 9}


# Transform


@given(frames=frame_lists())
def test_nothing_is_changed_by_default(frames):
    assert transform(frames, Change()) == frames


@given(frames=frame_lists())
def test_flipped_twice_is_as_before(frames):
    assert near(transform(transform(frames, Change(flip=True)), Change(flip=True)), frames)


def test_a_flip_swaps_the_sides():
    frame = single()
    frame.people[0, [R_WRIST, L_WRIST]] = (10, 20, 0.5), (70, 30, 0.7)
    frame.people[0, RIGHT_HAND] = (12, 22, 0.9)
    (flipped,) = transform([frame], Change(flip=True))
    assert np.array_equal(flipped.people[0, [R_WRIST, L_WRIST]], [(249, 30, 0.7), (309, 20, 0.5)])
    assert np.array_equal(flipped.people[0, LEFT_HAND], np.tile((307, 22, 0.9), (21, 1)))


def test_a_face_that_is_its_own_mirror_image_stays():
    """A jaw that goes from the picture's left to its right still does so in the mirror."""
    frame = single()
    jaw = np.stack([np.linspace(100, 219, 17), np.full(17, 50.0), np.ones(17)], 1)
    frame.people[0, FACE] = 0
    frame.people[0, FACE][:17] = jaw
    (flipped,) = transform([frame], Change(flip=True))
    assert np.allclose(flipped.people[0, FACE][:17], jaw)


@given(
    frames=frame_lists(),
    scale=st.floats(0.1, 10),
    degrees=st.floats(-360, 360),
    x=st.floats(-500, 500),
    y=st.floats(-500, 500),
    pivot=st.sampled_from(["person", "canvas"]),
)
def test_scaled_and_moved_there_and_back(frames, scale, degrees, x, y, pivot):
    moved = transform(frames, Change(move_x=x, move_y=y))
    assert near(transform(moved, Change(move_x=-x, move_y=-y)), frames)
    scaled = transform(frames, Change(scale=scale, pivot=pivot))
    assert near(transform(scaled, Change(scale=1 / scale, pivot=pivot)), frames)
    turned = transform(frames, Change(degrees=degrees, pivot="canvas"))
    assert near(transform(turned, Change(degrees=-degrees, pivot="canvas")), frames)


def test_a_quarter_turn_is_clockwise():
    frame = sized(50)
    (turned,) = transform([frame], Change(degrees=90, pivot="canvas"))
    middle = (np.array(SIZE) - 1) / 2
    before = frame.people[0, 0, :2] - middle
    assert np.allclose(turned.people[0, 0, :2] - middle, (-before[1], before[0]))


def test_only_the_chosen_people_and_parts_move():
    frame = single(count=2)
    (moved,) = transform([frame], Change(move_x=5, people=frozenset({1}), parts=("left wrist", "left hand")))
    changed = np.argwhere((moved.people != frame.people).any(-1))
    seen = {
        (1, point)
        for point in (L_WRIST, *range(LEFT_HAND.start, LEFT_HAND.stop))
        if frame.people[1, point, 2]
    }
    assert {tuple(place) for place in changed.tolist()} == seen
    assert np.allclose(moved.people[1, L_WRIST], frame.people[1, L_WRIST] + [5, 0, 0])


def test_impossible_changes_are_refused():
    with pytest.raises(PoseError, match="scale is 0"):
        transform([single()], Change(scale=0))
    with pytest.raises(PoseError, match="whole people"):
        transform([single()], Change(flip=True, parts=("nose",)))


# Smooth


@given(frames=frame_lists(SIZE), window=st.sampled_from([1, 3, 5, 9]), gap=st.integers(0, 3))
def test_a_still_pose_is_smooth(frames, window, gap):
    still = [frames[0]] * 7
    assert smooth(still, window, gap) == still


@given(frames=frame_lists(), gap=st.integers(0, 3))
def test_a_window_of_one_frame_changes_nothing(frames, gap):
    assume(len({(frame.width, frame.height) for frame in frames}) == 1)
    assert smooth(frames, 1, 0) == frames


@given(seed=st.integers(0, 99), window=st.sampled_from([3, 5, 9]))
def test_steady_motion_stays_as_it_is(seed, window):
    start = random_people(seed, 2, *SIZE)
    moving = [Frame(*SIZE, start + np.where(start[..., 2:] > 0, (3.0 * t, -2.0 * t, 0), 0)) for t in range(8)]
    assert near(smooth(moving, window), moving)


def shaken(seed: int, count: int = 40) -> tuple[np.ndarray, list[Frame]]:
    """A person that stands, and the frames of an annotator that sees it with an error of 3 pixels."""
    rng = np.random.default_rng(seed)
    person = random_people(seed, 1, *SIZE, missing=0)
    noise = rng.normal(0, 3, (count, 1, 136, 2))
    return person, [Frame(*SIZE, np.concatenate([person[..., :2] + n, person[..., 2:]], -1)) for n in noise]


def test_trembling_is_less():
    person, frames = shaken(1)
    errors = {
        window: np.std([frame.people[0, :, :2] - person[0, :, :2] for frame in smooth(frames, window)])
        for window in (1, 3, 7)
    }
    assert errors[3] < 0.7 * errors[1] and errors[7] < 0.55 * errors[1]


def test_people_who_change_places_in_the_list_are_still_themselves():
    a, b = sized(60).people[0], sized(60).people[0] + np.where(sized(60).people[0, :, 2:] > 0, (120, 0, 0), 0)
    frames = [Frame(*SIZE, np.stack([a, b] if t % 2 else [b, a])) for t in range(6)]
    assert smooth(frames, 5) == frames
    assert len(tracks(frames)) == 2


def test_nobody_is_exchanged_when_one_goes_as_another_comes():
    """The one who stays moves by a few pixels, though that leaves the other two no near partner."""

    def body(x: float) -> np.ndarray:
        person = np.zeros((136, 3))
        person[:18, 0], person[:18, 1], person[:18, 2] = (
            x + 50 * np.cos(range(18)),
            np.linspace(90, 390, 18),
            1,
        )
        return person

    people = [(400, 520), (400, 520), (403, 283), (403, 283), (403, 283)]
    frames = [Frame(1024, 512, np.stack([body(x) for x in frame])) for frame in people]
    assert sorted(len(track.places) for track in tracks(frames)) == [2, 3, 5]


def test_short_gaps_are_filled_on_the_line_between():
    start = random_people(5, 1, *SIZE, missing=0)
    moving = [Frame(*SIZE, start + np.array([4.0 * t, 0, 0])) for t in range(7)]
    holes = [frame.with_people(frame.people.copy()) for frame in moving]
    holes[2].people[0, L_WRIST] = holes[3].people[0, L_WRIST] = 0.0
    holes[5] = holes[5].with_people([])
    assert near(smooth(holes, 1, gap=2), moving)
    assert not smooth(holes, 1, gap=1)[2].people[0, L_WRIST].any()
    assert len(smooth(holes, 3, gap=0)[5].people) == 0


def test_no_points_are_made_beyond_the_ends():
    frames = [Frame(*SIZE, np.zeros((0, 136, 3))), single(), Frame(*SIZE, np.zeros((0, 136, 3)))]
    assert smooth(frames, 5, gap=5) == frames


def test_wrong_windows_and_canvases_are_refused():
    with pytest.raises(PoseError, match="window is 4"):
        smooth([single()], 4)
    with pytest.raises(PoseError, match="different sizes"):
        smooth([single(), Frame(9, 9, np.zeros((0, 136, 3)))])


def test_the_body_decides_the_score_of_a_person():
    frame = single()
    frame.people[0, BODY, 2] = 0.2
    frame.people[0, BODY.stop :, 2] = 0.9
    assert not len(keep([frame], Keep(person_score=0.3))[0].people)
    frame.people[0, BODY] = 0
    assert len(keep([frame], Keep(person_score=0.3))[0].people)

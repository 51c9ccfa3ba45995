"""POSE_KEYPOINT: what is written is read back, what others write is understood, the rest refused."""

import contextlib
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotators.errors import PoseError
from annotators.pose import keypoints
from annotators.pose.keypoints import BODY, FACE, FEET, KEYS, LEFT_HAND, Frame, parse, read, write

from .people import frame_lists, random_people


@given(frames=frame_lists())
def test_what_is_written_is_read_back(frames):
    assert parse(write(frames)) == frames
    assert parse(json.dumps(write(frames))) == frames


@given(frames=frame_lists())
def test_a_file_is_read_back(frames, tmp_path_factory):
    path = tmp_path_factory.mktemp("pose") / "pose.json"
    path.write_text(json.dumps(write(frames)))
    assert read(path) == frames


@given(frames=frame_lists())
def test_shares_of_the_canvas_are_pixels(frames):
    shares = [Frame(f.width, f.height, f.people / (f.width, f.height, 1)) for f in frames]
    for found, frame in zip(parse(write(shares)), frames, strict=True):
        assert np.allclose(found.people, frame.people)


def written(seed: int = 0, **parts) -> dict:
    """A frame of one person, some of its parts replaced."""
    (frame,) = write([Frame(64, 48, random_people(seed, 1, 64, 48, missing=0))])
    frame["people"][0].update(parts)
    return frame


def test_every_part_is_written_in_full_but_feet_that_nobody_saw():
    people = np.zeros((1, 136, 3))
    people[0, 0] = 30, 20, 0.5
    (frame,) = write([Frame(64, 48, people)])
    lengths = {key: len(values) // 3 for key, values in frame["people"][0].items()}
    assert lengths == {
        "pose_keypoints_2d": 18, "face_keypoints_2d": 70, "hand_left_keypoints_2d": 21,
        "hand_right_keypoints_2d": 21,
    }  # fmt: skip
    assert "foot_keypoints_2d" in written()["people"][0]
    json.dumps(frame, allow_nan=False)


def test_one_frame_is_a_list_of_one():
    assert parse(written()) == parse([written()])


@pytest.mark.parametrize("nothing", [None, [], ()])
def test_a_part_may_be_missing(nothing):
    (frame,) = parse(written(hand_left_keypoints_2d=nothing))
    assert not frame.people[0, LEFT_HAND].any()
    assert frame.people[0, BODY, 2].all()


def test_who_is_not_seen_is_no_person():
    (frame,) = parse({"canvas_width": 9, "canvas_height": 9, "people": [{}, {"pose_keypoints_2d": [0] * 54}]})
    assert frame.people.shape == (0, 136, 3)


def test_body_25_brings_the_feet():
    body = np.arange(75.0).reshape(25, 3)
    body[:, 2] = np.linspace(0.1, 1, 25)
    (frame,) = parse(
        {"canvas_width": 99, "canvas_height": 99, "people": [{"pose_keypoints_2d": body.ravel().tolist()}]}
    )
    middle_of_the_hips = 8
    expected = np.delete(body, middle_of_the_hips, 0)
    assert np.array_equal(frame.people[0, BODY.start : FEET.stop], expected)


def test_faces_come_with_pupils_or_without():
    points = np.tile([30.0, 20, 1], 68).tolist()
    (frame,) = parse(written(face_keypoints_2d=points))
    assert frame.people[0, FACE][:68, 2].all() and not frame.people[0, FACE][68:].any()


def test_triples_may_be_lists():
    flat = written()
    nested = json.loads(json.dumps(flat))
    for person in nested["people"]:
        for key, values in person.items():
            person[key] = np.reshape(values, (-1, 3)).tolist()
    assert parse(nested) == parse(flat)


def test_scores_are_cut_to_their_range_and_what_has_none_is_unseen():
    body = [30, 20, 1.7, 5, 6, -0.2, 7, 8, 0.0] + [0] * 45
    (frame,) = parse(written(pose_keypoints_2d=body))
    assert frame.people[0, :3].tolist() == [[30, 20, 1], [0, 0, 0], [0, 0, 0]]


def test_openpose_itself_names_no_canvas():
    frame = {"version": 1.3, "people": written()["people"]}
    with pytest.raises(PoseError, match="frame 0: canvas_width is missing"):
        parse(frame)
    (found,) = parse(frame, size=(640, 480))
    assert (found.width, found.height) == (640, 480)
    (own,) = parse(written(), size=(640, 480))
    assert (own.width, own.height) == (64, 48)


@pytest.mark.parametrize("nested", [False, True])
def test_editors_of_bodies_write_points_without_scores(nested):
    people = [[[10 * p + i, 2 * i] for i in range(18)] for p in range(2)]
    people[1][3] = None
    points = people if nested else [*people[0], *people[1]]
    (frame,) = parse({"width": 64, "height": 48, "keypoints": points})
    assert (frame.width, frame.height) == (64, 48) and frame.people.shape == (2, 136, 3)
    assert frame.people[1, 4].tolist() == [14, 8, 1] and not frame.people[1, 3].any()


WRONG = {
    "frame 0 has a number (3) as keypoints": {"width": 9, "height": 9, "keypoints": 3},
    "person 1 of keypoints: expected 18 points": {"width": 9, "height": 9, "keypoints": [[1, 2]] * 19},
    "person 0 of keypoints: expected 18 points": {"width": 9, "height": 9, "keypoints": [[[1, 2]] * 17]},
    "frame 0 is a number": [3],
    "frame 1 is nothing": [written(), None],
    "empty list": [],
    "frame 0 has nothing as people": {"canvas_width": 9, "canvas_height": 9},
    "frame 0, person 0 is a text": {"canvas_width": 9, "canvas_height": 9, "people": ["me"]},
    "canvas_width is 0;": {"canvas_width": 0, "canvas_height": 9, "people": []},
    "canvas_width is 9.5": {"canvas_width": 9.5, "canvas_height": 9, "people": []},
    "canvas_height is '9'": {"canvas_width": 9, "canvas_height": "9", "people": []},
    "canvas_height is 1000000": {"canvas_width": 9, "canvas_height": 1000000, "people": []},
    "canvas_height is nan": {"canvas_width": 9, "canvas_height": float("nan"), "people": []},
    "pose_keypoints_2d has 17 points; expected 18 or 25": written(pose_keypoints_2d=[1] * 51),
    "hand_left_keypoints_2d has 20 points; expected 21.": written(hand_left_keypoints_2d=[1] * 60),
    "pose_keypoints_2d has 53 numbers": written(pose_keypoints_2d=[1] * 53),
    "pose_keypoints_2d is a text": written(pose_keypoints_2d="none"),
    "point 1: y is a text": written(pose_keypoints_2d=[1, 2, 1, 3, "4"] + [0] * 49),
    "point 0: x is nan": written(pose_keypoints_2d=[float("nan")] * 54),
    "point 2: x is 1000000": written(pose_keypoints_2d=[0] * 6 + [10**6] + [0] * 47),
    "point 0: score is true or false": written(pose_keypoints_2d=[1, 1, True] * 18),
    "point 0: x is 1000000000": written(pose_keypoints_2d=[10**400] + [0] * 53),
    "no JSON": "{people",
    "no JSON: maximum recursion": "[" * 100_000,
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_wrong_is_named(message):
    with pytest.raises(PoseError, match=re.escape(message)):
        parse(WRONG[message])


_NAMES = ["people", "canvas_width", "width", "keypoints", *KEYS]


@settings(max_examples=40)
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(_NAMES), inner),
    )
)
def test_anything_is_either_read_or_refused(value):  # fmt: skip
    with contextlib.suppress(PoseError):
        parse(value)


def test_there_is_a_limit_to_everything(monkeypatch, tmp_path):
    for name, limit in (("MOST_FRAMES", 1), ("MOST_PEOPLE", 1), ("LARGEST_FILE", 100)):
        with monkeypatch.context() as patch:
            patch.setattr(keypoints, name, limit)
            with pytest.raises(PoseError, match=r"at most|more than"):
                parse(json.dumps([written(), written()]))
    with pytest.raises(PoseError, match=r"gone\.json cannot be read"):
        read(tmp_path / "gone.json")
    (tmp_path / "bad.json").write_bytes(b"\xff\xfe")
    with pytest.raises(PoseError, match=r"bad\.json: the keypoints are no JSON"):
        read(tmp_path / "bad.json")

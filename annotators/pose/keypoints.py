"""Poses as everybody exchanges them, OpenPose's JSON, and as these modules compute with them, in arrays.

A person is an array [136,3] of x, y in pixels (the centre of the first pixel is 0, 0) and a score in 0..1. A
point that was not seen is 0, 0, 0. Rows: 18 body points in OpenPose's BODY_18 order, 6 of the feet, 70 of the
face, 21 of each hand. "Left" is the person's own left.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PoseError

BODY, FEET, FACE = slice(0, 18), slice(18, 24), slice(24, 94)
LEFT_HAND, RIGHT_HAND = slice(94, 115), slice(115, 136)
POINTS = 136

NOSE, NECK = 0, 1
R_SHOULDER, R_ELBOW, R_WRIST, L_SHOULDER, L_ELBOW, L_WRIST = range(2, 8)
R_HIP, R_KNEE, R_ANKLE, L_HIP, L_KNEE, L_ANKLE = range(8, 14)
R_EYE, L_EYE, R_EAR, L_EAR = range(14, 18)

# What nodes call the parts of a person.
_SIDED = ("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle")
PARTS: dict[str, list[int]] = {
    "nose": [NOSE],
    "neck": [NECK],
    **{f"right {name}": [R_SHOULDER + i] for i, name in enumerate(_SIDED[0])},
    **{f"left {name}": [L_SHOULDER + i] for i, name in enumerate(_SIDED[0])},
    **{f"right {name}": [R_HIP + i] for i, name in enumerate(_SIDED[1])},
    **{f"left {name}": [L_HIP + i] for i, name in enumerate(_SIDED[1])},
    "right eye": [R_EYE],
    "left eye": [L_EYE],
    "right ear": [R_EAR],
    "left ear": [L_EAR],
    "feet": [*range(18, 24)],
    "face": [*range(24, 94)],
    "left hand": [*range(94, 115)],
    "right hand": [*range(115, 136)],
}

# The keys of a person in OpenPose's JSON. Hosts write the feet of BODY_25 as a part of their own.
KEYS = {
    "pose_keypoints_2d": BODY,
    "foot_keypoints_2d": FEET,
    "face_keypoints_2d": FACE,
    "hand_left_keypoints_2d": LEFT_HAND,
    "hand_right_keypoints_2d": RIGHT_HAND,
}
# BODY_25 has a point between the hips, which BODY_18 lacks, and the feet at its end.
_BODY_25 = [*range(8), *range(9, 25)]
# Faces come with the pupils, 70 points, or without.
_OTHER_LENGTHS = {"pose_keypoints_2d": 25, "face_keypoints_2d": 68}

LARGEST_SIDE = 16384
LARGEST_COORDINATE = 1e5
MOST_FRAMES = 100_000
MOST_PEOPLE = 100_000
LARGEST_FILE = 64 * 2**20


@dataclass(frozen=True, eq=False)
class Frame:
    """The poses in one picture: its size in pixels, and people [P,136,3], as at the top of this file."""

    width: int
    height: int
    people: np.ndarray

    def with_people(self, people: np.ndarray | Sequence[np.ndarray]) -> "Frame":
        """The same picture with other people in it; those of whom nothing is seen are left out."""
        return Frame(self.width, self.height, stacked(people))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Frame)
            and (self.width, self.height) == (other.width, other.height)
            and np.array_equal(self.people, other.people)
        )


def stacked(people: np.ndarray | Iterable[np.ndarray]) -> np.ndarray:
    """People [P,136,3] with every unseen point at 0, 0, 0, without those of whom nothing is seen."""
    seen = [np.where(person[:, 2:] > 0, person, 0.0) for person in people if (person[:, 2] > 0).any()]
    return np.stack(seen) if seen else np.zeros((0, POINTS, 3))


def parse(value: Any, size: tuple[int, int] | None = None) -> list[Frame]:
    """The frames in a POSE_KEYPOINT: one frame or a list of them, as objects or as JSON text.

    A frame is {"canvas_width", "canvas_height", "people": [...]}, a person has lists of x, y, score as in
    `KEYS`; a part may be absent, null or empty. Bodies have the 18 points of BODY_18 or the 25 of BODY_25,
    faces 68 or 70. Editors of bodies alone write {"width", "height", "keypoints": [[x, y], ...]}, 18 for each
    person, or a list of these for each. Coordinates are in pixels or, if all of them are, in shares of the
    canvas; scores are cut to 0..1.
    size: (width, height) of frames that name no canvas, as those that OpenPose itself writes.
    Raises PoseError, naming frame, person and point, for anything else.
    """
    if isinstance(value, str | bytes | bytearray):
        value = _decoded(value)
    frames = value if isinstance(value, list | tuple) else [value]
    if not frames:
        raise PoseError(
            "the keypoints are an empty list; expected at least one frame, though without people."
        )
    if len(frames) > MOST_FRAMES:
        raise PoseError(f"the keypoints have {len(frames)} frames; at most {MOST_FRAMES} are read.")
    parsed, people = [], 0
    for number, frame in enumerate(frames):
        parsed.append(_frame(frame, f"frame {number}", size))
        people += len(parsed[-1].people)
        if people > MOST_PEOPLE:
            raise PoseError(f"the keypoints have more than {MOST_PEOPLE} people; split them.")
    return [_in_pixels(frame) for frame in parsed] if _are_shares(parsed) else parsed


def read(path: Path, size: tuple[int, int] | None = None) -> list[Frame]:
    """The frames in a JSON file; see `parse`. Raises PoseError with the file's name."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise PoseError(f"it has {path.stat().st_size >> 20} MiB; at most {LARGEST_FILE >> 20} are read.")
        return parse(path.read_bytes(), size)
    except OSError as error:
        raise PoseError(f"{path.name} cannot be read: {error.strerror}.") from error
    except PoseError as error:
        raise PoseError(f"{path.name}: {error}") from error


def write(frames: Sequence[Frame]) -> list[dict[str, Any]]:
    """POSE_KEYPOINT of frames, in pixels. All parts are there, unseen ones as zeros, since readers want them;
    only the feet, which OpenPose's format lacks, are left out where none is seen."""
    return [
        {
            "people": [_person_dict(person) for person in frame.people],
            "canvas_width": frame.width,
            "canvas_height": frame.height,
        }
        for frame in frames
    ]


def _person_dict(person: np.ndarray) -> dict[str, list[float]]:
    seen = person[:, 2] > 0
    return {
        key: person[part].ravel().tolist() for key, part in KEYS.items() if part != FEET or seen[part].any()
    }


def _decoded(text: str | bytes | bytearray) -> Any:
    if len(text) > LARGEST_FILE:
        raise PoseError(f"the keypoints have {len(text) >> 20} MiB; at most {LARGEST_FILE >> 20} are read.")
    try:
        return json.loads(text if isinstance(text, str) else text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise PoseError(f"the keypoints are no JSON: {error}.") from error


def _frame(frame: Any, where: str, size: tuple[int, int] | None) -> Frame:
    if not isinstance(frame, dict):
        raise PoseError(f"{where} is {_kind(frame)}; expected an object with people and the canvas' size.")
    if "people" not in frame and "keypoints" in frame:
        frame = _of_an_editor(frame, where)
    people = frame.get("people")
    if not isinstance(people, list | tuple):
        raise PoseError(
            f"{where} has {_kind(people)} as people; expected a list of persons with pose_keypoints_2d."
        )
    if len(people) > MOST_PEOPLE:
        raise PoseError(f"{where} has {len(people)} people; at most {MOST_PEOPLE} are read.")
    width, height = (
        _side(frame.get(f"canvas_{name}"), f"{where}: canvas_{name}", given)
        for name, given in zip(("width", "height"), size or (None, None), strict=True)
    )
    return Frame(width, height, stacked(_person(one, f"{where}, person {i}") for i, one in enumerate(people)))


def _of_an_editor(frame: dict[str, Any], where: str) -> dict[str, Any]:
    """A frame of bodies alone, without scores, in the form of all others."""
    points, whole = frame["keypoints"], BODY.stop
    if not isinstance(points, list):
        raise PoseError(f"{where} has {_kind(points)} as keypoints; expected a list of points x, y.")

    def is_point(value: Any) -> bool:
        return value is None or (isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)))

    people = points
    if all(map(is_point, points)):
        people = [points[start : start + whole] for start in range(0, len(points), whole)]
    for i, person in enumerate(people):
        if not (isinstance(person, list) and len(person) == whole and all(map(is_point, person))):
            raise PoseError(f"{where}, person {i} of keypoints: expected {whole} points x, y.")
    return {
        "canvas_width": frame.get("width"),
        "canvas_height": frame.get("height"),
        "people": [
            {"pose_keypoints_2d": [[0, 0, 0] if point is None else [*point, 1] for point in person]}
            for person in people
        ],
    }


def _side(value: Any, where: str, given: int | None) -> int:
    if value is None and given:
        value = given
    if value is None:
        raise PoseError(f"{where} is missing; say how large the picture was, its width and its height.")
    if not _is_number(value) or not 1 <= value <= LARGEST_SIDE:
        raise PoseError(f"{where} is {value!r}; expected a whole number from 1 to {LARGEST_SIDE}.")
    if value != int(value):
        raise PoseError(f"{where} is {value!r}; expected a whole number.")
    return int(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _person(person: Any, where: str) -> np.ndarray:
    if not isinstance(person, dict):
        raise PoseError(f"{where} is {_kind(person)}; expected an object with pose_keypoints_2d.")
    points = np.zeros((POINTS, 3))
    for key, part in KEYS.items():
        found = _triples(person.get(key), f"{where}, {key}")
        whole = part.stop - part.start
        if key == "pose_keypoints_2d" and len(found) == 25:
            points[BODY.start : FEET.stop] = found[_BODY_25]
        elif len(found) in (0, whole, _OTHER_LENGTHS.get(key)):
            points[part][: len(found)] = found
        else:
            also = f" or {_OTHER_LENGTHS[key]}" if key in _OTHER_LENGTHS else ""
            raise PoseError(f"{where}, {key} has {len(found)} points; expected {whole}{also}.")
    points[:, 2] = points[:, 2].clip(0.0, 1.0)
    return points


def _triples(values: Any, where: str) -> np.ndarray:
    """[N,3] of a flat list of x, y, score, or of a list of such triples; [0,3] of None."""
    if values is None:
        return np.zeros((0, 3))
    if not isinstance(values, list | tuple | np.ndarray):
        raise PoseError(f"{where} is {_kind(values)}; expected a list of x, y, score, ...")
    numbers: list[Any] = []
    for value in values:
        if isinstance(value, list | tuple | np.ndarray) and len(value) != 3:
            raise PoseError(
                f"{where}, point {len(numbers) // 3} has {len(value)} numbers; expected x, y and score."
            )
        numbers.extend(value if isinstance(value, list | tuple | np.ndarray) else (value,))
    for place, number in enumerate(numbers):
        # What is no number compares with none.
        real = _is_number(number)
        if not real or not -LARGEST_COORDINATE <= number <= LARGEST_COORDINATE:
            name = ("x", "y", "score")[place % 3]
            raise PoseError(
                f"{where}, point {place // 3}: {name} is {_kind(number) if not real else number}; expected a "
                f"number, at most {LARGEST_COORDINATE:g} in size."
            )
    if len(numbers) % 3:
        raise PoseError(f"{where} has {len(numbers)} numbers; expected x, y and score for each point.")
    return np.array(numbers, np.float64).reshape(-1, 3)


def _are_shares(frames: Sequence[Frame]) -> bool:
    """Whether the coordinates are shares of the canvas: all so small that in pixels they would be one dot.
    Points may lie somewhat beyond the canvas."""
    seen = [frame.people[..., :2][frame.people[..., 2] > 0] for frame in frames]
    return all(((points >= -1) & (points <= 2)).all() for points in seen)


def _in_pixels(frame: Frame) -> Frame:
    people = frame.people.copy()
    people[..., :2] *= (frame.width, frame.height)
    return Frame(frame.width, frame.height, people)


def _kind(value: Any) -> str:
    """What a JSON value is, for messages."""
    if value is None:
        return "nothing"
    names = {dict: "an object", list: "a list", tuple: "a list", str: "a text", bool: "true or false"}
    return names.get(type(value), f"a number ({value!r})" if isinstance(value, int | float) else "no JSON")

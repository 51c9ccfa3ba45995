"""Tools on frames of poses: merge, filter, transform. Each returns new frames and leaves the given ones."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..errors import PoseError
from ..fit import Mode
from .keypoints import (
    BODY,
    L_ANKLE,
    L_EAR,
    L_ELBOW,
    L_EYE,
    L_HIP,
    L_KNEE,
    L_SHOULDER,
    L_WRIST,
    LEFT_HAND,
    PARTS,
    POINTS,
    R_ANKLE,
    R_EAR,
    R_ELBOW,
    R_EYE,
    R_HIP,
    R_KNEE,
    R_SHOULDER,
    R_WRIST,
    RIGHT_HAND,
    Frame,
)
from .render import resized

Pivot = Literal["person", "canvas"]
PIVOTS: tuple[Pivot, ...] = ("person", "canvas")


def merge(poses: Sequence[Sequence[Frame]], fit: Mode = "fill") -> list[Frame]:
    """The people of several poses in one, frame by frame, in the given order.

    The canvases are the first one's; other sizes are fitted to it. A pose of one frame is in all of them.
    Raises PoseError for other lengths that differ.
    """
    lengths = {len(frames) for frames in poses if len(frames) != 1}
    if not poses or len(lengths) > 1:
        counts = ", ".join(str(len(frames)) for frames in poses)
        raise PoseError(f"the poses have {counts or 'no'} frames; expected as many in each, or one.")
    count = lengths.pop() if lengths else 1
    merged = []
    for i in range(count):
        at = [frames[i if len(frames) > 1 else 0] for frames in poses]
        first = at[0]
        people = [resized(frame, first.width, first.height, fit).people for frame in at]
        merged.append(first.with_people(np.concatenate(people)))
    return merged


@dataclass(frozen=True)
class Keep:
    """Which people and points to keep; the defaults keep all.

    point_score: drops points of a lower score. person_score: people whose body points have a lower mean (the
    points that are not seen do not count). size: people whose box is lower, in shares of the canvas' height.
    largest: so many people of the largest boxes in each frame, in their order; 0 for all.
    people: the numbers of people in each frame, counted from 0; None for all.
    region: bool [B,H,W] or [1,H,W], of any size, laid over the canvas: people whose box has its centre there.
    without: names of `PARTS` that are taken off.
    """

    point_score: float = 0.0
    person_score: float = 0.0
    size: float = 0.0
    largest: int = 0
    people: frozenset[int] | None = None
    region: np.ndarray | None = None
    without: tuple[str, ...] = ()


def keep(frames: Sequence[Frame], wanted: Keep) -> list[Frame]:
    """The frames with the people and points that `wanted` asks for. Raises PoseError for a wrong region."""
    region = wanted.region
    if region is not None and len(region) not in (1, len(frames)):
        raise PoseError(
            f"the region has {len(region)} masks for {len(frames)} frames; expected one, or as many."
        )
    dropped = points_of(wanted.without)
    kept = []
    for number, frame in enumerate(frames):
        people = frame.people.copy()
        people[people[..., 2] < wanted.point_score] = 0.0
        people[:, dropped] = 0.0
        stays = np.array([i for i in range(len(people)) if wanted.people is None or i in wanted.people], int)
        people = people[stays]
        seen = people[..., 2] > 0
        people = people[seen.any(1)]
        boxes = boxes_of(people)
        stays = mean_scores(people) >= wanted.person_score
        stays &= (boxes[:, 3] - boxes[:, 1]) / frame.height >= wanted.size
        if region is not None:
            stays &= _centred_in(boxes, region[number if len(region) > 1 else 0], frame)
        people, boxes = people[stays], boxes[stays]
        if wanted.largest:
            areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
            people = people[np.sort(np.argsort(-areas, kind="stable")[: wanted.largest])]
        kept.append(frame.with_people(people))
    return kept


@dataclass(frozen=True)
class Change:
    """How to transform poses: mirrored first, then scaled and turned about the pivot, then moved.

    scale: 1 is as it is. degrees: clockwise. move_x, move_y: in pixels, to the right and down.
    flip: mirrored about the canvas' middle, so that the person's right becomes its left.
    pivot: what is scaled and turned about, the middle of each person's (or part's) box or of the canvas.
    people: their numbers in each frame, from 0, None for all. parts: names of `PARTS`, none for all.
    """

    scale: float = 1.0
    degrees: float = 0.0
    move_x: float = 0.0
    move_y: float = 0.0
    flip: bool = False
    pivot: Pivot = "person"
    people: frozenset[int] | None = None
    parts: tuple[str, ...] = ()


def transform(frames: Sequence[Frame], change: Change) -> list[Frame]:
    """The frames after a change. Raises PoseError for a scale of 0 or below, or a part that is flipped."""
    if not change.scale > 0:
        raise PoseError(f"the scale is {change.scale}; expected a number above 0.")
    if change.flip and change.parts:
        raise PoseError("only whole people can be flipped; choose no parts, or leave them unflipped.")
    chosen = points_of(change.parts) if change.parts else list(range(POINTS))
    angle = math.radians(change.degrees)
    turn = change.scale * np.array(
        [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
    )  # of rows (x, y), y downwards
    changed = []
    for frame in frames:
        people = frame.people.copy()
        for i, person in enumerate(people):
            if change.people is not None and i not in change.people:
                continue
            if change.flip:
                person[:] = mirrored(person, frame.width)
            part = person[chosen]
            if not (part[:, 2] > 0).any():
                continue
            if change.pivot == "canvas":
                pivot = np.array([frame.width - 1, frame.height - 1]) / 2
            else:
                box = boxes_of(part[None])[0]
                pivot = (box[:2] + box[2:]) / 2
            # Nothing that stays changes by a rounding.
            if change.scale != 1 or change.degrees:
                part[:, :2] = (part[:, :2] - pivot) @ turn + pivot
            part[:, :2] += (change.move_x, change.move_y)
            person[chosen] = part
        changed.append(frame.with_people(people))
    return changed


def mirrored(person: np.ndarray, width: int) -> np.ndarray:
    """A person [136,3] in the mirrored picture: pixel x becomes width - 1 - x, and left and right change."""
    person = person[MIRROR].copy()
    seen = person[:, 2] > 0
    person[seen, 0] = width - 1 - person[seen, 0]
    return person


def boxes_of(people: np.ndarray) -> np.ndarray:
    """Left, top, right, bottom [P,4] of the seen points of people [P,N,3], each with at least one."""
    seen = people[..., 2:] > 0
    low = np.where(seen, people[..., :2], np.inf).min(1)
    high = np.where(seen, people[..., :2], -np.inf).max(1)
    return np.concatenate([low, high], 1)


def mean_scores(people: np.ndarray) -> np.ndarray:
    """The mean score [P] of the body points that are seen, or of all points where of the body none are."""
    scores = people[..., 2].copy()
    scores[(scores[:, BODY] > 0).any(1), BODY.stop :] = 0.0
    return scores.sum(1) / np.maximum((scores > 0).sum(1), 1)


def points_of(parts: Sequence[str]) -> list[int]:
    """The rows of a person that belong to parts, in order. Raises PoseError for an unknown name."""
    if unknown := [name for name in parts if name not in PARTS]:
        raise PoseError(f"{unknown[0]!r} is no part; choose from {', '.join(PARTS)}.")
    return sorted({point for name in parts for point in PARTS[name]})


def numbers(text: str) -> frozenset[int] | None:
    """The numbers in a list as people write it: "0, 2-4"; None if it is empty. Raises PoseError."""
    found: set[int] = set()
    for word in text.replace(",", " ").split():
        first, dash, last = word.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise PoseError(f"{word!r} is no number of a person; expected a list like 0, 2-4.")
        span = range(int(first), int(last if dash else first) + 1)
        if not 0 < len(span) <= 10_000:
            raise PoseError(f"{word!r} is no span of numbers; expected a list like 0, 2-4.")
        found.update(span)
    return frozenset(found) if text.replace(",", " ").strip() else None


def part_names(text: str | Sequence[str]) -> tuple[str, ...]:
    """The parts in a list as people write it: "right wrist, feet". Raises PoseError for one that is none."""
    # Also of a list in the notation of Python or JSON, as programs and older workflows have it.
    words = re.split(r"[,;\n]", text) if isinstance(text, str) else text
    bare = (word.strip(" []'\"\t\r").lower().replace("_", " ").split() for word in words)
    names = tuple(" ".join(word) for word in bare if word)
    for name in names:
        if name not in PARTS:
            raise PoseError(f"{name!r} is no part of a body; expected a list of these: {', '.join(PARTS)}.")
    return names


def _centred_in(boxes: np.ndarray, region: np.ndarray, frame: Frame) -> np.ndarray:
    height, width = region.shape
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    x = np.floor((centres[:, 0] + 0.5) / frame.width * width).astype(int)
    y = np.floor((centres[:, 1] + 0.5) / frame.height * height).astype(int)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return inside & region[y.clip(0, height - 1), x.clip(0, width - 1)].astype(bool)


# The 70 points of a face that change places in a mirror: jaw, brows, nostrils, eyes, outer and inner lips,
# pupils (of the 300-W markup, and two that OpenPose adds).
_FACE_PAIRS = [
    *((i, 16 - i) for i in range(8)),
    *((17 + i, 26 - i) for i in range(5)),
    *((31, 35), (32, 34)),
    *((36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)),
    *((48, 54), (49, 53), (50, 52), (59, 55), (58, 56)),
    *((60, 64), (61, 63), (67, 65)),
    (68, 69),
]


def _mirror() -> np.ndarray:
    order = np.arange(POINTS)
    right = [R_SHOULDER, R_ELBOW, R_WRIST, R_HIP, R_KNEE, R_ANKLE, R_EYE, R_EAR, 18, 19, 20]
    left = [L_SHOULDER, L_ELBOW, L_WRIST, L_HIP, L_KNEE, L_ANKLE, L_EYE, L_EAR, 21, 22, 23]
    right += range(RIGHT_HAND.start, RIGHT_HAND.stop)
    left += range(LEFT_HAND.start, LEFT_HAND.stop)
    for one, other in _FACE_PAIRS:
        right.append(24 + one)
        left.append(24 + other)
    order[right], order[left] = left, right
    return order


# Row i of a person in a mirror is this row of the person.
MIRROR = _mirror()

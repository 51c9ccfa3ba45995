"""Where hands and faces are, from the joints of a body: the squares that OpenPose looks for them in."""

from dataclasses import dataclass

import numpy as np

from ..fit import Size
from .keypoints import (
    L_EAR,
    L_ELBOW,
    L_EYE,
    L_SHOULDER,
    L_WRIST,
    NOSE,
    R_EAR,
    R_ELBOW,
    R_EYE,
    R_SHOULDER,
    R_WRIST,
)

# Smaller ones hold nothing that could be told.
_SMALLEST = 20

# In the order of the parts of a person: left, right.
_ARMS = ((L_SHOULDER, L_ELBOW, L_WRIST), (R_SHOULDER, R_ELBOW, R_WRIST))
# How much of the head's half width the way from the nose to a part of it is.
_HEAD = ((R_EYE, 3.0), (L_EYE, 3.0), (R_EAR, 1.5), (L_EAR, 1.5))


@dataclass(frozen=True)
class Box:
    """A square of a picture, in whole pixels from its left top corner."""

    x: int
    y: int
    side: int

    def cut(self, scene: np.ndarray) -> np.ndarray:
        """The square of a picture [H,W,C]."""
        return scene[self.y : self.y + self.side, self.x : self.x + self.side]


def hand_boxes(person: np.ndarray, size: Size) -> list[Box | None]:
    """The squares of a person's left and right hand in a picture (height, width), from its points [N,3]; None
    where the arm was not seen as a whole, or is too small.

    As in OpenPose's handDetector.cpp: the forearm goes on by a third, and the square is as large as the upper
    or lower arm tells.
    """
    boxes: list[Box | None] = []
    for arm in _ARMS:
        shoulder, elbow, wrist = person[list(arm), :2]
        if not (person[list(arm), 2] > 0).all():
            boxes.append(None)
            continue
        lower, upper = np.linalg.norm(wrist - elbow), np.linalg.norm(elbow - shoulder)
        side = 1.5 * float(max(lower, 0.9 * upper))
        boxes.append(_inside(wrist + 0.33 * (wrist - elbow) - side / 2, side, size))
    return boxes


def face_boxes(person: np.ndarray, size: Size) -> list[Box | None]:
    """The square of a person's face in a picture (height, width), about the nose; None where the nose, or
    both eyes and ears, were not seen, or the head is too small."""
    seen = person[:, 2] > 0
    nose = person[NOSE, :2]
    ways = [times * np.abs(person[part, :2] - nose).max() for part, times in _HEAD if seen[part]]
    if not seen[NOSE] or not ways:
        return [None]
    return [_inside(nose - max(ways), 2 * max(ways), size)]


def _inside(corner: np.ndarray, side: float, size: Size) -> Box | None:
    """A square, moved into a picture as far as it goes beyond, and no larger than that; None if too small."""
    side = min(side, *size)
    if side < _SMALLEST:
        return None
    x, y = (min(max(0.0, at), whole - side) for at, whole in zip(corner, size[::-1], strict=True))
    return Box(int(x), int(y), int(side))

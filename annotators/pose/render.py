"""Draw poses as the skeletons that pose ControlNets were trained on."""

import colorsys
import math
from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from ..errors import PoseError
from ..fit import Mode
from .keypoints import (
    BODY,
    FACE,
    L_ANKLE,
    L_EAR,
    L_ELBOW,
    L_EYE,
    L_HIP,
    L_KNEE,
    L_SHOULDER,
    L_WRIST,
    LARGEST_SIDE,
    LEFT_HAND,
    NECK,
    NOSE,
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

Style = Literal["openpose", "thick"]
STYLES: tuple[Style, ...] = ("openpose", "thick")

# OpenPose's limbs in its drawing order; limb i has colour COLOURS[i], and so has joint i.
LIMBS = (
    (NECK, R_SHOULDER), (NECK, L_SHOULDER),
    (R_SHOULDER, R_ELBOW), (R_ELBOW, R_WRIST), (L_SHOULDER, L_ELBOW), (L_ELBOW, L_WRIST),
    (NECK, R_HIP), (R_HIP, R_KNEE), (R_KNEE, R_ANKLE),
    (NECK, L_HIP), (L_HIP, L_KNEE), (L_KNEE, L_ANKLE),
    (NECK, NOSE), (NOSE, R_EYE), (R_EYE, R_EAR), (NOSE, L_EYE), (L_EYE, L_EAR),
)  # fmt: skip
# Around the hue circle, in 85 = 255 / 3 steps: 18 colours, red first.
COLOURS = (
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0),
    (0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255),
    (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85),
)  # fmt: skip
DARKER = 0.6  # limbs against joints

# Each finger starts at the wrist, point 0.
FINGERS = tuple((0 if i % 4 == 0 else i, i + 1) for i in range(20))
FINGER_COLOURS = tuple(
    tuple(255 * c for c in colorsys.hsv_to_rgb(i / len(FINGERS), 1.0, 1.0)) for i in range(len(FINGERS))
)
HAND_JOINT, FACE_POINT = (0, 0, 255), (255, 255, 255)

# The half width of a limb and the radius of a joint, in a picture whose shorter side is TRAINED_SIDE.
STICK = 4
TRAINED_SIDE = 512
# At once, 12 GB of them.
_MOST_PIXELS = 2**30


def render(
    frames: Sequence[Frame],
    width: int = 0,
    height: int = 0,
    fit: Mode = "fill",
    style: Style = "openpose",
    body: bool = True,
    hands: bool = True,
    face: bool = True,
    threshold: float = 0.3,
    stick: float = 0.0,
) -> Tensor:
    """The skeletons of all frames [B,H,W,3] in 0..1, on black.

    width, height: of the pictures; 0: of the first frame. fit: how a canvas of another shape gets there, see
    `resized`.
    threshold: points of a lower score are left out. stick: half the width of a limb in pixels; 0: as the
    style was trained. "openpose" is that of the first release, 4 where the shorter side is 512 and in
    proportion to it otherwise; at 512 the pixels are those of its drawing. "thick" is that of xinsir's SDXL
    ControlNets: bodies are wider in steps of the longer side, hands and faces are not. Pictures below 512
    are drawn larger and shrunk, which keeps thin sticks.
    """
    if not frames:
        raise PoseError("there are no frames to draw.")
    width, height = width or frames[0].width, height or frames[0].height
    if max(width, height) > LARGEST_SIDE:
        raise PoseError(f"{width}x{height} is too large; at most {LARGEST_SIDE} pixels a side are drawn.")
    if len(frames) * width * height > _MOST_PIXELS:
        raise PoseError(
            f"{len(frames)} frames of {width}x{height} are more than are drawn at once, {_MOST_PIXELS:,} "
            "pixels. Give width and height, or fewer frames."
        )
    # Of bodies, and of hands and faces.
    sticks = [stick] * 2 if stick else trained_sticks(width, height, style)
    times = max(1, math.ceil(TRAINED_SIDE / min(width, height)))
    # Long and flat pictures would grow without bounds.
    times = min(times, max(1, LARGEST_SIDE // max(width, height)))
    wide, fine = (max(1, round(stick * times)) for stick in sticks)
    drawn = np.zeros((len(frames), height, width, 3), np.uint8)
    for picture, frame in zip(drawn, frames, strict=True):
        canvas = picture if times == 1 else np.zeros((height * times, width * times, 3), np.uint8)
        people = resized(frame, width, height, fit).people
        people[..., :2] = (people[..., :2] + 0.5) * times - 0.5
        for person in people:
            draw_person(canvas, person, wide, fine, body, hands, face, threshold)
        if times > 1:
            cv2.resize(canvas, (width, height), dst=picture, interpolation=cv2.INTER_AREA)
    return torch.from_numpy(drawn).float().div_(255.0)


def trained_sticks(width: int, height: int, style: Style) -> tuple[float, float]:
    """Half the width of a body's limbs, and the same for hands and faces, in pixels, as the ControlNets of
    a style have seen them at this size.

    thick: bodies 4 times 1 to 7 by the longer side, all else as before, from the model card of
    xinsir/controlnet-openpose-sdxl-1.0.
    """
    if style == "thick":
        longer = max(width, height)
        return STICK * (1 if longer < 500 else min(2 + longer // 1000, 7)), STICK
    stick = STICK * min(width, height) / TRAINED_SIDE
    return stick, stick


def resized(frame: Frame, width: int, height: int, fit: Mode) -> Frame:
    """The frame on a canvas of another size. stretch: each side by itself. crop: the shape is kept, and what
    does not fit is cut off on both sides. fill: the shape is kept, and both sides get margins."""
    across, down = width / frame.width, height / frame.height
    if fit != "stretch":
        across = down = max(across, down) if fit == "crop" else min(across, down)
    people = frame.people.copy()
    for axis, (old, new, scale) in enumerate(((frame.width, width, across), (frame.height, height, down))):
        # About the middle: pixel 0 is centred at 0, so a side reaches from -0.5 to its length - 0.5.
        people[..., axis] = (people[..., axis] - (old - 1) / 2) * scale + (new - 1) / 2
    people[people[..., 2] == 0] = 0.0
    return Frame(width, height, people)


def draw_person(
    canvas: np.ndarray,
    person: np.ndarray,
    stick: int,
    fine: int,
    body: bool,
    hands: bool,
    face: bool,
    threshold: float,
) -> None:
    """Draw one person [136,3] onto uint8 [H,W,3], with whole pixels cut off as in the first release.

    stick, fine: half the width of a body's limbs, and the same for hands and face.
    """
    # Without scores of 0, which mean unseen whatever the threshold.
    seen = (person[:, 2] > 0) & (person[:, 2] >= threshold)
    if body:
        _draw_body(canvas, person[BODY], seen[BODY], stick)
    if hands:
        for part in (LEFT_HAND, RIGHT_HAND):
            _draw_hand(canvas, person[part], seen[part], fine)
    if face:
        for x, y in person[FACE][seen[FACE], :2]:
            _dot(canvas, x, y, 3 * fine // 4, FACE_POINT)


def _draw_body(canvas: np.ndarray, points: np.ndarray, seen: np.ndarray, stick: int) -> None:
    for (a, b), colour in zip(LIMBS, COLOURS, strict=False):
        if seen[a] and seen[b]:
            (ax, ay), (bx, by) = points[a, :2].tolist(), points[b, :2].tolist()
            outline = cv2.ellipse2Poly(
                (int((ax + bx) / 2), int((ay + by) / 2)),
                (int(math.hypot(ax - bx, ay - by) / 2), stick),
                int(math.degrees(math.atan2(ay - by, ax - bx))),
                0,
                360,
                1,
            )
            cv2.fillConvexPoly(canvas, np.array(outline), [int(DARKER * c) for c in colour])
    for (x, y), colour in zip(points[seen, :2], np.array(COLOURS)[seen].tolist(), strict=True):
        _dot(canvas, x, y, stick, colour)


def _draw_hand(canvas: np.ndarray, points: np.ndarray, seen: np.ndarray, stick: int) -> None:
    corners = [(int(x), int(y)) for x, y in points[:, :2]]
    for (a, b), colour in zip(FINGERS, FINGER_COLOURS, strict=True):
        if seen[a] and seen[b]:
            cv2.line(canvas, corners[a], corners[b], colour, thickness=max(1, stick // 2))
    for x, y in points[seen, :2]:
        _dot(canvas, x, y, stick, HAND_JOINT)


def _dot(canvas: np.ndarray, x: float, y: float, radius: int, colour: Sequence[float]) -> None:
    cv2.circle(canvas, (int(x), int(y)), radius, colour, thickness=-1)

"""Figures of the synthetic scenes: random poses in OpenPose's BODY_18 order, and the coloured stick drawing.

A pose is an array [18, 2] of (x, y) in units of the figure's standing height, y downwards, neck at (0, 0).
"Right" is the figure's own right, which is the left side of the picture when it faces us.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NOSE, NECK = 0, 1
R_SHOULDER, R_ELBOW, R_WRIST, L_SHOULDER, L_ELBOW, L_WRIST = 2, 3, 4, 5, 6, 7
R_HIP, R_KNEE, R_ANKLE, L_HIP, L_KNEE, L_ANKLE = 8, 9, 10, 11, 12, 13
R_EYE, L_EYE, R_EAR, L_EAR = 14, 15, 16, 17

# The limbs that OpenPose draws, in its drawing order; limb i has colour COLOURS[i], joint j COLOURS[j].
LIMBS = (
    (NECK, R_SHOULDER), (NECK, L_SHOULDER),
    (R_SHOULDER, R_ELBOW), (R_ELBOW, R_WRIST), (L_SHOULDER, L_ELBOW), (L_ELBOW, L_WRIST),
    (NECK, R_HIP), (R_HIP, R_KNEE), (R_KNEE, R_ANKLE),
    (NECK, L_HIP), (L_HIP, L_KNEE), (L_KNEE, L_ANKLE),
    (NECK, NOSE), (NOSE, R_EYE), (R_EYE, R_EAR), (NOSE, L_EYE), (L_EYE, L_EAR),
)  # fmt: skip
COLOURS = (
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0),
    (0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255),
    (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85),
)  # fmt: skip

# Lengths in standing heights.
TORSO, HEAD = 0.29, 0.125  # neck to hips, neck to nose
SHOULDER, HIP = 0.12, 0.07  # half widths
UPPER_ARM, FOREARM, THIGH, SHIN = 0.17, 0.16, 0.23, 0.23
HEAD_RADIUS, LIMB_RADIUS = 0.093, 0.055


def _toward(start: np.ndarray, degrees: float, length: float) -> np.ndarray:
    """The point `length` away from `start`; 0 degrees is straight down, 90 is the picture's right."""
    angle = np.deg2rad(degrees)
    return start + length * np.array([np.sin(angle), np.cos(angle)])


def _dance(rng: np.random.Generator) -> tuple[list[float], float, float]:
    """Outward angles of (arm, forearm, thigh, shin) x (right, left), lean and turn, all in degrees."""
    arms = rng.uniform(40, 165, 2)
    fore = arms + rng.uniform(-50, 70, 2)
    thighs = np.array([rng.uniform(-4, 14), rng.uniform(12, 75)])
    shins = thighs + np.array([rng.uniform(-10, 6), rng.uniform(-95, 5)])
    return [*arms, *fore, *thighs, *shins], rng.uniform(-16, 16), rng.uniform(0, 50)


def _reach(rng: np.random.Generator) -> tuple[list[float], float, float]:
    arms = rng.uniform(115, 172, 2)
    fore = arms + rng.uniform(-15, 45, 2)
    thighs = rng.uniform(2, 30, 2)
    shins = thighs + rng.uniform(-16, 4, 2)
    return [*arms, *fore, *thighs, *shins], rng.uniform(-10, 10), rng.uniform(0, 40)


def _walk(rng: np.random.Generator) -> tuple[list[float], float, float]:
    stride, swing = rng.uniform(15, 38), rng.uniform(15, 50)
    arms = np.array([-swing, -swing]) * np.array([-1.0, 1.0]) + rng.uniform(-6, 6, 2)
    # Outward angles mirror between the sides, so equal signs here are opposite directions in the picture.
    fore = np.array([arms[0] - rng.uniform(5, 60), arms[1] + rng.uniform(5, 60)])
    thighs = np.array([stride, stride]) + rng.uniform(-6, 6, 2)
    shins = np.array([thighs[0] + rng.uniform(0, 45), thighs[1] - rng.uniform(0, 22)])
    return [*arms, *fore, *thighs, *shins], rng.uniform(-2, 12), rng.uniform(55, 75)


def _kick(rng: np.random.Generator) -> tuple[list[float], float, float]:
    arms = rng.uniform(35, 125, 2)
    fore = arms + rng.uniform(-20, 60, 2)
    thighs = np.array([rng.uniform(-8, 8), rng.uniform(60, 105)])
    shins = thighs + np.array([rng.uniform(-6, 4), rng.uniform(-25, 8)])
    return [*arms, *fore, *thighs, *shins], rng.uniform(-24, 2), rng.uniform(10, 55)


def _crouch(rng: np.random.Generator) -> tuple[list[float], float, float]:
    arms = rng.uniform(25, 110, 2)
    fore = arms + rng.uniform(-30, 110, 2)
    thighs = rng.uniform(45, 82, 2)
    shins = rng.uniform(-18, 14, 2)
    return [*arms, *fore, *thighs, *shins], rng.uniform(-12, 12), rng.uniform(0, 40)


def _stand(rng: np.random.Generator) -> tuple[list[float], float, float]:
    arms = rng.uniform(8, 40, 2)
    fore = arms + rng.uniform(-25, 25, 2)
    thighs = rng.uniform(1, 14, 2)
    shins = thighs + rng.uniform(-8, 2, 2)
    return [*arms, *fore, *thighs, *shins], rng.uniform(-5, 5), rng.uniform(0, 40)


_STYLES = (_dance, _reach, _walk, _kick, _crouch, _stand)
_CHANCES = (0.34, 0.16, 0.16, 0.14, 0.12, 0.08)


def random_pose(rng: np.random.Generator, calm: bool = False) -> np.ndarray:
    """A random pose [18, 2] in standing heights, neck at the origin; `calm` asks for a narrow one."""
    style = _stand if calm else _STYLES[rng.choice(len(_STYLES), p=_CHANCES)]
    angles, lean, turn = style(rng)
    width = np.cos(np.deg2rad(turn))
    points = np.zeros((18, 2))
    spine = np.array([np.sin(np.deg2rad(-lean)), np.cos(np.deg2rad(-lean))])  # downwards along the torso
    across = np.array([-spine[1], spine[0]])  # towards the figure's right
    hips = points[NECK] + TORSO * spine
    for right, shoulder, hip in ((True, R_SHOULDER, R_HIP), (False, L_SHOULDER, L_HIP)):
        side = 1.0 if right else -1.0
        arm, fore, thigh, shin = angles[0 if right else 1 :: 2]
        points[shoulder] = points[NECK] + side * width * SHOULDER * across + 0.012 * spine
        points[hip] = hips + side * max(width, 0.55) * HIP * across
        points[shoulder + 1] = _toward(points[shoulder], -side * arm - lean, UPPER_ARM)
        points[shoulder + 2] = _toward(points[shoulder + 1], -side * fore - lean, FOREARM)
        points[hip + 1] = _toward(points[hip], -side * thigh, THIGH)
        points[hip + 2] = _toward(points[hip + 1], -side * shin, SHIN)
    tilt = lean + rng.uniform(-14, 14)
    up = np.array([np.sin(np.deg2rad(tilt)), -np.cos(np.deg2rad(tilt))])
    beside = np.array([up[1], -up[0]])
    points[NOSE] = points[NECK] + HEAD * up
    for eye, ear, side in ((R_EYE, R_EAR, 1.0), (L_EYE, L_EAR, -1.0)):
        points[eye] = points[NOSE] + 0.026 * up + side * 0.028 * beside
        points[ear] = points[NOSE] + 0.012 * up + side * 0.068 * beside
    if rng.random() < 0.5:  # mirror, and swap the names of the sides so that right stays right
        points[:, 0] *= -1
        points = points[[0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16]]
    return points


def _stroke(
    canvas: np.ndarray, start: np.ndarray, end: np.ndarray, radius: float, colour: Sequence[float]
) -> None:
    """Paint an anti-aliased capsule. Not cv2.line: its widths differ between OpenCV's versions."""
    low = np.maximum(np.floor(np.minimum(start, end) - radius - 1), 0).astype(int)
    high = np.maximum(np.ceil(np.maximum(start, end) + radius + 2), 0).astype(int)
    window = canvas[low[1] : high[1], low[0] : high[0]]
    (x0, y0), (ax, ay) = start.tolist(), (end - start).tolist()
    dx = np.arange(low[0], low[0] + window.shape[1], dtype=np.float32) - x0
    dy = np.arange(low[1], low[1] + window.shape[0], dtype=np.float32)[:, None] - y0
    along = np.clip((dx * ax + dy * ay) / max(ax * ax + ay * ay, 1e-9), 0, 1)
    distance = np.sqrt((dx - along * ax) ** 2 + (dy - along * ay) ** 2)
    cover = np.clip(radius + 0.5 - distance, 0, 1)[..., None]
    window += cover * (np.asarray(colour, np.float32) - window)


def draw_skeleton(
    keypoints: np.ndarray, height: int, width: int, thickness: float | None = None
) -> np.ndarray:
    """The stick drawing that pose ControlNets read.

    keypoints: [P, 18, 2 or 3] pixels (x, y[, confidence]); a joint of confidence 0 is left out.
    thickness: of the limbs in pixels, by default a sixtieth of the shorter side; joints are wider.
    Returns uint8 [height, width, 3], RGB on black; limbs at 60 % of their colour's brightness, joints at all.
    """
    radius = (thickness or min(height, width) / 60) / 2
    canvas = np.zeros((height, width, 3), np.float32)
    for person in np.asarray(keypoints, np.float64):
        seen = person[:, 2] > 0 if person.shape[1] > 2 else np.ones(len(person), bool)
        points = person[:, :2]
        for (a, b), colour in zip(LIMBS, COLOURS, strict=False):
            if seen[a] and seen[b]:
                _stroke(canvas, points[a], points[b], radius, [0.6 * c for c in colour])
        for joint, colour in enumerate(COLOURS):
            if seen[joint]:
                _stroke(canvas, points[joint], points[joint], radius * 1.5, colour)
    return np.round(canvas).astype(np.uint8)

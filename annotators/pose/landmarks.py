"""From mediapipe's landmarks to people in OpenPose's order."""

import numpy as np

from .keypoints import (
    FACE,
    FEET,
    L_ANKLE,
    L_EAR,
    L_ELBOW,
    L_EYE,
    L_HIP,
    L_KNEE,
    L_SHOULDER,
    L_WRIST,
    LEFT_HAND,
    NECK,
    NOSE,
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
)

# Which of mediapipe's 33 points of a body a row of a person is. Of the feet it has big toes and heels.
_LEFT_TOE, _LEFT_HEEL, _RIGHT_TOE, _RIGHT_HEEL = (FEET.start + i for i in (0, 2, 3, 5))
_BODY = {
    NOSE: 0, L_EYE: 2, R_EYE: 5, L_EAR: 7, R_EAR: 8,
    L_SHOULDER: 11, R_SHOULDER: 12, L_ELBOW: 13, R_ELBOW: 14, L_WRIST: 15, R_WRIST: 16,
    L_HIP: 23, R_HIP: 24, L_KNEE: 25, R_KNEE: 26, L_ANKLE: 27, R_ANKLE: 28,
    _LEFT_HEEL: 29, _RIGHT_HEEL: 30, _LEFT_TOE: 31, _RIGHT_TOE: 32,
}  # fmt: skip

# Which of its mesh of 478 points are OpenPose's 70 of a face: jaw, brows, nose, eyes, outer and inner lips,
# pupils; from the person's right to its left.
_FACE = (
    *(127, 234, 93, 132, 58, 136, 150, 176, 152, 400, 379, 365, 288, 361, 323, 454, 356),
    *(70, 63, 105, 66, 107), *(336, 296, 334, 293, 300),
    *(168, 197, 5, 4), *(98, 97, 2, 326, 327),
    *(33, 160, 158, 133, 153, 144), *(362, 385, 387, 263, 373, 380),
    *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181),
    *(78, 82, 13, 312, 308, 317, 14, 87),
    *(468, 473),
)  # fmt: skip
# What the mesh knows better than the body.
_IN_MESH = {NOSE: 4, R_EYE: 468, L_EYE: 473}


def person(
    body: np.ndarray,
    left_hand: np.ndarray | None,
    right_hand: np.ndarray | None,
    mesh: np.ndarray | None,
    visible: float,
) -> np.ndarray:
    """A person [136,3] of mediapipe's landmarks: body [33,3], hands [21,3] and face mesh [478,3], each of
    x, y and score. Points of the body whose score is below `visible` are left out; nose and eyes are where
    the mesh has them."""
    made = np.zeros((POINTS, 3))
    for row, landmark in _BODY.items():
        made[row] = body[landmark]
    shoulders = made[[L_SHOULDER, R_SHOULDER]]
    made[NECK] = (*shoulders[:, :2].mean(0), shoulders[:, 2].min())
    made[made[:, 2] < visible] = 0.0
    for part, points in ((LEFT_HAND, left_hand), (RIGHT_HAND, right_hand)):
        if points is not None:
            made[part] = points
    if mesh is not None:
        made[FACE] = mesh[list(_FACE)]
        for row, landmark in _IN_MESH.items():
            made[row] = mesh[landmark]
    return made

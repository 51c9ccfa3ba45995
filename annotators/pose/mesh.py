"""Draw mediapipe's face meshes as ControlNets learned them: outlines in the colours of the parts."""

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np

from .render import TRAINED_SIDE

# Lines through the points of the mesh, and their colour, in the order of drawing. "Left" is the person's own.
LINES: tuple[tuple[tuple[int, int, int], tuple[int, ...]], ...] = (
    # Around the face.
    (
        (10, 200, 10),
        (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152,
         148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109, 10),
    ),
    # Left eye and brow.
    (
        (10, 200, 180),
        (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466, 263),
    ),
    ((10, 220, 180), (276, 283, 282, 295, 285)),
    ((10, 220, 180), (300, 293, 334, 296, 336)),
    # Right eye and brow.
    (
        (180, 200, 10),
        (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246, 33),
    ),
    ((180, 220, 10), (46, 53, 52, 65, 55)),
    ((180, 220, 10), (70, 63, 105, 66, 107)),
    # Lips, outside and inside.
    (
        (10, 180, 10),
        (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185, 61),
    ),
    (
        (10, 180, 10),
        (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191, 78),
    ),
)  # fmt: skip
# The middles of the right and the left iris.
PUPILS = ((468, (250, 200, 10)), (473, (10, 200, 250)))

_THICKNESS = 2
_HALF_PUPIL = 2


def render_meshes(meshes: Sequence[np.ndarray], width: int, height: int) -> np.ndarray:
    """A picture uint8 [H,W,3] of faces [478,2], in pixels of which the first has its centre at 0, 0.

    Lines and pupils are as wide as they were trained where the shorter side is 512, and in proportion to it.
    """
    canvas = np.zeros((height, width, 3), np.uint8)
    scale = min(width, height) / TRAINED_SIDE
    thickness, half = max(1, round(_THICKNESS * scale)), max(1, round(_HALF_PUPIL * scale))
    for mesh in meshes:
        # Far outside there is nothing to draw, and OpenCV's numbers end.
        corners = np.floor(mesh[:, :2] + 0.5).clip(-(2**14), 2**15 - 1).astype(np.int32)
        for colour, line in LINES:
            # Each stretch by itself: a whole line would have other corners.
            for a, b in pairwise(line):
                cv2.line(canvas, corners[a].tolist(), corners[b].tolist(), colour, thickness)
        for point, colour in PUPILS:
            x, y = corners[point].tolist()
            canvas[max(y - half, 0) : max(y + half, 0), max(x - half, 0) : max(x + half, 0)] = colour
    return canvas

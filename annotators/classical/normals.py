"""Normals from a depth map, in the axes of any ControlNet or program."""

import cv2
import numpy as np
import torch
from torch import Tensor

from ..parameters import Choice, Float
from ..registry import Annotation, Annotator

# Of the vector (left, up, to the viewer): what is in the red, green and blue channel, and its sign.
_AXES: dict[str, tuple[tuple[int, int], ...]] = {
    "BAE": ((0, 1), (1, 1), (2, 1)),
    "MiDaS v1.0": ((2, 1), (1, 1), (0, 1)),
    "OpenGL": ((0, -1), (1, 1), (2, 1)),
    "DirectX": ((0, -1), (1, -1), (2, 1)),
}


def normals(
    pictures: Tensor, axes: str = "BAE", strength: float = 1.0, smooth: float = 1.0, background: float = 0.0
) -> Annotation:
    """Normals of depth maps [B,3,H,W] (grey, near is white), as n / 2 + 1/2.

    axes: see the annotator's convention. strength: white is nearer than black by so many times the short
    side. smooth: blur of the depth in pixels. background: what is farther than this (0 farthest, 1 nearest)
    faces the viewer. The steps of 8 bits, which would be terraces, are smoothed in any case.
    """
    made = []
    for depth in pictures.detach().cpu().float().mean(1).numpy():
        blurred = (
            cv2.GaussianBlur(depth, (0, 0), smooth, borderType=cv2.BORDER_REPLICATE) if smooth > 0 else depth
        )
        slope = strength * min(depth.shape) / 8
        # Nearer to the right means that a surface faces left; nearer below, that it faces up.
        left, up = (
            cv2.Sobel(blurred, cv2.CV_32F, *axis, ksize=3, scale=slope, borderType=cv2.BORDER_REPLICATE)
            for axis in ((1, 0), (0, 1))
        )
        flat = depth < background
        left[flat] = up[flat] = 0
        vector = np.stack([left, up, np.ones_like(left)])
        vector = vector / np.linalg.norm(vector, axis=0)
        made.append(np.stack([vector[axis] * sign for axis, sign in _AXES[axes]]) / 2 + 0.5)
    return Annotation(torch.from_numpy(np.stack(made)))


ANNOTATOR = Annotator(
    id="depth_normals",
    title="Normals from Depth",
    condition="normals",
    kind="normals",
    description=(
        "Which way surfaces face, from a depth map: the hint of a depth annotator, or its raw depth, of "
        "which the nearest is then white and the farthest black. Needs no weights."
    ),
    convention=(
        "BAE: R left, G up, B to the viewer. MiDaS v1.0: R to the viewer, G up, B left. OpenGL: R right, G "
        "up, B to the viewer. DirectX: R right, G down, B to the viewer"
    ),
    annotate=normals,
    parameters=(
        Choice(
            "axes",
            "BAE",
            tuple(_AXES),
            "BAE: for ControlNet 1.1 (normalbae). MiDaS v1.0: for the first release's normal ControlNet. "
            "OpenGL and DirectX: for 3D programs.",
        ),
        Float("strength", 1.0, 0.01, 100.0, "How deep the scene is, relative to the picture's short side."),
        Float(
            "smooth",
            1.0,
            0.0,
            32.0,
            "Blur of the depth in pixels. The steps of 8 bits are smoothed anyway.",
            0.1,
        ),
        Float("background", 0.0, 0.0, 1.0, "What is farther than this is flat; 0 leaves all."),
    ),
    reads="depth",
    suits=("lllyasviel/control_v11p_sd15_normalbae", "lllyasviel/sd-controlnet-normal"),
    aliases=("normal map", "depth to normal", "bump"),
)

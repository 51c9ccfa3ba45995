"""Straight lines: by the line segment detector, and by Hough's transform."""

import cv2
import numpy as np
import torch
from torch import Tensor

from ..parameters import Float, Int
from ..pixels import as_grey, from_grey
from ..registry import Annotation, Annotator
from .canny import automatic_edges

_COSINE = np.cos(np.pi / 8)
_SUITS = ("lllyasviel/control_v11p_sd15_mlsd", "lllyasviel/sd-controlnet-mlsd")
_LENGTH = Float(
    "min_length",
    20.0,
    0.0,
    4096.0,
    "Lines shorter than this, in pixels, are dropped.",
    1.0,
)


def segments(pictures: Tensor, min_length: float = 20.0) -> Annotation:
    """Lines by LSD (R. Grompone von Gioi et al. 2012) in pictures [B,3,H,W], at least min_length pixels
    long."""
    detector = cv2.createLineSegmentDetector(cv2.LSD_REFINE_STD)
    # Sides below its window of a few pixels make it fail, and hold no line.
    found = [detector.detect(grey)[0] if min(grey.shape) >= 8 else None for grey in as_grey(pictures)]
    return _drawn(found, min_length, pictures)


def hough(pictures: Tensor, votes: int = 50, min_length: float = 20.0, max_gap: float = 5.0) -> Annotation:
    """Lines by the probabilistic Hough transform (J. Matas et al. 2000) of canny edges with automatic
    thresholds, of which those stay that run along edges, not across a texture of them.

    votes: edge pixels that a line needs at least. min_length, max_gap: the shortest line, and the widest gap
    within one, in pixels.
    """
    found = []
    for grey in as_grey(pictures):
        lines = cv2.HoughLinesP(
            automatic_edges(grey), 1, np.pi / 180, votes, minLineLength=min_length, maxLineGap=max_gap
        )
        found.append(lines if lines is None else _along_edges(lines.reshape(-1, 4), grey))
    return _drawn(found, min_length, pictures)


def _along_edges(lines: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """Lines [N,4] that most of their length follow an edge of a picture uint8 [H,W]: its gradient stands
    across them to within 22.5 degrees."""
    dx, dy = cv2.spatialGradient(cv2.GaussianBlur(grey, (3, 3), 0), borderType=cv2.BORDER_REPLICATE)
    kept = []
    for x0, y0, x1, y1 in lines.astype(np.float64):
        length = max(np.hypot(x1 - x0, y1 - y0), 1.0)
        places = np.linspace((x0, y0), (x1, y1), int(length) + 1).round().astype(int)
        across_x, across_y = (y0 - y1) / length, (x1 - x0) / length
        gx, gy = (slope[places[:, 1], places[:, 0]].astype(np.float64) for slope in (dx, dy))
        strength = np.hypot(gx, gy)
        follows = np.abs(gx * across_x + gy * across_y) >= _COSINE * strength
        kept.append((follows & (strength > 0)).mean() >= 0.6)
    return lines[np.array(kept, bool)]


def _drawn(found: list[np.ndarray | None], min_length: float, pictures: Tensor) -> Annotation:
    """White lines, one pixel wide, of what OpenCV found: None, [N,1,4] (OpenCV 4) or [N,4] (5)."""
    height, width = pictures.shape[-2:]
    kept, canvases = [], []
    for lines in found:
        lines = np.zeros((0, 4), np.float32) if lines is None else lines.reshape(-1, 4).astype(np.float32)
        lines = lines[np.hypot(lines[:, 2] - lines[:, 0], lines[:, 3] - lines[:, 1]) >= min_length]
        canvas = np.zeros((height, width), np.uint8)
        for x0, y0, x1, y1 in np.rint(lines).astype(int).tolist():
            cv2.line(canvas, (x0, y0), (x1, y1), 255, 1)
        kept.append(torch.from_numpy(lines))
        canvases.append(canvas)
    return Annotation(from_grey(canvases), lines=kept)


ANNOTATORS = (
    Annotator(
        id="lsd_lines",
        title="Straight Lines",
        condition="lines",
        kind="lines",
        description="The straight lines of a picture: rooms, buildings, furniture. Needs no weights.",
        convention="white lines of one pixel on black",
        annotate=segments,
        parameters=(_LENGTH,),
        makes=("lines",),
        suits=_SUITS,
        aliases=("lsd", "mlsd", "straight lines"),
    ),
    Annotator(
        id="hough_lines",
        title="Hough Lines",
        condition="lines",
        kind="lines",
        description="Long straight lines, also where they are broken or partly hidden. Needs no weights.",
        convention="white lines of one pixel on black",
        annotate=hough,
        parameters=(
            Int("votes", 50, 1, 1000, "How many edge pixels must lie on a line; lower finds fainter lines."),
            _LENGTH,
            Float("max_gap", 5.0, 0.0, 256.0, "Gaps up to this many pixels are bridged.", 1.0),
        ),
        makes=("lines",),
        suits=_SUITS,
        aliases=("hough", "mlsd", "straight lines"),
    ),
)

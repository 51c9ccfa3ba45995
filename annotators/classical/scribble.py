"""Scribbles: thick white strokes on black, from photos and from drawings of any colour on any paper."""

import cv2
import numpy as np
from torch import Tensor

from ..parameters import Int
from ..pixels import as_bytes, from_grey, strongest
from ..registry import Annotation, Annotator

_CONVENTION = "thick white lines on black"
_SUITS = (
    "lllyasviel/control_v11p_sd15_scribble",
    "lllyasviel/sd-controlnet-scribble",
    "xinsir/controlnet-scribble-sdxl-1.0",
)
# Differences from the paper below this are noise: an empty sheet stays empty.
_NOISE = 12
_BYTES = np.arange(256)


def xdog_scribble(pictures: Tensor, threshold: int = 32, thickness: int = 3) -> Annotation:
    """Strokes where pictures [B,3,H,W] are darker than what is around: the difference of Gaussians with sigma
    0.5 and 5, twice its largest value over the channels above `threshold` of 255.

    Others take the least (extended difference of Gaussians in the ControlNet 1.1 extension), which draws less
    and misses half of the outlines where one colour meets another: F1 0.53 instead of 0.76 in
    benchmarks.accuracy.
    thickness: strokes are at least about this many pixels wide.
    """
    strokes = []
    for picture in as_bytes(pictures).astype(np.float32):
        fine, around = (
            cv2.GaussianBlur(picture, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE) for sigma in (0.5, 5.0)
        )
        darker = strongest(around - fine) * 2
        # Between a stroke in one channel and its neighbour in another there may be a crack.
        whole = cv2.morphologyEx(
            (darker > threshold).astype(np.uint8) * 255, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)
        )
        strokes.append(_thick(whole, thickness))
    return Annotation(from_grey(strokes))


def drawing(pictures: Tensor, threshold: int = 0, thickness: int = 0) -> Annotation:
    """Strokes of drawings [B,3,H,W]: whatever differs from the paper, whose colour is the one along the
    border, so that black on white and white on black come out the same.

    threshold: how much a stroke differs, of 255; 0 finds it (Otsu's). thickness: strokes are at least about
    this many pixels wide.
    """
    strokes = []
    for picture in as_bytes(pictures):
        border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
        paper = np.median(border, axis=0)
        # How much each byte of each channel differs from the paper.
        differs = np.rint(np.abs(_BYTES[:, None, None] - paper)).astype(np.uint8)
        ink = strongest(cv2.LUT(picture, differs))
        level = threshold or max(_NOISE, cv2.threshold(ink, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[0])
        strokes.append(_thick((ink > level).astype(np.uint8) * 255, thickness))
    return Annotation(from_grey(strokes))


def _thick(strokes: np.ndarray, thickness: int) -> np.ndarray:
    """A map uint8 [H,W] whose strokes are at least about so many pixels wide."""
    if thickness < 2:
        return strokes
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (thickness, thickness))
    # What holds such a disk is thick already.
    thick = cv2.morphologyEx(strokes, cv2.MORPH_OPEN, disk)
    return np.maximum(strokes, cv2.dilate(strokes - thick, disk))


ANNOTATORS = (
    Annotator(
        id="xdog_scribble",
        title="Scribble from a Photo",
        condition="scribble",
        kind="soft",
        description="Rough strokes along what is darker than its surroundings. Needs no weights.",
        convention=_CONVENTION,
        annotate=xdog_scribble,
        parameters=(
            Int("threshold", 32, 1, 255, "Lower makes more strokes."),
            Int("thickness", 3, 0, 64, "Strokes are at least about this many pixels wide."),
        ),
        suits=_SUITS,
        aliases=("xdog", "fake scribble"),
    ),
    Annotator(
        id="drawing",
        title="Scribble from a Drawing",
        condition="scribble",
        kind="soft",
        description=(
            "A drawing as white strokes on black, whatever the colours of ink and paper; which is which is "
            "found."
        ),
        convention=_CONVENTION,
        annotate=drawing,
        parameters=(
            Int("threshold", 0, 0, 254, "How much ink differs from paper, of 255; 0 finds it."),
            Int("thickness", 0, 0, 64, "Thin strokes are thickened to about this many pixels."),
        ),
        suits=_SUITS,
        aliases=("scribble", "sketch", "hand drawn", "invert"),
    ),
)

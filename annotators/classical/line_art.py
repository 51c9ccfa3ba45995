"""Line art without a network: what is darker than its surroundings, as white lines on black."""

import cv2
import numpy as np
from torch import Tensor

from ..parameters import Float
from ..pixels import as_bytes, as_grey, from_grey, strongest
from ..registry import Annotation, Annotator

_SUITS = ("lllyasviel/control_v11p_sd15_lineart",)


def standard(pictures: Tensor, sigma: float = 6.0, threshold: float = 8.0) -> Annotation:
    """How much darker pictures [B,3,H,W] are than their Gaussian blur, in the channel where it is least, half
    white at the median of what is above `threshold` of 255 (at least 16), as in ControlNet 1.1."""
    lines = []
    for picture in as_bytes(pictures).astype(np.float32):
        around = cv2.GaussianBlur(picture, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
        # Where it is least darker: the other way round it is most lighter.
        darker = np.maximum(-strongest(picture - around), 0)
        strong = darker[darker > threshold]
        scale = max(16.0, float(np.median(strong))) if strong.size else 16.0
        lines.append(np.minimum(darker / (2 * scale), 1))
    return Annotation(from_grey(lines))


def xdog(
    pictures: Tensor, sigma: float = 0.8, sharpness: float = 20.0, level: float = 0.5, steepness: float = 8.0
) -> Annotation:
    """Extended difference of Gaussians (H. Winnemoeller, J. E. Kyprianidis, S. Olsen 2012, equations 7 and
    5) of the brightness of pictures [B,3,H,W], white on black.

    Both Gaussians are divided by the coarser one, so that dark areas are no ink, and lines in them as strong
    as in light ones. sigma: width of the lines in pixels. sharpness: p, how much the difference counts.
    level: epsilon, below which ink begins (1: the surroundings). steepness: phi, how sudden it sets in.
    """
    lines = []
    for grey in as_grey(pictures).astype(np.float32) / 255:
        # A twentieth of white keeps noise in the dark from becoming lines.
        fine, coarse = (
            cv2.GaussianBlur(grey, (0, 0), width, borderType=cv2.BORDER_REPLICATE) + 0.05
            for width in (sigma, 1.6 * sigma)
        )
        sharp = (1 + sharpness) * fine / coarse - sharpness
        lines.append(-np.tanh(np.minimum(steepness * (sharp - level), 0)))
    return Annotation(from_grey(lines))


ANNOTATORS = (
    Annotator(
        id="lineart_standard",
        title="Line Art, Standard",
        condition="line art",
        kind="soft",
        description="Fine lines where a picture is darker than its surroundings. Needs no weights.",
        convention="white lines on black",
        annotate=standard,
        parameters=(
            Float("sigma", 6.0, 0.1, 100.0, "How far the surroundings reach, in pixels.", 0.1),
            Float(
                "threshold",
                8.0,
                0.0,
                64.0,
                "Differences above this, of 255, say what full strength is: more for fainter lines.",
                0.5,
            ),
        ),
        suits=_SUITS,
        aliases=("lineart",),
    ),
    Annotator(
        id="lineart_xdog",
        title="Line Art, XDoG",
        condition="line art",
        kind="soft",
        description="Clean lines as of a pen, by the extended difference of Gaussians. Needs no weights.",
        convention="white lines on black",
        annotate=xdog,
        parameters=(
            Float("sigma", 0.8, 0.3, 16.0, "Width of the lines in pixels.", 0.1),
            Float("sharpness", 20.0, 0.0, 200.0, "How much differences count.", 0.5),
            Float("level", 0.5, 0.0, 1.0, "Higher makes more ink."),
            Float("steepness", 8.0, 0.1, 100.0, "How suddenly ink sets in; lower makes soft lines.", 0.1),
        ),
        suits=_SUITS,
        aliases=("lineart", "difference of gaussians"),
    ),
)

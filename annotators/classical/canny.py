"""Canny edges: white lines, one pixel wide, on black."""

import cv2
import numpy as np
from torch import Tensor

from ..errors import ParameterError
from ..parameters import Choice, Int
from ..pixels import as_grey, from_grey
from ..registry import Annotation, Annotator


def canny(
    pictures: Tensor, low_threshold: float = 100, high_threshold: float = 200, thresholds: str = "fixed"
) -> Annotation:
    """Edges, 0 or 1, of pictures [B,3,H,W] in 0..1.

    low_threshold, high_threshold: of OpenCV's Canny on the Sobel gradient (L1) of the grey picture in 0..255.
    Pixels above the high one start an edge, connected ones above the low one continue it. thresholds:
    "automatic" finds them for each picture instead: Otsu's on the gradients that are any edge at all, and
    half of it. Raises ParameterError if the low one is above the high one.
    """
    if low_threshold > high_threshold and thresholds == "fixed":
        raise ParameterError(
            f"the low threshold {low_threshold} is above the high one {high_threshold}; lower it or "
            "raise the other."
        )
    greys = as_grey(pictures)
    if thresholds == "automatic":
        return Annotation(from_grey([automatic_edges(grey) for grey in greys]))
    return Annotation(from_grey([cv2.Canny(grey, low_threshold, high_threshold) for grey in greys]))


def automatic_edges(grey: np.ndarray) -> np.ndarray:
    """Canny edges, uint8 [H,W], 0 or 255, of a picture uint8 [H,W], with thresholds from its own contrast."""
    high = _otsu(grey)
    return cv2.Canny(grey, high / 2, high)


def _otsu(grey: np.ndarray) -> float:
    """Otsu's threshold (N. Otsu 1979) on the gradient (L1, Sobel) of a picture uint8 [H,W]."""
    dx, dy = cv2.spatialGradient(grey, borderType=cv2.BORDER_REPLICATE)
    gradient = np.abs(dx).astype(np.int32) + np.abs(dy)
    # The largest gradient is 2 * 4 * 255; an eighth of it fits Otsu's 8 bits.
    high, _ = cv2.threshold((gradient // 8).astype(np.uint8), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return max(8.0 * high, 1.0)


ANNOTATOR = Annotator(
    id="canny",
    title="Canny Edges",
    condition="canny",
    kind="lines",
    description=(
        "White edges on black, one pixel wide, wherever brightness changes; colours of the same brightness "
        "have none between them."
    ),
    convention="white lines of one pixel on black",
    annotate=canny,
    parameters=(
        Int(
            "low_threshold",
            100,
            0,
            1000,
            "Weaker edges than this are dropped; edges between the two are kept where they continue a strong "
            "one.",
        ),
        Int(
            "high_threshold",
            200,
            0,
            1000,
            "Edges stronger than this are always kept. Lower both for more lines.",
        ),
        Choice(
            "thresholds",
            "fixed",
            ("fixed", "automatic"),
            "fixed: these two thresholds. automatic: found for each picture from its own contrast.",
        ),
    ),
    suits=("lllyasviel/control_v11p_sd15_canny", "diffusers/controlnet-canny-sdxl-1.0"),
    aliases=("edge detection", "edges"),
)

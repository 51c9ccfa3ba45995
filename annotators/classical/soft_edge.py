"""Soft edges without a network: those that several scales agree on."""

import cv2
import numpy as np
from torch import Tensor

from ..parameters import Float
from ..pixels import as_bytes, from_grey
from ..registry import Annotation, Annotator

# Each scale is so many times as coarse as the one before.
_SCALES = (1.0, 2.0, 4.0)


def soft_edges(pictures: Tensor, sigma: float = 1.0, contrast: float = 1.0) -> Annotation:
    """Soft edges of pictures [B,3,H,W]: the geometric mean of gradients at three scales.

    A texture is strong at the finest scale only, a shadow at the coarsest only; outlines are at all. The
    gradient is that of the colour (S. Di Zenzo 1986) in Lab, times the scale, which makes scales comparable
    (T. Lindeberg 1998).

    sigma: the finest scale in pixels. contrast: factor on the edges' strength.
    """
    edges = []
    for picture in as_bytes(pictures):
        lab = cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
        logarithms = [np.log(_gradient(lab, sigma * scale) + 1e-3) for scale in _SCALES]
        strength = np.exp(np.mean(logarithms, axis=0)) - 1e-3
        # A step of a quarter from black to white has strength 10. Weaker ones fade quickly.
        power = (strength * contrast) ** 2
        edges.append((power / (power + 10.0**2)).astype(np.float32))
    return Annotation(from_grey(edges))


def _gradient(lab: np.ndarray, sigma: float) -> np.ndarray:
    """The largest rate of change [H,W] of a picture [H,W,3] in any direction, at a scale in pixels."""
    smooth = cv2.GaussianBlur(lab, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    dx, dy = (
        cv2.Sobel(smooth, cv2.CV_32F, *axis, ksize=3, scale=sigma / 8, borderType=cv2.BORDER_REPLICATE)
        for axis in ((1, 0), (0, 1))
    )
    xx, yy, xy = (dx * dx).sum(-1), (dy * dy).sum(-1), (dx * dy).sum(-1)
    return np.sqrt((xx + yy + np.sqrt((xx - yy) ** 2 + 4 * xy * xy)) / 2)


ANNOTATOR = Annotator(
    id="soft_edges",
    title="Soft Edges",
    condition="soft edge",
    kind="soft",
    description="Soft outlines that are there at several scales at once. Needs no weights.",
    convention="soft white lines on black",
    annotate=soft_edges,
    parameters=(
        Float(
            "sigma", 1.0, 0.3, 16.0, "The finest detail in pixels; raise it for large or noisy pictures.", 0.1
        ),
        Float("contrast", 1.0, 0.1, 10.0, "How strong edges become.", 0.1),
    ),
    suits=("lllyasviel/control_v11p_sd15_softedge", "lllyasviel/sd-controlnet-hed"),
    aliases=("hed", "softedge"),
)

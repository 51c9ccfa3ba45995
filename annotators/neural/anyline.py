"""AnyLine: edges by a TEED trained for it, and the fine dark lines of a drawing (TheMistoAI 2024)."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from ..parameters import Float
from ..registry import Annotation, Annotator, WeightFile
from .shared import as_picture, in_levels
from .teed import build_teed, teed_edges

_FILE = WeightFile("TheMistoAI/MistoLine", "Anyline/MTEED.pth", "OpenRAIL++")

# Lines of fewer pixels are specks.
_SPECK = 36


def build(paths: Mapping[str, Path]) -> torch.nn.Module:
    return build_teed(paths[_FILE.file])


def anyline(pictures: Tensor, net: torch.nn.Module, sigma: float = 2.0, threshold: float = 3.0) -> Annotation:
    """Soft edges, and drawn over them (screen) where the picture is darker than its surroundings.

    sigma: the radius of the surroundings in pixels; threshold: the least difference, of 255, that counts when
    the lines' usual strength is measured.
    """
    edges = in_levels(teed_edges(pictures, net), 2).cpu()
    drawn = [_fine_lines(one, sigma, threshold) for one in pictures.cpu().movedim(1, -1).numpy()]
    lines = torch.from_numpy(np.stack(drawn))[:, None]
    return Annotation(as_picture(1 - (1 - edges) * (1 - lines)))


def _fine_lines(picture: np.ndarray, sigma: float, threshold: float) -> np.ndarray:
    """Lines [H,W] in 0..1 of one picture [H,W,3] in 0..1."""
    picture = picture * 255.0
    darker = (cv2.GaussianBlur(picture, (0, 0), sigma) - picture).min(2).clip(0, 255)
    strong = darker[darker > threshold]
    lines = (darker / max(16.0, float(np.median(strong)) if strong.size else 0.0) * 127 / 255).clip(0, 1)
    drawn = (lines * 255 >= 1).astype(np.uint8)
    _, parts, sizes, _ = cv2.connectedComponentsWithStats(drawn, connectivity=4)
    kept = sizes[:, cv2.CC_STAT_AREA] >= _SPECK
    return (lines * (drawn & kept[parts])).astype(np.float32)


ANNOTATOR = Annotator(
    id="anyline",
    title="AnyLine",
    condition="soft edge",
    kind="soft",
    description="Soft outlines and, over them, the fine dark lines of a drawing; the hint of MistoLine.",
    convention="soft white lines on black",
    annotate=anyline,
    parameters=(
        Float(
            "sigma",
            2.0,
            0.5,
            20.0,
            "Radius in pixels of what a line is darker than.",
            0.1,
        ),
        Float("threshold", 3.0, 0.0, 64.0, "Differences below it, of 255, do not count as lines.", 0.5),
    ),
    build=build,
    weights=(_FILE,),
    multiple=8,
    suits=("TheMistoAI/MistoLine",),
    aliases=("line art", "mistoline"),
)

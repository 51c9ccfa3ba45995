"""Inpaint hints: the picture, with what is to be painted marked."""

import torch
from torch import Tensor

from ..parameters import Choice
from ..registry import Annotation, Annotator

_MARKS = {"minus one": -1.0, "black": 0.0}


def inpaint(pictures: Tensor, masks: Tensor, mark: str = "minus one") -> Annotation:
    """Pictures [B,3,H,W] that are -1, or 0, where masks [B,1,H,W] are above a half.

    -1 is no colour, and is how the ControlNet knows what it does not know; the hint then holds -1 as it is,
    and the pack's nodes hand it on. As an 8-bit file it would become black.
    """
    marked = masks > 0.5
    return Annotation(torch.where(marked, _MARKS[mark], pictures), mask=marked[:, 0].float())


ANNOTATOR = Annotator(
    id="inpaint",
    title="Inpaint Hint",
    condition="inpaint",
    kind="inpaint",
    description="A picture with the masked places marked, which an inpaint ControlNet fills.",
    convention="-1 (or 0) in all channels where to paint, the picture's own colours elsewhere",
    annotate=inpaint,
    parameters=(
        Choice(
            "mark",
            "minus one",
            tuple(_MARKS),
            "minus one: for SD1.5's inpaint ControlNet and most others. black: for some SDXL ones.",
        ),
    ),
    masked=True,
    suits=("lllyasviel/control_v11p_sd15_inpaint", "destitech/controlnet-inpaint-dreamer-sdxl"),
    aliases=("outpaint", "mask"),
)

"""Hints of any origin: fitted to a size by what they look like, and shown with the pictures they are of."""

from typing import Literal

import torch
from torch import Tensor

from . import fit
from .errors import AnnotatorError
from .registry import Kind


def fitted(
    hints: Tensor, size: fit.Size, mode: fit.Mode = "crop", kind: Kind | Literal["auto"] = "auto"
) -> Tensor:
    """Hints [B,H,W,C] at a size (height, width), float32; the second or fourth of their channels is opacity.
    kind: "auto" tells it for each by its looks.

    Raises AnnotatorError if the hints are no pictures.
    """
    maps = _maps(hints, "hint")
    # Opacity is no colour: with it lines would not be thin, nor normals of length 1.
    opaque = maps.shape[1] in (1, 3)
    made = []
    for one in maps.split(1):
        colours = one if opaque else one[:, :-1]
        own = fit.kind_of(_rgb(colours)[0]) if kind == "auto" else kind
        parts = [fit.fit(colours, size, mode, own)]
        if not opaque:
            parts.append(fit.fit(one[:, -1:], size, mode, "depth"))
        made.append(torch.cat(parts, 1))
    return torch.cat(made).movedim(1, -1).contiguous()


def over(images: Tensor, hints: Tensor, opacity: float) -> Tensor:
    """Hints over pictures, both [B,H,W,C] in 0..1 or one for all; [B,H,W,3] of the pictures' size.

    A hint covers by its brightest channel times `opacity`, so that black shows the picture; what an inpaint
    hint marks with -1 is black and covers. Raises AnnotatorError if the numbers do not go together.
    """
    pictures, maps = _pair(images, hints)
    marked = (maps < -0.5).all(1, keepdim=True)
    cover = torch.where(marked, 1.0, maps.amax(1, keepdim=True).clamp(0, 1)) * opacity
    mixed = pictures * (1 - cover) + maps.clamp(0, 1) * cover
    return mixed.movedim(1, -1).contiguous()


def beside(images: Tensor, hints: Tensor) -> Tensor:
    """Pictures [B,H,W,C] with their hints at their right: [B,H,2 W,3]. Numbers and errors as of `over`."""
    pictures, maps = _pair(images, hints)
    return torch.cat([pictures, maps.clamp(0, 1)], -1).movedim(1, -1).contiguous()


def _pair(images: Tensor, hints: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures and hints [B,3,H,W] of the pictures' size."""
    pictures = _maps(images, "image").clamp(0, 1)
    maps = _maps(hints, "hint")
    if len(pictures) != len(maps) and 1 not in (len(pictures), len(maps)):
        raise AnnotatorError(
            f"there are {len(pictures)} pictures and {len(maps)} hints; expected one hint for all, or one "
            "for each picture."
        )
    size = (pictures.shape[2], pictures.shape[3])
    count = max(len(pictures), len(maps))
    maps = fitted(maps.movedim(1, -1), size).movedim(-1, 1)
    return _rgb(pictures).expand(count, -1, -1, -1), _rgb(maps).expand(count, -1, -1, -1)


def _rgb(maps: Tensor) -> Tensor:
    """[B,3,H,W] of maps with 1 to 4 channels; opacity is left out."""
    return maps[:, :3] if maps.shape[1] >= 3 else maps[:, :1].expand(-1, 3, -1, -1)


def _maps(images: Tensor, name: str) -> Tensor:
    if images.ndim != 4 or 0 in images.shape or images.shape[-1] > 4:
        raise AnnotatorError(
            f"{name} has shape {tuple(images.shape)}; expected [pictures, height, width, channels] with 1 "
            "to 4 channels. Connect an IMAGE."
        )
    return torch.nan_to_num(images.detach().cpu().float(), nan=0.0).movedim(-1, 1)

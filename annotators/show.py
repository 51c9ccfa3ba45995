"""Hints of any origin: fitted to a size by what they look like, and shown with the pictures they are of."""

from collections.abc import Iterator
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

    Raises AnnotatorError if the hints are no pictures or not finite, ParameterError for a size or mode that
    is none.
    """
    _check(hints, "hint")
    if not hints.isfinite().all():
        raise AnnotatorError(
            "the hint contains values that are not finite numbers (NaN or infinity); the node that made it "
            "failed. Look at its output with a preview, and check its inputs and precision."
        )
    fit.place((hints.shape[1], hints.shape[2]), size, mode)
    made = torch.empty(len(hints), *size, hints.shape[-1])
    for hint, place in zip(hints, made, strict=True):
        place.copy_(_fitted(_map(hint), size, mode, kind)[0].movedim(0, -1))
    return made


def _fitted(hint: Tensor, size: fit.Size, mode: fit.Mode, kind: Kind | Literal["auto"]) -> Tensor:
    """One hint [1,C,H,W] at a size."""
    # Opacity is no colour: with it lines would not be thin, nor normals of length 1.
    opaque = hint.shape[1] in (1, 3)
    colours = hint if opaque else hint[:, :-1]
    own = fit.kind_of(_rgb(colours)[0]) if kind == "auto" else kind
    parts = [fit.fit(colours, size, mode, own)]
    if not opaque:
        parts.append(fit.fit(hint[:, -1:], size, mode, "depth"))
    return torch.cat(parts, 1)


def over(images: Tensor, hints: Tensor, opacity: float) -> Tensor:
    """Hints over pictures, both [B,H,W,C] in 0..1 or one for all; [B,H,W,3] of the pictures' size.

    A hint covers by its brightest channel times `opacity`, so that black shows the picture; what an inpaint
    hint marks with -1 is black and covers. Raises AnnotatorError if the numbers do not go together.
    """
    count = _count(images, hints)
    made = torch.empty(count, *images.shape[1:3], 3)
    for place, (picture, hint) in zip(made, _pairs(images, hints, count), strict=True):
        marked = (hint < -0.5).all(0, keepdim=True)
        cover = torch.where(marked, 1.0, hint.amax(0, keepdim=True).clamp(0, 1)) * opacity
        place.copy_((picture * (1 - cover) + hint.clamp(0, 1) * cover).movedim(0, -1))
    return made


def beside(images: Tensor, hints: Tensor) -> Tensor:
    """Pictures [B,H,W,C] with their hints at their right: [B,H,2 W,3]. Numbers and errors as of `over`."""
    count = _count(images, hints)
    height, width = images.shape[1:3]
    made = torch.empty(count, height, 2 * width, 3)
    for place, (picture, hint) in zip(made, _pairs(images, hints, count), strict=True):
        place.copy_(torch.cat([picture, hint.clamp(0, 1)], -1).movedim(0, -1))
    return made


def _count(images: Tensor, hints: Tensor) -> int:
    """How many pictures there are to show."""
    _check(images, "image")
    _check(hints, "hint")
    if len(images) != len(hints) and 1 not in (len(images), len(hints)):
        raise AnnotatorError(
            f"there are {len(images)} pictures and {len(hints)} hints; expected one hint for all, or one "
            "for each picture."
        )
    return max(len(images), len(hints))


def _pairs(images: Tensor, hints: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Pictures and hints [3,H,W] of the pictures' size, one pair at a time, for a video's are large."""
    size = (images.shape[1], images.shape[2])
    hint = None
    for i in range(count):
        picture = _rgb(_map(images[i % len(images)]).clamp(0, 1))[0]
        if hint is None or len(hints) > 1:
            hint = _rgb(_fitted(_map(hints[i % len(hints)]), size, "crop", "auto"))[0]
        yield picture, hint


def _rgb(maps: Tensor) -> Tensor:
    """[B,3,H,W] of maps with 1 to 4 channels; opacity is left out."""
    return maps[:, :3] if maps.shape[1] >= 3 else maps[:, :1].expand(-1, 3, -1, -1)


def _check(images: Tensor, name: str) -> None:
    if images.ndim != 4 or 0 in images.shape or images.shape[-1] > 4:
        raise AnnotatorError(
            f"{name} has shape {tuple(images.shape)}; expected [pictures, height, width, channels] with 1 "
            "to 4 channels. Connect an IMAGE."
        )


def _map(image: Tensor) -> Tensor:
    """One picture [H,W,C] as [1,C,H,W]."""
    return torch.nan_to_num(image.detach().cpu().float(), 0.0, 1.0, 0.0).movedim(-1, 0)[None]

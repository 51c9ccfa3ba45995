"""Masks [M,H,W]: where in the picture a control acts."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ControlError
from .hint import cut_to_shape


def prepare_mask(mask: Tensor, feather: float = 0.0) -> Tensor:
    """A mask [M,H,W] in 0..1 of a MASK [H,W], [M,H,W] or [M,1,H,W], its edges softened.

    feather: how far an edge reaches to either side, in pixels of the mask; 0 leaves it as it is.
    Raises ControlError for another shape, for values that are not finite, and for a negative feather.
    """
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim == 4 and mask.shape[1] == 1:
        mask = mask[:, 0]
    if mask.ndim != 3 or 0 in mask.shape:
        raise ControlError(
            f"the mask has shape {tuple(mask.shape)}; expected [masks, height, width]. Connect a MASK."
        )
    if not torch.isfinite(mask).all():
        raise ControlError(
            "the mask contains values that are not finite numbers (NaN or infinity); the node that made it "
            "failed. Look at its output with a preview."
        )
    if not (math.isfinite(feather) and feather >= 0):
        raise ControlError(f"feather is {feather}; expected pixels from 0 upwards.")
    mask = mask.float().clamp(0.0, 1.0)
    return _blur(mask, feather) if feather > 0 else mask


def _blur(mask: Tensor, reach: float) -> Tensor:
    """Two box filters in a row, a ramp that ends `reach` pixels from an edge; borders are continued."""
    whole = max(1, round(reach))
    mask = mask[:, None]
    # Together the two boxes reach as far as their radii add up to.
    for radius in (whole // 2, whole - whole // 2):
        for pad in ((radius, radius, 0, 0), (0, 0, radius, radius)):
            size = (1, 2 * radius + 1) if pad[0] else (2 * radius + 1, 1)
            mask = F.avg_pool2d(F.pad(mask, pad, mode="replicate"), size, stride=1)
    return mask[:, 0].clamp(0.0, 1.0)


def fit_mask(mask: Tensor, height: int, width: int, block: tuple[int, int] | None = None) -> Tensor:
    """The mask [M,H,W] cut from the centre to a picture's shape, as hints are, at a block's size, by area.

    height, width: of the latent; block: (rows, columns) of the block, the latent's own without. Odd sides
    are rounded up from block to block, so that blocks have not quite the latent's shape.
    """
    mask = cut_to_shape(mask, height, width)
    rows, columns = block or (height, width)
    if mask.shape[-2:] == (rows, columns):
        return mask
    return F.interpolate(mask[:, None], (rows, columns), mode="area")[:, 0]


def leaves_some(mask: Tensor, height: int, width: int) -> list[bool]:
    """For each mask [M,H,W] whether anything of it is above 0 in a picture of this shape."""
    return cut_to_shape(mask, height, width).flatten(1).any(dim=1).tolist()


def token_grid(tokens: int, height: int, width: int) -> tuple[int, int]:
    """(rows, columns) of `tokens` that cover a latent of this size in square patches, rounded up.

    Transformers' residuals are [B,tokens,C]. Raises ControlError if no patch size fits.
    """
    for patch in (1, 2, 4, 8, 16):
        rows, columns = -(-height // patch), -(-width // patch)
        if rows * columns == tokens:
            return rows, columns
    raise ControlError(
        f"a mask cannot be laid over this model's residuals: {tokens} tokens are no grid of square patches "
        f"on a latent of {height} x {width}. Remove the mask from this control."
    )

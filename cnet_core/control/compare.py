"""How loud controls are, and whether they say the same."""

from collections.abc import Sequence
from itertools import zip_longest

import torch
import torch.nn.functional as F
from torch import Tensor

from .mask import token_grid


def residual_sizes(residuals: Sequence[Tensor | None]) -> list[float]:
    """Root mean square of each residual, over its whole batch; 0 where there is none."""
    sizes = [None if r is None else float(r.float().pow(2).mean().sqrt()) for r in residuals]
    return [size or 0.0 for size in sizes]


def agreement(a: Sequence[Tensor | None], b: Sequence[Tensor | None], height: int, width: int) -> Tensor:
    """[B,height,width] in -1..1: 1 where two controls say the same, -1 the opposite, 0 unrelated or silent.

    a, b: residuals of two controls block by block, [B,C,H_i,W_i] or [B,tokens,C], None for a silent block;
    height, width: of the latent. At each place the cosine over channels, its blocks weighed by the product of
    the two norms: sum_i <a_i, b_i> / sum_i |a_i| |b_i|. The loudness of the one against the other does not
    count.
    """
    dots, norms = torch.zeros(1, height, width), torch.zeros(1, height, width)
    for one, other in zip_longest(a, b):
        if one is None or other is None:
            continue
        maps = [_map(residual, height, width) for residual in (one, other)]
        dot = (maps[0] * maps[1]).sum(1)
        norm = maps[0].norm(dim=1) * maps[1].norm(dim=1)
        # Both are resized alike and linearly, so |dot| <= norm still holds.
        dots = dots + _resized(dot, height, width).cpu()
        norms = norms + _resized(norm, height, width).cpu()
    return torch.where(norms > 0, dots / norms.clamp_min(torch.finfo(norms.dtype).tiny), 0.0).clamp(-1, 1)


def _map(residual: Tensor, height: int, width: int) -> Tensor:
    """[B,C,H,W] in fp32, of tokens too."""
    residual = residual.float()
    if residual.ndim != 3:
        return residual
    rows, columns = token_grid(residual.shape[1], height, width)
    return residual.transpose(1, 2).unflatten(2, (rows, columns))


def _resized(values: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(values[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]

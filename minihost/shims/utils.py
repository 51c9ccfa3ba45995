"""`comfy.utils`: progress, resizing, files."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

PROGRESS_BAR_ENABLED = True


class ProgressBar:
    """A node's progress, shown as a bar on the terminal."""

    def __init__(self, total: int, node_id: str | None = None):
        self.total, self.current, self.node_id = total, 0, node_id
        self.bar = tqdm(total=total, disable=not PROGRESS_BAR_ENABLED, leave=False)

    def update_absolute(self, value: int, total: int | None = None, preview: Any = None) -> None:
        if total is not None:
            self.total = self.bar.total = total
        self.current = min(value, self.total)
        self.bar.n = self.current
        self.bar.refresh()
        if self.current >= self.total:
            self.bar.close()

    def update(self, value: int) -> None:
        self.update_absolute(self.current + value)


def common_upscale(samples: Tensor, width: int, height: int, upscale_method: str, crop: str) -> Tensor:
    """Resize images [B,C,H,W]; with crop="center" cut to the new aspect first, so nothing is stretched."""
    if upscale_method in ("bislerp", "lanczos"):
        raise ValueError(
            f"minihost cannot resize by '{upscale_method}'; use nearest-exact, bilinear, area or bicubic"
        )
    if crop == "center":
        old_height, old_width = samples.shape[-2:]
        x = max(0, round((old_width - old_height * width / height) / 2))
        y = max(0, round((old_height - old_width * height / width) / 2))
        samples = samples[..., y : old_height - y, x : old_width - x]
    return torch.nn.functional.interpolate(samples, size=(height, width), mode=upscale_method)


def repeat_to_batch_size(tensor: Tensor, batch_size: int, dim: int = 0) -> Tensor:
    """Repeat along `dim`, then cut, to have `batch_size` entries."""
    have = tensor.shape[dim]
    if have == batch_size:
        return tensor
    repeats = [1] * tensor.ndim
    repeats[dim] = -(-batch_size // have)
    return tensor.repeat(repeats).narrow(dim, 0, batch_size)

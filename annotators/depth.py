"""Depth maps as annotators read them: from any range, and from files of 8 bits."""

import cv2
import numpy as np
import torch
from torch import Tensor


def prepared_depth(images: Tensor) -> Tensor:
    """Grey depth maps [B,H,W,1], or with opacity [B,H,W,2], without the steps of 8 bits, of maps [B,H,W,C].

    NaN is farthest.

    Those that reach beyond 0..1, as networks give them, are 0 where they are farthest and 1 where nearest.
    """
    grey = 1 if images.shape[-1] < 3 else 3
    depth = images[..., :grey].float()
    finite = depth.isfinite()
    low = torch.where(finite, depth, torch.inf).amin((1, 2, 3), keepdim=True)
    high = torch.where(finite, depth, -torch.inf).amax((1, 2, 3), keepdim=True)
    # By less, the way in overshot: a resized map of 0..1.
    raw = (low < -0.1) | (high > 1.1)
    scaled = torch.where(raw, (depth - low) / (high - low).clamp(min=1e-12), depth)
    scaled = torch.nan_to_num(scaled, nan=0.0, posinf=1.0, neginf=0.0)
    # In double precision, in which the mean of three equal bytes is that byte.
    mean = scaled.double().mean(-1).float()
    # How far from a byte's own number it may be: in 16 bits half a step of these, between a half and 1.
    rounding = torch.finfo(images.dtype).eps if images.is_floating_point() else 0.0
    error = min(max(1e-3, 255 * rounding / 4), 0.1)
    smooth = np.stack([_without_steps(one, error) for one in mean.cpu().numpy()])
    whole = torch.from_numpy(smooth)[..., None].to(images.device)
    return torch.cat([whole, images[..., grey:].float()], -1)


def _without_steps(depth: np.ndarray, error: float) -> np.ndarray:
    """A depth map [H,W] that, if it has but 8 bits, is smooth where it only rises from one to the next.

    error: how far, in steps, its values may be from those of bytes.

    By twice the self-guided filter (K. He, J. Sun, X. Tang 2010), which smooths what varies by less than two
    steps within its window and leaves edges as they are.
    """
    scaled = depth * 255
    steps = np.rint(scaled)
    if np.abs(scaled - steps).max() > error:
        return depth
    depth = steps / 255
    side = 2 * max(1, min(depth.shape) // 64) + 1

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.blur(values, (side, side), borderType=cv2.BORDER_REPLICATE)

    for _ in range(2):
        local = mean(depth)
        variance = np.maximum(mean(depth * depth) - local * local, 0)
        own = variance / (variance + (2 / 255) ** 2)
        depth = mean(own) * depth + mean((1 - own) * local)
    return depth

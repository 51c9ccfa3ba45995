"""Canny edges: white lines, one pixel wide, on black."""

import cv2
import numpy as np
import torch
from torch import Tensor


def canny(images: Tensor, low: float = 100.0, high: float = 200.0) -> Tensor:
    """Edges [B,H,W,3], 0 or 1, of pictures [B,H,W,C] in 0..1 (C: 1 grey, 3 RGB, 4 RGB with opacity over
    black).

    low, high: thresholds of OpenCV's Canny on the Sobel gradient (L1) of the grey picture in 0..255. Pixels
    above `high` start an edge, connected ones above `low` continue it. Raises ValueError if low > high.
    """
    if low > high:
        raise ValueError(
            f"the low threshold {low} is above the high one {high}; lower it or raise the other."
        )
    edges = [cv2.Canny(_grey(image), low, high) for image in images]
    return torch.from_numpy(np.stack(edges)).float().div(255.0)[..., None].repeat(1, 1, 1, 3)


def _grey(image: Tensor) -> np.ndarray:
    """One picture [H,W,C] as uint8 [H,W], rounded; values that are no numbers count as black."""
    pixels = torch.nan_to_num(image.detach().cpu().float()).clamp(0.0, 1.0)
    if pixels.shape[-1] == 4:
        pixels = pixels[..., :3] * pixels[..., 3:]
    array = (pixels * 255.0).round().to(torch.uint8).numpy()
    if array.shape[-1] == 1:
        return np.ascontiguousarray(array[..., 0])
    return cv2.cvtColor(np.ascontiguousarray(array), cv2.COLOR_RGB2GRAY)

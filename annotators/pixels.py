"""From tensors to OpenCV's arrays and back."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor


def as_arrays(pictures: Tensor) -> np.ndarray:
    """Pictures [B,C,H,W] as float32 [B,H,W,C]; not copied where they lie so in memory."""
    return pictures.detach().cpu().float().movedim(1, -1).contiguous().numpy()


def as_bytes(pictures: Tensor) -> np.ndarray:
    """Pictures [B,C,H,W] in 0..1 as uint8 [B,H,W,C], rounded."""
    arrays = as_arrays(pictures)
    # In one go over the memory.
    return cv2.convertScaleAbs(arrays.reshape(len(arrays), -1), alpha=255.0).reshape(arrays.shape)


def as_grey(pictures: Tensor) -> np.ndarray:
    """Pictures [B,3,H,W] in 0..1 as grey uint8 [B,H,W] (ITU-R BT.601)."""
    return np.stack([cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in as_bytes(pictures)])


def from_arrays(pictures: np.ndarray) -> Tensor:
    """Pictures float32 [B,H,W,C] as [B,C,H,W], as they lie in memory."""
    return torch.from_numpy(pictures).movedim(-1, 1)


def from_bytes(pictures: np.ndarray) -> Tensor:
    """Pictures uint8 [B,H,W,3] as [B,3,H,W] in 0..1."""
    return torch.from_numpy(pictures).movedim(-1, 1).float().div_(255.0)


def from_grey(pictures: Sequence[np.ndarray] | np.ndarray) -> Tensor:
    """Grey pictures [H,W], uint8 or float in 0..1, as [B,3,H,W] in 0..1."""
    made = np.empty((len(pictures), *pictures[0].shape, 3), np.float32)
    for grey, colours in zip(pictures, made, strict=True):
        if grey.dtype == np.uint8:
            grey = np.divide(grey, np.float32(255.0), dtype=np.float32)
        cv2.cvtColor(grey.astype(np.float32, copy=False), cv2.COLOR_GRAY2RGB, dst=colours)
    return from_arrays(made)


def strongest(picture: np.ndarray) -> np.ndarray:
    """The largest value [H,W] of the three channels of a picture [H,W,3]."""
    red, green, blue = cv2.split(picture)
    return cv2.max(cv2.max(red, green), blue)

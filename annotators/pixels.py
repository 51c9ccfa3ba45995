"""From tensors to OpenCV's arrays and back."""

import cv2
import numpy as np
import torch
from torch import Tensor


def as_bytes(pictures: Tensor) -> np.ndarray:
    """Pictures [B,C,H,W] in 0..1 as uint8 [B,H,W,C], rounded."""
    array = (pictures.detach().cpu().float() * 255.0).round_().clamp_(0, 255).to(torch.uint8)
    return np.ascontiguousarray(array.movedim(1, -1).numpy())


def as_grey(pictures: Tensor) -> np.ndarray:
    """Pictures [B,3,H,W] in 0..1 as grey uint8 [B,H,W] (ITU-R BT.601)."""
    return np.stack([cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in as_bytes(pictures)])


def from_bytes(pictures: np.ndarray) -> Tensor:
    """Pictures uint8 [B,H,W,3] as [B,3,H,W] in 0..1."""
    return torch.from_numpy(pictures).movedim(-1, 1).float().div_(255.0)


def from_grey(pictures: np.ndarray) -> Tensor:
    """Grey pictures [B,H,W], uint8 or float in 0..1, as [B,3,H,W] in 0..1."""
    grey = torch.from_numpy(np.ascontiguousarray(pictures))
    grey = grey.float().div_(255.0) if grey.dtype == torch.uint8 else grey.float()
    return grey[:, None].expand(-1, 3, -1, -1)

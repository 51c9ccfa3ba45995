"""How well a picture follows its control, measured without a learned judge.

Images are RGB: numpy arrays or torch tensors, float [H, W, 3] in 0..1, or uint8 [H, W, 3] in 0..255.
The three measures each answer for one kind of control: pose, depth and edges. All need only numpy and OpenCV.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from .errors import HintError

Colour = Sequence[float] | np.ndarray
WHITE = (1.0, 1.0, 1.0)


def _array(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)


def _picture(image: Any) -> np.ndarray:
    """float32 [H, W, 3] in 0..1."""
    picture = _array(image)
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise HintError(
            f"The image has shape {picture.shape}; one RGB picture of shape [H, W, 3] was expected. "
            "Pass the pictures of a batch one by one."
        )
    if picture.dtype == np.uint8:
        return picture.astype(np.float32) / 255
    return np.clip(picture.astype(np.float32), 0, 1)


def _map(value: Any, picture: np.ndarray, name: str) -> np.ndarray:
    plane = _array(value)
    if plane.shape != picture.shape[:2]:
        raise HintError(
            f"The {name} has shape {plane.shape}, the image {picture.shape[:2]}; both need one [H, W]. "
            f"Resize the {name} to the image."
        )
    return plane


def transmission(image: Any, haze: Colour = WHITE) -> np.ndarray:
    """How much of each pixel's light comes through the haze, float32 [H, W]: 1 near, 0 infinitely far.

    One minus the least channel relative to the haze's colour: the dark channel prior of He, Sun and Tang,
    "Single Image Haze Removal Using Dark Channel Prior" (2009), on a patch of one pixel. It is exact where
    every surface lacks one of the three primaries, as saturated colours do.
    """
    return 1 - (_picture(image) / np.asarray(haze, np.float32)).min(axis=2)


def figure_pixels(
    image: Any, colour: Colour, others: Sequence[Colour] = (), haze: Colour = WHITE, saturation: float = 0.18
) -> np.ndarray:
    """The pixels of one surface colour seen through haze, bool [H, W].

    Haze adds its own colour, so taking the dark channel's share of haze away leaves the surface's colour up
    to brightness; the directions of colours are then compared. A pixel belongs to `colour` when what is
    left is at least `saturation` bright, within 18 degrees of `colour`, and nearer to it than to any of
    `others` (the scene's other colours; RGB triples in 0..1, like `colour` and `haze`). Specks and lines less
    than three pixels wide, such as the mixed colours on the outlines of other things, do not count.
    """
    relative = _picture(image) / np.asarray(haze, np.float32)
    left = relative - relative.min(axis=2, keepdims=True)
    bright = np.linalg.norm(left, axis=2)
    colours = [colour, *(other for other in others if tuple(other) != tuple(colour))]
    names: np.ndarray = np.asarray(colours, np.float32) / np.asarray(haze, np.float32)
    names -= names.min(axis=1, keepdims=True)
    names /= np.maximum(np.linalg.norm(names, axis=1, keepdims=True), 1e-6)
    alike = left @ names.T / np.maximum(bright, 1e-6)[..., None]
    found = (alike.argmax(axis=2) == 0) & (alike[..., 0] > np.cos(np.deg2rad(18))) & (bright > saturation)
    return cv2.morphologyEx(found.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0


def limb_iou(
    image: Any, figure_mask: Any, figure_colour: Colour, others: Sequence[Colour] = (), haze: Colour = WHITE
) -> float:
    """Pose: intersection over union, 0..1, of the pixels of the figure's colour with the true silhouette.

    figure_mask: bool [H, W]. figure_colour, others, haze: see `figure_pixels`. 1 if both are empty.
    """
    picture = _picture(image)
    true = _map(figure_mask, picture, "figure mask").astype(bool)
    found = figure_pixels(picture, figure_colour, others, haze)
    union = np.count_nonzero(found | true)
    return np.count_nonzero(found & true) / union if union else 1.0


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks of a flat array; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse.reshape(-1)]


def rank_correlation(a: Any, b: Any) -> float:
    """Spearman's rank correlation of two arrays of equal size, -1..1; 0 when either is constant."""
    x, y = _ranks(_array(a).ravel()), _ranks(_array(b).ravel())
    if x.size != y.size:
        raise HintError(f"Rank correlation needs arrays of equal size; {x.size} and {y.size} were given.")
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / scale) if scale > 0 else 0.0


def depth_rank_correlation(image: Any, depth: Any, haze: Colour = WHITE, smooth: float = 1.0) -> float:
    """Depth: Spearman's correlation, -1..1, of the depth that haze shows with the true one.

    depth: [H, W], greater is nearer; only its order counts. haze: RGB of the haze in 0..1.
    smooth: sigma in pixels of the Gaussian blur that the picture's map gets first (0 for none).
    """
    picture = _picture(image)
    true = _map(depth, picture, "depth map")
    seen = transmission(picture, haze)
    if smooth > 0:
        seen = cv2.GaussianBlur(seen, (0, 0), smooth)
    # Without rounding, noise of a fraction of an eight-bit step would give an order to the flat sky.
    return rank_correlation(np.round(seen * 128), true)


def canny_edges(image: Any, low: int = 100, high: int = 200) -> np.ndarray:
    """Canny edges of the picture's grey, bool [H, W]."""
    grey = cv2.cvtColor(np.round(_picture(image) * 255).astype(np.uint8), cv2.COLOR_RGB2GRAY)
    return cv2.Canny(grey, low, high) > 0


def grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    """A mask, bool [H, W], with all that lies within so many pixels in both x and y."""
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)) > 0


def edge_f1(image: Any, edges: Any, tolerance: int = 2, low: int = 100, high: int = 200) -> float:
    """Edges: F1, 0..1, of the picture's Canny edges against the hint's, forgiving `tolerance` pixels.

    edges: [H, W], an edge wherever greater than half of its range (uint8 0..255, float 0..1 or bool).
    An edge pixel counts as right when the other map has an edge within `tolerance` in both x and y.
    1 if neither has any edge.
    """
    picture = _picture(image)
    true = _map(edges, picture, "edge map")
    true = true > (127 if true.dtype == np.uint8 else 0.5) if true.dtype != bool else true
    found = canny_edges(picture, low, high)
    if not true.any() and not found.any():
        return 1.0
    precision = (found & grown(true, tolerance)).sum() / max(float(found.sum()), 1.0)
    recall = (true & grown(found, tolerance)).sum() / max(float(true.sum()), 1.0)
    return float(2 * precision * recall / (precision + recall)) if precision + recall > 0 else 0.0

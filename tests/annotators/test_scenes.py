"""Against the truth: how much of the outlines of the demo's dancers annotators find in the picture alone."""

import cv2
import numpy as np
import pytest
import torch

from annotators.run import annotate
from annotators.table import find
from demo.scenes import draw_scene

SIZE = 256
# At least so much of the outlines, to within two pixels, with at most so much of the picture lit.
FOUND = {
    "canny": (0.92, 0.05),
    "soft_edges": (0.99, 0.15),
    "xdog_scribble": (0.99, 0.2),
    "lineart_xdog": (0.9, 0.08),
    "lsd_lines": (0.65, 0.05),
}


@pytest.fixture(scope="module")
def scenes():
    """Pictures [N,H,W,3] and the outlines [N,H,W] of what dances in them."""
    drawn = [draw_scene(seed, SIZE) for seed in range(12)]
    pictures = torch.from_numpy(np.stack([scene.image for scene in drawn]).astype(np.float32) / 255)
    square = np.ones((3, 3), np.uint8)
    masks = [scene.figure_mask.astype(np.uint8) for scene in drawn]
    return pictures, np.stack([cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, square) > 0 for mask in masks])


@pytest.mark.parametrize("name", FOUND)
def test_the_outlines_of_the_dancers_are_found(scenes, name):
    pictures, outlines = scenes
    least, most = FOUND[name]
    lit = annotate(find(name), pictures).image[..., 0].numpy() > 0.5
    near = np.stack([cv2.dilate(one.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0 for one in lit])
    shares = [float(hint[outline].mean()) for hint, outline in zip(near, outlines, strict=True)]
    print(f"{name}: {np.mean(shares):.3f} of the outlines, {lit.mean():.3f} lit")
    assert np.mean(shares) >= least and lit.mean() <= most

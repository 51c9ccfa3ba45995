"""What a perfect network would answer to people that are known."""

import numpy as np
import torch

from annotators.pose.maps import STRIDE
from annotators.pose.people import CHANNELS, FIELDS

# A person who stands, in shares of the square around it.
STANDING = np.array(
    [
        (0.50, 0.10), (0.50, 0.22), (0.38, 0.22), (0.30, 0.36), (0.24, 0.50), (0.62, 0.22), (0.70, 0.36),
        (0.76, 0.50), (0.42, 0.52), (0.41, 0.73), (0.40, 0.95), (0.58, 0.52), (0.59, 0.73), (0.60, 0.95),
        (0.47, 0.07), (0.53, 0.07), (0.43, 0.10), (0.57, 0.10),
    ]
)  # fmt: skip


def crowd(seed: int, count: int, width: int, height: int) -> np.ndarray:
    """People [P,18,3] side by side, each a little different, with scores of 1."""
    rng = np.random.default_rng(seed)
    across, side = width / count, 0.9 * min(width / count * 1.6, height)
    made = np.ones((count, 18, 3))
    for i, person in enumerate(made):
        corner = ((i + 0.5) * across - side / 2, (height - side) / 2)
        person[:, :2] = corner + (STANDING + rng.uniform(-0.02, 0.02, STANDING.shape)) * side
    return made


def answer(people: np.ndarray, size: tuple[int, int], seen: tuple[int, int]) -> tuple[torch.Tensor, ...]:
    """Fields [38,h,w] and heat [19,h,w] of people [P,18,3] in a picture (height, width) that the network saw
    at another size. A joint with a score of 0 is not there; the others are as high as it."""
    rows, columns = (-(-side // STRIDE) for side in seen)
    # The middle of each cell, in the network's pixels.
    y, x = (np.indices((rows, columns)) + 0.5) * STRIDE - 0.5
    scale = np.array([seen[1] / size[1], seen[0] / size[0]])
    heat, fields = np.zeros((19, rows, columns)), np.zeros((38, rows, columns))
    for person in people:
        points = (person[:, :2] + 0.5) * scale - 0.5
        for joint, ((px, py), score) in enumerate(zip(points, person[:, 2], strict=True)):
            # As they were trained: Gaussians of 7 pixels.
            blob = score * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * 7.0**2))
            heat[joint] = np.maximum(heat[joint], blob)
        for (a, b), channel in zip(FIELDS, CHANNELS, strict=True):
            if person[a, 2] and person[b, 2]:
                way = points[b] - points[a]
                length = np.linalg.norm(way)
                along = ((x - points[a, 0]) * way[0] + (y - points[a, 1]) * way[1]) / length
                aside = ((x - points[a, 0]) * way[1] - (y - points[a, 1]) * way[0]) / length
                on = (np.abs(aside) <= 8) & (along >= -8) & (along <= length + 8)
                fields[channel : channel + 2, on] = (way / length)[:, None]
    heat[18] = 1 - heat[:18].max(0)
    return torch.from_numpy(fields).float(), torch.from_numpy(heat).float()

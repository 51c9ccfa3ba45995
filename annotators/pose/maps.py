"""Points in the maps that pose networks answer with, found to fractions of a pixel.

A network answers in cells of STRIDE x STRIDE pixels of the picture that it was given. Enlarging a map is
linear and goes by rows and columns, so it is two matrices: maps are enlarged, smoothed and read in places, in
any number and on any device, by multiplying.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from ..fit import Size

STRIDE = 8
# What maps are smoothed by before points are looked for, in pixels.
_SIGMA = 3.0
_TAPS = 25


@dataclass(frozen=True)
class Enlarging:
    """The way from maps [h,w] to maps [H,W]: rows [H,h] @ map @ columns.T, columns [W,w]."""

    rows: Tensor
    columns: Tensor

    def whole(self, maps: Tensor) -> Tensor:
        """Maps [...,h,w] enlarged, [...,H,W]."""
        return self.rows.to(maps) @ maps @ self.columns.to(maps).T

    def at(self, maps: Tensor, y: Tensor, x: Tensor) -> Tensor:
        """The enlarged map [C,h,w] at N pixels: [N,C]."""
        rows, columns = self.rows.to(maps)[y], self.columns.to(maps)[x]
        return torch.einsum("nh,chw,nw->nc", rows, maps, columns)

    def smoothed(self) -> "Enlarging":
        """The same with a Gaussian of 3 pixels after it."""
        return Enlarging(_smooth(self.rows), _smooth(self.columns))


def enlarging(cells: Size, seen: Size, size: Size) -> Enlarging:
    """From a network's cells to a picture of `size`, of which it was given a copy of size `seen`; the cells
    may reach beyond that, over its padding.

    As the first release does it: to the network's pixels by Lanczos, there cut, and on by area or Lanczos.
    """
    kind = cv2.INTER_AREA if sum(size) < sum(seen) else cv2.INTER_LANCZOS4
    made = []
    for count, given, wanted in zip(cells, seen, size, strict=True):
        pixels = cv2.resize(
            np.eye(count, dtype=np.float32), (count, count * STRIDE), None, 0, 0, cv2.INTER_LANCZOS4
        )
        matrix = cv2.resize(pixels[:given], (count, wanted), interpolation=kind)
        made.append(torch.from_numpy(matrix.reshape(wanted, count)))
    return Enlarging(*made)


def peaks(maps: Tensor, way: Enlarging, threshold: float, most: int) -> list[list[np.ndarray]]:
    """The peaks of maps [B,C,h,w] when enlarged: for each picture and map [N,5] of x, y, the height, and the
    pixel x, y that they are in, by rows; at most so many, the highest.

    A peak is a pixel of the smoothed map above the threshold with lower ones around it; its height is that of
    the map as it was.
    """
    smooth = way.smoothed().whole(maps)
    padded = torch.nn.functional.pad(smooth, (1, 1, 1, 1), value=-torch.inf)
    up, down = padded[..., :-2, 1:-1], padded[..., 2:, 1:-1]
    left, right = padded[..., 1:-1, :-2], padded[..., 1:-1, 2:]
    # Of equals that touch, the last one.
    found = (smooth >= up) & (smooth >= left) & (smooth > down) & (smooth > right) & (smooth > threshold)
    return [
        [_peaks(one, level, way, places.nonzero(), most) for one, level, places in zip(*picture, strict=True)]
        for picture in zip(maps, smooth, found, strict=True)
    ]


def _peaks(one: Tensor, level: Tensor, way: Enlarging, places: Tensor, most: int) -> np.ndarray:
    """`peaks` of a single map [h,w], whose enlarged and smoothed form is `level`, at these places [N,2]."""
    heights = way.at(one[None], places[:, 0], places[:, 1])[:, 0]
    if len(places) > most:
        kept = heights.topk(most).indices.sort().values
        places, heights = places[kept], heights[kept]
    y, x = places.unbind(1)
    pixels = torch.stack([x, y], 1)
    exact = pixels + torch.stack([summit(level.T, x, y), summit(level, y, x)], 1)
    return torch.cat([exact, heights[:, None], pixels], 1).cpu().double().numpy()


def summit(level: Tensor, along: Tensor, across: Tensor) -> Tensor:
    """How far from pixels of a map [L,A] its summit is along the first side, by the parabola through each
    pixel and its two neighbours: -0.5 to 0.5, and 0 at the edge."""
    last = len(level) - 1
    before, here, after = (level[(along + step).clamp(0, last), across] for step in (-1, 0, 1))
    bend = (2 * here - before - after).clamp(min=1e-12)
    offset = ((after - before) / (2 * bend)).clamp(-0.5, 0.5)
    return torch.where((along == 0) | (along == last), 0.0, offset)


def highest(maps: Tensor, threshold: float) -> np.ndarray:
    """The highest point of each of some maps [C,H,W]: [C,3] of x, y, height; 0, 0, 0 where none is above."""
    columns = maps.shape[-1]
    heights, places = maps.flatten(1).max(1)
    y, x = places // columns, places % columns
    offsets = [
        (summit(one.T, i[None], j[None]), summit(one, j[None], i[None]))
        for one, i, j in zip(maps, x, y, strict=True)
    ]
    points = torch.stack([x, y], 1) + torch.tensor(offsets, device=maps.device).reshape(-1, 2)
    found = torch.cat([points, heights[:, None]], 1)
    return torch.where(heights[:, None] > threshold, found, 0.0).cpu().double().numpy()


def smoothed(maps: Tensor) -> Tensor:
    """Maps [...,H,W] smoothed by a Gaussian of 3 pixels."""
    return Enlarging(*(torch.eye(side) for side in maps.shape[-2:])).smoothed().whole(maps)


def _smooth(matrix: Tensor) -> Tensor:
    """A matrix [L,l] with a Gaussian after it, along its rows' order."""
    blurred = cv2.GaussianBlur(matrix.numpy(), (1, _TAPS), _SIGMA, None, _SIGMA, cv2.BORDER_REFLECT)
    return torch.from_numpy(blurred.reshape(matrix.shape))

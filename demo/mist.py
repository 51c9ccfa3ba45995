"""The misty air of the scenes: a canvas painted from far to near, and the camera that looks over the plain.

The mist is what makes the pictures measurable. Every pixel is

    t * albedo * shade + (1 - t) * HAZE,    t = exp(-DENSITY * (distance - 1))

and every albedo of the scenes has one channel at zero, so the least channel of a pixel, relative to HAZE, is
1 - t: the dark channel of He, Sun and Tang (2009). Depth can thus be read out of any picture without a
learned judge.

The camera looks level from height 1 - horizon, so that ground at the bottom edge has distance 1; a thing of
world size s at distance d appears s / d picture heights large.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

Colour = tuple[float, float, float]

HAZE = np.array([0.92, 0.95, 0.985], np.float32)
DENSITY = 0.30
LIGHT = (-0.55, -0.62, 0.56)  # from the upper left, in front; z points at the camera


@functools.lru_cache(maxsize=4)
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres (x, y) in picture heights, float32 [size, size] each."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    return np.meshgrid(axis, axis)


class Canvas:
    """The picture being painted from far to near, with its transmission."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.x, self.y = _grid(size)
        self.image = np.empty((3, size, size), np.float32)  # planar: several times faster to paint on
        self.image[:] = HAZE[:, None, None]
        self.depth = np.zeros((size, size), np.float32)

    def window(self, left: float, top: float, right: float, bottom: float) -> tuple[slice, slice]:
        """The pixels around a box given in picture heights, with a margin of 2 px."""
        low = [max(0, min(self.size, int(np.floor(v * self.size)) - 2)) for v in (top, left)]
        high = [max(0, min(self.size, int(np.ceil(v * self.size)) + 2)) for v in (bottom, right)]
        return slice(low[0], high[0]), slice(low[1], high[1])

    def paint(self, where: tuple[slice, slice], cover: np.ndarray, shade: np.ndarray | float,
              distance: np.ndarray | float, albedo: Colour) -> None:  # fmt: skip
        """Lay a shaded surface over the window; all arrays have the window's shape."""
        t = np.minimum(np.exp(-DENSITY * (np.asarray(distance, np.float32) - 1)), np.float32(1))
        keep, glow, haze = 1 - cover, cover * t * shade, cover * (1 - t)
        for plane, own, far in zip(self.image, albedo, HAZE.tolist(), strict=True):
            plane[where] = plane[where] * keep + glow * own + haze * far
        self.depth[where] = self.depth[where] * keep + cover * t

    def darken_ground(self, x: float, y: float, radius: float, strength: float, shades: np.ndarray) -> None:
        """A soft contact shadow: multiply the ground's shades [H, W] inside a flat ellipse."""
        where = self.window(x - 2.4 * radius, y - 0.8 * radius, x + 2.4 * radius, y + 0.8 * radius)
        square = ((self.x[where] - x) / radius) ** 2 + ((self.y[where] - y) / (0.3 * radius)) ** 2
        shades[where] *= 1 - strength * np.exp(-square)


def lambert(nx: np.ndarray, ny: np.ndarray | float, nz: np.ndarray | float) -> np.ndarray:
    return 0.38 + 0.62 * np.maximum(nx * LIGHT[0] + ny * LIGHT[1] + nz * LIGHT[2], 0)


@dataclass(frozen=True)
class Camera:
    horizon: float  # height of the horizon at the middle column, 0 top, 1 bottom
    slope: float  # of the horizon, downwards to the right

    def level(self, x: Any) -> Any:
        """Height of the horizon at a column or an array of columns."""
        return self.horizon + self.slope * (x - 0.5)

    def foot(self, x: Any, distance: float) -> Any:
        """Where ground at this column and distance appears."""
        return self.level(x) + (1 - self.horizon) / distance

"""`comfy_api.input`: a curve, as the CurveEditor node draws it and a CURVE socket carries it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

CurvePoint = tuple[float, float]


class CurveInput(ABC):
    """A function on 0..1, given by points; before the first and after the last it is constant."""

    @property
    @abstractmethod
    def points(self) -> list[CurvePoint]:
        """The points (x, y), by x."""

    @abstractmethod
    def interp(self, x: float) -> float:
        """The value at x; 0 for a curve without points."""

    def interp_array(self, xs: np.ndarray) -> np.ndarray:
        """The values at each of xs, in double precision."""
        return np.array([self.interp(float(x)) for x in xs.flat], dtype=np.float64).reshape(xs.shape)

    def to_lut(self, size: int = 256) -> np.ndarray:
        """The values at `size` places evenly from 0 to 1."""
        return self.interp_array(np.linspace(0.0, 1.0, size))

    @staticmethod
    def from_raw(data: Any) -> CurveInput:
        """A curve from the widget's value: {"points": [[x, y], ..], "interpolation": ".."}, or its points.

        The interpolation is "linear"; anything else is taken as "monotone_cubic", as in the host.
        """
        if isinstance(data, CurveInput):
            return data
        if not isinstance(data, Mapping):
            data = {"points": data}
        kind = LinearCurve if data.get("interpolation") == "linear" else MonotoneCubicCurve
        return kind([(float(x), float(y)) for x, y in data["points"]])


class PointCurve(CurveInput):
    """A curve through points, made piece by piece between neighbours."""

    def __init__(self, control_points: list[CurvePoint]):
        self._points = sorted(((float(x), float(y)) for x, y in control_points), key=lambda point: point[0])

    @property
    def points(self) -> list[CurvePoint]:
        return list(self._points)

    def interp(self, x: float) -> float:
        if not self._points:
            return 0.0
        if x <= self._points[0][0]:
            return self._points[0][1]
        if x >= self._points[-1][0]:
            return self._points[-1][1]
        piece = bisect_right(self._points, x, key=lambda point: point[0]) - 1
        start, end = self._points[piece][0], self._points[piece + 1][0]
        return self.between(piece, (x - start) / (end - start))

    @abstractmethod
    def between(self, piece: int, t: float) -> float:
        """The value at t in 0..1 from point `piece` to the next."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(points={self._points})"


class LinearCurve(PointCurve):
    """Straight lines from point to point."""

    def between(self, piece: int, t: float) -> float:
        (_, low), (_, high) = self._points[piece : piece + 2]
        return low + t * (high - low)


class MonotoneCubicCurve(PointCurve):
    """Cubic pieces that never overshoot their points (Fritsch and Carlson, SIAM J. Numer. Anal. 17, 1980)."""

    def __init__(self, control_points: list[CurvePoint]):
        super().__init__(control_points)
        self._slopes = monotone_slopes(self._points)

    def between(self, piece: int, t: float) -> float:
        (start, low), (end, high) = self._points[piece : piece + 2]
        first, last = ((end - start) * slope for slope in self._slopes[piece : piece + 2])
        rest = 1 - t
        return rest**2 * (low * (1 + 2 * t) + first * t) + t**2 * (high * (3 - 2 * t) - last * rest)


def monotone_slopes(points: list[CurvePoint]) -> list[float]:
    """The slope at each point: the mean of its two secants, limited so that each piece is monotone.

    Flat where the secants' signs differ. Each piece's two slopes, as multiples of its secant, are shrunk into
    the circle of radius 3. Of two points at one x, the step between them counts as flat.
    """
    secants = [0.0 if b[0] == a[0] else (b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(points)]
    if not secants:
        return [0.0] * len(points)
    inner = [0.0 if a * b <= 0 else (a + b) / 2 for a, b in pairwise(secants)]
    slopes = [secants[0], *inner, secants[-1]]
    for i, secant in enumerate(secants):
        if secant == 0:
            slopes[i] = slopes[i + 1] = 0.0
            continue
        steepness = math.hypot(slopes[i] / secant, slopes[i + 1] / secant)
        if steepness > 3:
            slopes[i] *= 3 / steepness
            slopes[i + 1] *= 3 / steepness
    return slopes


__all__ = ["CurveInput", "CurvePoint", "LinearCurve", "MonotoneCubicCurve"]

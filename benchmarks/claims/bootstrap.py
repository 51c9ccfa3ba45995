"""How sure a mean over seeds and pictures is."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

DRAWS = 2000


class Interval(NamedTuple):
    """A mean, and the bounds between which 95 % of its resampled values are."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"


def interval(values: Sequence[Sequence[float]] | np.ndarray, seed: int = 0) -> Interval:
    """The mean of values [seeds, pictures], with a percentile bootstrap over both (Efron, 1979).

    Seeds and pictures are resampled with replacement, the same pictures for all seeds, so that differences of
    paired values are told as exactly as pairing allows. With one seed, or three, what seeds vary is hardly in
    it: three draws of three are a coarse picture of their spread.
    """
    table = np.atleast_2d(np.asarray(values, np.float64))
    random = np.random.default_rng(seed)
    seeds, pictures = table.shape
    rows = random.integers(seeds, size=(DRAWS, seeds))
    columns = random.integers(pictures, size=(DRAWS, pictures))
    means = table[rows[:, :, None], columns[:, None, :]].mean(axis=(1, 2))
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(table.mean()), float(low), float(high))

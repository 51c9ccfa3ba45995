"""Whether scores rise in a jump, picture by picture, or little by little: what curves over steps show."""

from dataclasses import dataclass

import numpy as np

from .bootstrap import Interval, interval

# Of a picture's rise over the training; what rises less has no rise whose shape could be told.
LEAST_RISE = 0.1
SIMULATIONS = 200


@dataclass(frozen=True)
class Jumps:
    """share: of a picture's whole rise, that in its steepest stretch between two measurements.

    gradual: what that share would be, were each picture to rise as the mean does, plus the noise that other
    seeds have about the same picture's mean. mean: the same share of the curve of means, of each seed.
    pictures: how many rise at all. steps: quartiles of the step at whose measurement that stretch ends.
    agreement: the standard deviation of that step between seeds, of one picture, and what it would be if
    pictures were exchanged.
    """

    share: Interval
    gradual: Interval
    mean: list[float]
    pictures: int
    steps: tuple[float, float, float]
    agreement: tuple[float, float]


def steepest(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of curves [..., measurements]: the steepest rise as a share of the whole one, and where it ends."""
    rises = np.diff(curves, axis=-1)
    whole = curves[..., -1] - curves[..., 0]
    return rises.max(axis=-1) / whole, rises.argmax(axis=-1) + 1


def jumps(scores: np.ndarray, steps: list[int], seed: int = 0) -> Jumps | None:
    """scores: [seeds, pictures, measurements]; steps: at which they were measured.

    None where no picture rises in every seed, or with one seed, whose noise nobody can tell.
    """
    rising = (scores[..., -1] - scores[..., 0] >= LEAST_RISE).all(axis=0)
    if len(scores) < 2 or not rising.any():
        return None
    chosen = scores[:, rising]
    share, ends = steepest(chosen)
    overall = chosen.mean(axis=1)
    simulated, _ = steepest(_gradual(chosen, np.random.default_rng(seed)))
    places = np.array(steps, float)[ends]
    random = np.random.default_rng(seed)
    unrelated = np.mean([_between(random.permuted(places, axis=1)) for _ in range(SIMULATIONS)])
    low, middle, high = np.quantile(places, [0.25, 0.5, 0.75]).tolist()
    return Jumps(
        interval(share),
        interval([simulated.mean(axis=0)]),
        steepest(overall)[0].tolist(),
        int(rising.sum()),
        (low, middle, high),
        (_between(places), float(unrelated)),
    )


def _gradual(curves: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Curves [simulations, pictures, measurements] of pictures that all rise as the mean does.

    From each picture's own mean beginning to its own mean end, plus the differences between seeds at other
    pictures, taken at the same measurement. Those of n seeds about their mean are too small by (1 - 1/n)^0.5.
    """
    own = curves.mean(axis=0)
    course = own.mean(axis=0)
    course = (course - course[0]) / (course[-1] - course[0])
    smooth = own[:, :1] + (own[:, -1:] - own[:, :1]) * course
    noise = (curves - own) / (1 - 1 / len(curves)) ** 0.5
    pictures = own.shape[0]
    made = []
    for _ in range(SIMULATIONS):
        others = random.integers(pictures, size=pictures)
        made.append(smooth + noise[random.integers(len(curves))][others])
    return np.array(made)


def _between(places: np.ndarray) -> float:
    """The standard deviation between seeds [seeds, pictures], mean over pictures."""
    return float(places.std(axis=0, ddof=1).mean())

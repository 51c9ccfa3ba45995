"""How a control's strength changes over sampling, and from latent to latent of a batch."""

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import ControlError

# How a keyframe leads to the next one: a share 0..1 of the way in time to a share of the way in strength.
INTERPOLATIONS: dict[str, Callable[[float], float]] = {
    "linear": lambda way: way,
    "smooth": lambda way: way * way * (3 - 2 * way),
    "hold": lambda way: 0.0,
}


@dataclass(frozen=True)
class Keyframe:
    """A factor on the strength, from 0 upwards, at a point of sampling (0 first step, 1 last).

    interpolation: how it goes on from here to the next keyframe, a key of INTERPOLATIONS.
    Raises ControlError for values out of range.
    """

    percent: float
    strength: float
    interpolation: str = "linear"

    def __post_init__(self) -> None:
        if not 0 <= self.percent <= 1:
            raise ControlError(
                f"a keyframe lies at percent {self.percent}; expected 0 (the first step of sampling) to 1 "
                "(the last)."
            )
        if not (math.isfinite(self.strength) and self.strength >= 0):
            raise ControlError(
                f"the keyframe at percent {self.percent} has strength {self.strength}; expected a number "
                "from 0 upwards."
            )
        if self.interpolation not in INTERPOLATIONS:
            raise ControlError(
                f"interpolation {self.interpolation!r} is unknown; choose one of {', '.join(INTERPOLATIONS)}."
            )


@dataclass(frozen=True)
class Keyframes:
    """Keyframes in order of time; before the first and after the last, their strengths hold.

    Raises ControlError if there is none, or if they are out of order.
    """

    points: tuple[Keyframe, ...]

    def __post_init__(self) -> None:
        if not self.points:
            raise ControlError("a schedule needs at least one keyframe.")
        for before, after in zip(self.points, self.points[1:], strict=False):
            if after.percent <= before.percent:
                raise ControlError(
                    f"the keyframe at percent {after.percent} comes after the one at {before.percent}; "
                    "keyframes must be given in order of time, each later than the one before it."
                )

    def __call__(self, percent: float) -> float:
        after = bisect.bisect_right([point.percent for point in self.points], percent)
        if after == 0:
            return self.points[0].strength
        here = self.points[after - 1]
        if after == len(self.points):
            return here.strength
        there = self.points[after]
        way = (percent - here.percent) / (there.percent - here.percent)
        return here.strength + (there.strength - here.strength) * INTERPOLATIONS[here.interpolation](way)


@dataclass(frozen=True)
class Schedule:
    """Factors on a control's strength, multiplied with it and with each other.

    over_time: from the share of sampling done (0..1) to a factor; negative ones count as 0.
    over_frames: a factor per latent of the batch; the last one holds for further latents.
    Raises ControlError for a factor over frames that is negative or not finite.
    """

    over_time: Callable[[float], float] | None = None
    over_frames: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for i, factor in enumerate(self.over_frames):
            if not (math.isfinite(factor) and factor >= 0):
                raise ControlError(
                    f"the strength of frame {i} is {factor}; expected a number from 0 upwards."
                )

    def at(self, percent: float) -> float:
        return 1.0 if self.over_time is None else max(0.0, float(self.over_time(percent)))

    def silent(self, start: float, end: float) -> bool:
        """Whether the factor over time is 0 from one share of sampling to another."""
        moments = [start + (end - start) * i / 200 for i in range(201)]
        if isinstance(self.over_time, Keyframes):
            # They may lie closer together; between two of them nothing is louder than both.
            moments += [point.percent for point in self.over_time.points if start <= point.percent <= end]
        return not any(self.at(moment) for moment in moments)

    def of_frame(self, frame: int) -> float:
        if not self.over_frames:
            return 1.0
        return self.over_frames[min(frame, len(self.over_frames) - 1)]


@dataclass(frozen=True)
class Clock:
    """Tells the share of sampling done from a noise level.

    sigmas: noise levels at equally spaced shares of sampling from 0 to 1, falling.
    """

    sigmas: Sequence[float]

    @classmethod
    def of(cls, sigma_at: Callable[[float], float], ticks: int = 200) -> "Clock":
        """sigma_at: from a share of sampling to the noise level there, as hosts have it."""
        # Hosts answer to 0 with a number above every noise level.
        return cls([sigma_at(max(i / ticks, 1e-6)) for i in range(ticks)] + [sigma_at(1.0)])

    def percent(self, sigma: float) -> float:
        after = bisect.bisect_right(self.sigmas, -sigma, key=lambda s: -s)
        if after == 0:
            return 0.0
        if after == len(self.sigmas):
            return 1.0
        before, there = self.sigmas[after - 1], self.sigmas[after]
        return (after - 1 + (before - sigma) / (before - there)) / (len(self.sigmas) - 1)

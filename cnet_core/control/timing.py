"""How strongly a control acts, and during which part of sampling."""

import math
from dataclasses import dataclass

from ..errors import ControlError


@dataclass(frozen=True)
class Timing:
    """strength: 0 (absent) upwards, 1 as trained; active from start_percent to end_percent of sampling, 0..1.

    Raises ControlError for a negative or infinite strength, and for a range that is empty or outside 0..1.
    """

    strength: float = 1.0
    start_percent: float = 0.0
    end_percent: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.strength) and self.strength >= 0):
            raise ControlError(
                f"strength is {self.strength}; expected a number from 0 (no control) upwards, 1 being as "
                "trained."
            )
        if not (0 <= self.start_percent <= 1 and 0 <= self.end_percent <= 1):
            raise ControlError(
                f"the range from start_percent {self.start_percent} to end_percent {self.end_percent} leaves "
                "0..1; 0 is the first step of sampling and 1 the last."
            )
        if self.start_percent > self.end_percent:
            raise ControlError(
                f"start_percent {self.start_percent} lies after end_percent {self.end_percent}, so the "
                "control would never act; swap the two."
            )

    @property
    def absent(self) -> bool:
        """True if the control says nothing at any time, so that its network need not even be loaded."""
        return self.strength == 0


def active(sigma: float, sigma_range: tuple[float, float]) -> bool:
    """Whether a noise level lies within (sigma at start, sigma at end); sigma falls with time."""
    start, end = sigma_range
    return end <= sigma <= start

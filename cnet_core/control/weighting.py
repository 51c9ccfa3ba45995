"""All that weighs what a control says: strength over time, frames, sides, blocks and space.

Control k answers with residuals R_k. With strength s_k(t), block weight w_k[i], cond/uncond gain g_k and mask
M_k resized to block i, its contribution is s_k(t) * w_k[i] * g_k * M_k,i * R_k,i.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from ..errors import ControlError
from .blocks import BlockWeights
from .merge import Part
from .rows import constants
from .schedule import Clock, Schedule
from .timing import Timing, active

# The index of a chunk of the prompt in the host's `cond_or_uncond`; everything else is the negative's side.
COND = 0
UNCOND = 1

# Who leads: (preset of the blocks, gain on the negative's side). "promptless" is the release's guess mode,
# CFG resolution weighting (arXiv 2302.05543, section 3.4): the hint alone tells what to draw.
BALANCES: dict[str, tuple[str, float]] = {
    "balanced": ("even", 1.0),
    "prompt first": ("soft", 1.0),
    "control first": ("even", 0.0),
    "promptless": ("soft", 0.0),
}


@dataclass(frozen=True)
class Weighting:
    """timing: strength and range; schedule: factors over time and frames; blocks: weights per block.

    mask: [M,H,W] in 0..1, mask i for latent i, then from the first one again.
    cond_gain, uncond_gain: factors on the prompt's and the negative's side; one of gain 0 costs nothing.
    Raises ControlError for a gain that is negative or not finite.
    """

    timing: Timing = field(default_factory=Timing)
    schedule: Schedule = field(default_factory=Schedule)
    blocks: BlockWeights = field(default_factory=BlockWeights)
    mask: Tensor | None = field(default=None, repr=False)
    cond_gain: float = 1.0
    uncond_gain: float = 1.0

    def __post_init__(self) -> None:
        for side, gain in (("cond", self.cond_gain), ("uncond", self.uncond_gain)):
            if not (math.isfinite(gain) and gain >= 0):
                raise ControlError(f"{side} gain is {gain}; expected a number from 0 upwards.")

    def led_by(self, balance: str) -> "Weighting":
        """The same weights under one of BALANCES. Raises ControlError for an unknown one."""
        if balance not in BALANCES:
            raise ControlError(f"balance {balance!r} is unknown; choose one of {', '.join(BALANCES)}.")
        preset, uncond_gain = BALANCES[balance]
        blocks = self.blocks if preset == "even" else self.blocks * BlockWeights(preset)
        return replace(self, blocks=blocks, uncond_gain=self.uncond_gain * uncond_gain)

    @property
    def timed(self) -> bool:
        """Whether the time matters at all."""
        timing = self.timing
        return self.schedule.over_time is not None or (timing.start_percent, timing.end_percent) != (0, 1)

    @property
    def absent(self) -> bool:
        """True if the control says nothing anywhere at any time, so that its network need not be loaded."""
        timing, schedule = self.timing, self.schedule
        if timing.absent or self.blocks.silent or self.cond_gain == self.uncond_gain == 0:
            return True
        if schedule.over_frames and not any(schedule.over_frames):
            return True
        if self.mask is not None and not self.mask.any():
            return True
        if schedule.over_time is None:
            return False
        return schedule.silent(timing.start_percent, timing.end_percent)

    def strength_at(self, percent: float) -> float:
        """The strength at a share of sampling, within the range."""
        return self.timing.strength * self.schedule.at(percent)

    def strength_when(
        self, sigma: float, span: tuple[float, float] | None, percent: Callable[[float], float]
    ) -> float:
        """The strength at a noise level, without gains and frames; 0 outside the range.

        span: the noise levels (at start, at end) of the range, None for all; percent: from a noise level to
        the share of sampling done, asked only where there is a schedule over time.
        """
        if span is not None and not active(sigma, span):
            return 0.0
        if self.schedule.over_time is None:
            return self.timing.strength
        return self.strength_at(percent(sigma))

    def gain(self, side: int) -> float:
        """The factor of a side, given as in the host's cond_or_uncond."""
        return self.cond_gain if side == COND else self.uncond_gain

    def rows(
        self,
        strength: float,
        sides: Sequence[int],
        frames: Sequence[int],
        seen: Sequence[bool] = (True,),
    ) -> list[float]:
        """The strength of each row of a batch: for every side (the host's cond_or_uncond), every frame.

        seen: for each mask whether it leaves anything of the picture, as `leaves_some` tells.
        """
        factors = [self.schedule.of_frame(frame) if seen[frame % len(seen)] else 0.0 for frame in frames]
        return [strength * self.gain(side) * factor for side in sides for factor in factors]

    def weigh(
        self,
        residuals: Sequence[Tensor | None],
        rows: Sequence[float],
        mask_for: Callable[[Tensor], Tensor | None],
    ) -> list[Part | None]:
        """Each residual [R,...] with its weight, None where nothing is said.

        rows: the strength of each row; mask_for: the mask for a residual, broadcastable to it, or None.
        """
        weights = iter(self.blocks.of(sum(residual is not None for residual in residuals)))
        even = all(row == rows[0] for row in rows)
        parts: list[Part | None] = []
        # Blocks of one weight share the tensor of their rows, which is filled value by value.
        filled: dict[Any, Tensor] = {}
        for residual in residuals:
            weight = 0.0 if residual is None else next(weights)
            if residual is None or weight == 0:
                parts.append(None)
                continue
            factor: float | Tensor = weight * rows[0]
            if not even:
                key = weight, residual.device, residual.dtype, residual.ndim
                if key not in filled:
                    values = constants([weight * row for row in rows], residual.device, residual.dtype)
                    filled[key] = values.view(-1, *[1] * (residual.ndim - 1))
                factor = filled[key]
            parts.append(Part(residual, factor, mask_for(residual), weight))
        return parts


def effective_strengths(
    weighting: Weighting, sigmas: Sequence[float], clock: Clock, span: tuple[float, float] | None
) -> list[tuple[float, float]]:
    """(on the prompt's side, on the negative's side) at each noise level, for a frame of factor 1.

    span as in Weighting.strength_when.
    """
    strengths = [weighting.strength_when(sigma, span, clock.percent) for sigma in sigmas]
    return [(s * weighting.gain(COND), s * weighting.gain(UNCOND)) for s in strengths]

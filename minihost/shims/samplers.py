"""`comfy.samplers`: the names of samplers and schedules, and the noise levels of a schedule."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..sampling import SAMPLERS, SCHEDULERS

SAMPLER_NAMES = list(SAMPLERS)
SCHEDULER_NAMES = list(SCHEDULERS)


def calculate_sigmas(model_sampling: Any, scheduler_name: str, steps: int) -> Tensor:
    """Noise levels [steps + 1] of a schedule, falling to 0. ValueError for a name that minihost lacks."""
    if scheduler_name not in SCHEDULERS:
        raise ValueError(f"minihost has no schedule '{scheduler_name}'; use one of {SCHEDULER_NAMES}")
    return SCHEDULERS[scheduler_name](model_sampling, steps)


class KSampler:
    """The names again, where nodes look for them."""

    SAMPLERS = SAMPLER_NAMES
    SCHEDULERS = SCHEDULER_NAMES

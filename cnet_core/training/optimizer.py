"""How weights move: AdamW, the learning rate over time, and the moving average of the weights."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import TrainingError
from ..shell import install
from .config import Settings


def make_optimizer(parameters: Sequence[nn.Parameter], settings: Settings) -> torch.optim.Optimizer:
    """AdamW over fp32 weights; its 8-bit variant from bitsandbytes.

    Raises TrainingError if bitsandbytes is needed and not there, or does not know the weights' device.
    """
    if settings.optimizer == "adamw8bit":
        return _eight_bit(parameters, settings)
    fused = all(p.device.type in ("cpu", "cuda", "xpu", "mps") for p in parameters)
    return torch.optim.AdamW(parameters, lr=settings.rate, weight_decay=settings.weight_decay, fused=fused)


def _eight_bit(parameters: Sequence[nn.Parameter], settings: Settings) -> torch.optim.Optimizer:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise TrainingError(
            f"the optimizer adamw8bit needs bitsandbytes, which cannot be imported ({error}). Install it: "
            f"{install('bitsandbytes>=0.43')}. Or use the optimizer adamw."
        ) from error
    device = parameters[0].device
    # The least that it keeps in 8 bits. On devices that a version does not know, its first step fails.
    probe = nn.Parameter(torch.zeros(4096, device=device))
    probe.grad = torch.zeros_like(probe)
    try:
        AdamW8bit([probe]).step()
    except Exception as error:
        raise TrainingError(
            f"this version of bitsandbytes has no 8-bit optimizer for {device.type}: {error}. Upgrade it, or "
            "use the optimizer adamw."
        ) from error
    return AdamW8bit(parameters, lr=settings.rate, weight_decay=settings.weight_decay)


def rate_at(step: int, settings: Settings) -> float:
    """The learning rate of a step, counted from 0: a linear warm-up, then constant or half a cosine to 0."""
    if step < settings.warm_up:
        return settings.rate * (step + 1) / settings.warm_up
    if settings.schedule == "constant":
        return settings.rate
    done = (step - settings.warm_up) / max(1, settings.steps - settings.warm_up)
    return settings.rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def ema_decay(step: int, decay: float) -> float:
    """The decay of a step, counted from 0: small at first, so that the initial weights are soon forgotten."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_average(average: Sequence[Tensor], weights: Sequence[Tensor], decay: float) -> None:
    """average = decay * average + (1 - decay) * weights, in place."""
    torch._foreach_lerp_(list(average), [w.detach() for w in weights], 1 - decay)

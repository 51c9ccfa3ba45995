"""One step of training a control network: a batch in, the losses of its examples out, the base frozen.

The base runs in its own precision, its encoder without a graph; the control network keeps fp32 weights and
runs under autocast.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..control.residuals import Residuals
from ..networks.blocks import Run, directly
from ..networks.controlnet import ControlNet
from ..networks.protocol import Features
from ..networks.unet import UNet
from ..networks.union import UnionControlNet
from .batches import Batch
from .diffusion import TIMESTEPS, Prediction, min_snr_weights, noised, target

Precision = Literal["fp32", "bf16", "fp16"]
# Under which the control network computes; its weights are fp32 always. Pure bf16 weights stall: a step of
# AdamW at 1e-5 is below their resolution.
PRECISIONS: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}

# From x_t, hints in 0..1, timesteps, context and y to all residuals, the middle's last.
Control = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, ...]]

# The blocks know nothing random, so no state of a generator needs to be kept for the second run. Unlike the
# reentrant kind, this one works where only some of the inputs and no weights have gradients.
recomputed: Run = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)


@dataclass(frozen=True)
class Objective:
    """What the loss is. prediction: the base's. min_snr: gamma of the weights (5 in the paper), 0 for none.

    precision: see PRECISIONS. recompute_base: compute the decoder's activations a second time in the backward
    pass instead of keeping them.
    """

    prediction: Prediction = "eps"
    min_snr: float = 0.0
    precision: Precision = "fp32"
    recompute_base: bool = False


class Trainee(nn.Module):
    """A control network as training calls it: hints in, a tuple of residuals out.

    One module whose `forward` is all of the network's arithmetic, as DistributedDataParallel wants it.
    union_type: the type of the hints, for a union network. recompute: as Objective.recompute_base, for the
    control network's blocks and its hint encoder.
    """

    def __init__(self, net: ControlNet, union_type: int | None = None, recompute: bool = False):
        super().__init__()
        self.net, self.union_type = net, union_type
        self.run: Run = recomputed if recompute else directly

    def forward(
        self, x: Tensor, hints: Tensor, timesteps: Tensor, context: Tensor, y: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        features = self.run(self.features, hints)
        return tuple(self.net(x, features, timesteps, context, y, run=self.run))

    def features(self, hints: Tensor) -> Features:
        if isinstance(self.net, UnionControlNet) and self.union_type is not None:
            return self.net.encode_hints([hints], [self.union_type])
        return self.net.encode_hint(hints)


def losses(
    base: UNet, control: Control, batch: Batch, noise: Tensor, timesteps: Tensor, objective: Objective
) -> Tensor:
    """The loss of each example, fp32 [B]: squared error of the base's controlled prediction, weighed.

    batch, noise (like batch.latents), timesteps (int64 [B] in 0..999): all on the base's device. The graph
    reaches `control` only, if the base takes no gradients.
    """
    x = noised(batch.latents, noise, timesteps)
    run = recomputed if objective.recompute_base else directly
    predicted = predict(base, control, x, batch, timesteps, objective.precision, run)
    wanted = target(batch.latents, noise, timesteps, objective.prediction)
    errors = F.mse_loss(predicted, wanted, reduction="none").mean(dim=(1, 2, 3))
    if objective.min_snr > 0:
        errors = errors * min_snr_weights(timesteps, objective.prediction, objective.min_snr)
    return errors


def predict(
    base: UNet,
    control: Control,
    x: Tensor,
    batch: Batch,
    timesteps: Tensor,
    precision: Precision,
    run: Run = directly,
) -> Tensor:
    """What the controlled base says of x_t [B,C,h,w] with the batch's hints and texts, in fp32."""
    hints = batch.hints.float() / 255 if batch.hints.dtype == torch.uint8 else batch.hints.float()
    low, dtype = PRECISIONS[precision], next(base.parameters()).dtype
    y = None if batch.y is None else batch.y.float()
    with torch.autocast(x.device.type, low, enabled=low != torch.float32):
        *down, mid = control(x, hints, timesteps, batch.context.float(), y)
    residuals = Residuals(down, mid).each(lambda t: t.to(dtype))
    y = None if y is None else y.to(dtype)
    predicted = base(x.to(dtype), timesteps, batch.context.to(dtype), y, residuals=residuals, run=run)
    return predicted.float()


def draw(batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noise and timesteps for a batch, from a private generator of the CPU, whatever the batch's device."""
    noise = torch.randn(batch.latents.shape, generator=generator)
    timesteps = torch.randint(0, TIMESTEPS, (len(batch.latents),), generator=generator)
    device = batch.latents.device
    return noise.to(device, non_blocking=True), timesteps.to(device, non_blocking=True)


def moved(batch: Batch, device: torch.device | str) -> Batch:
    """The batch on a device; where it is there already, the same."""

    tensors = (batch.latents, batch.hints, batch.context, batch.y)
    latents, hints, context, y = (None if t is None else t.to(device, non_blocking=True) for t in tensors)
    assert latents is not None and hints is not None and context is not None
    return replace(batch, latents=latents, hints=hints, context=context, y=y)

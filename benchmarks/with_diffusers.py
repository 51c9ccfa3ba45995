"""Runs of diffusers' networks, by the calls that its ControlNet pipeline makes at each step."""

from typing import Any

import diffusers
import torch
from torch import Tensor

from cnet_core.checkpoints.convert import to_diffusers
from cnet_core.networks.config import UNetConfig
from cnet_core.networks.controlnet import HINT_WIDTHS

from .weights import CFG, Task, noise_levels


class Diffusers:
    """UNet2DConditionModel and ControlNetModels that hold the task's tensors, not copies of them."""

    def __init__(self, task: Task, device: str):
        self.task, self.device = task, torch.device(device)
        config = task.config
        with torch.device("meta"):
            self.unet: Any = diffusers.UNet2DConditionModel(**sizes(config, up=True))
            self.nets: list[Any] = [
                diffusers.ControlNetModel(**sizes(config), conditioning_embedding_out_channels=HINT_WIDTHS)
                for _ in task.networks
            ]
        give(self.unet, to_diffusers(task.unet, config))
        for net, state in zip(self.nets, task.networks, strict=True):
            give(net, to_diffusers(state, config, len(HINT_WIDTHS)))
        for network in (self.unet, *self.nets):
            network.to(device)

    def sample(self, count: int, timesteps: list[int]) -> Tensor:
        """One whole run of Euler's method with `count` controls: the latent [1,4,H,W].

        cond and uncond are one batch. At each step each ControlNet gets its hint for both, and the residuals
        of all are summed.
        """
        task = self.task
        sigmas = noise_levels(timesteps)
        context = torch.cat([task.uncond, task.cond]).to(self.device, task.dtype)
        hints = [torch.cat([hint, hint]).to(self.device, task.dtype) for hint in task.hints[:count]]
        x = task.noise.to(self.device) * sigmas[0]
        for timestep, sigma, following in zip(timesteps, sigmas[:-1], sigmas[1:], strict=True):
            scaled = (torch.cat([x, x]) / (sigma**2 + 1).sqrt()).to(task.dtype)
            down, mid = self.residuals(scaled, timestep, context, hints)
            uncond, cond = self.unet(
                scaled,
                timestep,
                context,
                down_block_additional_residuals=down,
                mid_block_additional_residual=mid,
                return_dict=False,
            )[0].chunk(2)
            x = x + (uncond.float() + (cond.float() - uncond.float()) * CFG) * (following - sigma)
        return x

    def residuals(
        self, x: Tensor, timestep: int, context: Tensor, hints: list[Tensor]
    ) -> tuple[list[Tensor] | None, Tensor | None]:
        down, mid = None, None
        for i, hint in enumerate(hints):
            net = self.nets[i % len(self.nets)]
            blocks, middle = net(x, timestep, context, hint, 1.0, return_dict=False)
            down = blocks if down is None else [a + b for a, b in zip(down, blocks, strict=True)]
            mid = middle if mid is None else mid + middle
        return down, mid


def sizes(config: UNetConfig, up: bool = False) -> dict[str, Any]:
    """diffusers' arguments for a ControlNet of SD1.5's topology, or with `up` for its UNet."""
    attention = [depth > 0 for depth in config.transformer_depth]
    found: dict[str, Any] = {
        "block_out_channels": tuple(mult * config.model_channels for mult in config.channel_mult),
        "down_block_types": tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention),
        "cross_attention_dim": config.context_dim,
        # The number of heads, by diffusers' name for it.
        "attention_head_dim": config.num_heads,
    }
    if up:
        kinds = ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)]
        found["up_block_types"] = tuple(kinds)
    return found


def give(network: Any, state: dict[str, Tensor]) -> None:
    network.load_state_dict(state, assign=True)
    network.eval().requires_grad_(False)

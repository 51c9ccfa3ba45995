"""Random networks that all implementations share, tensor for tensor."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnet_core.networks.config import SD15, UNetConfig
from cnet_core.networks.controlnet import ControlNet
from cnet_core.networks.unet import UNet

BASES = {"sd15": SD15, "tiny": UNetConfig(model_channels=32, context_dim=64, num_heads=8)}
TOKENS = 77
CFG = 7.5
# A fresh ControlNet's zeros; a small scale lets the control be seen in the result and not swamp it.
JOINS = ("zero_convs.", "middle_block_out.", "input_hint_block.14.")


@dataclass(frozen=True)
class Task:
    """What every implementation is given: fp32 weights under LDM names, and the inputs of one picture.

    noise [1,4,H,W]; cond, uncond [1,TOKENS,context_dim]; hints: one [1,3,8H,8W] in 0..1 for each control.
    """

    config: UNetConfig
    unet: dict[str, Tensor]
    controls: list[dict[str, Tensor]]
    noise: Tensor
    cond: Tensor
    uncond: Tensor
    hints: list[Tensor]


def random_task(base: str, size: int, controls: int) -> Task:
    config = BASES[base]
    generator = torch.Generator().manual_seed(0)
    side = size // 8

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return Task(
        config,
        random_state(UNet(config, device="meta"), generator),
        [random_state(ControlNet(config, device="meta"), generator) for _ in range(controls)],
        normal(1, config.in_channels, side, side),
        normal(1, TOKENS, config.context_dim),
        normal(1, TOKENS, config.context_dim),
        [torch.rand(1, 3, size, size, generator=generator) for _ in range(controls)],
    )


def random_state(network: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Weights for a network on the meta device: variance 1/fan_in, norms about the identity."""
    state = {}
    for name, like in network.state_dict().items():
        value = torch.randn(like.shape, generator=generator)
        if like.ndim > 1:
            state[name] = value.mul_(like[0].numel() ** -0.5 * (0.1 if name.startswith(JOINS) else 1.0))
        else:
            state[name] = value.mul_(0.1).add_(1.0 if name.endswith("weight") else 0.0)
    return state


def noise_table() -> Tensor:
    """Stable Diffusion's noise levels sigma by timestep, 0..999: betas linear in their square roots."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = (1 - betas).cumprod(0)
    return ((1 - kept) / kept).sqrt()


def even_timesteps(steps: int) -> list[int]:
    """Timesteps at even distances, falling, both ends of the table left out."""
    return [1000 * i // (steps + 1) for i in range(steps, 0, -1)]


def noise_levels(timesteps: list[int]) -> Tensor:
    """sigma of each timestep, then 0."""
    return torch.cat([noise_table()[timesteps], torch.zeros(1, dtype=torch.float64)]).float()

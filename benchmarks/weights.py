"""Random networks that all implementations share, tensor for tensor."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cnet_core.checkpoints.shapes import config_metadata
from cnet_core.networks.config import SD15, SDXL, UNetConfig
from cnet_core.networks.controlnet import ControlNet
from cnet_core.networks.unet import UNet

BASES = {
    "sd15": SD15,
    "sdxl": SDXL,
    # Narrower, and the host's loader finds no heads in them.
    "tiny": UNetConfig(model_channels=64, context_dim=64, num_heads=8),
    "tiny-sdxl": replace(
        SDXL,
        model_channels=64,
        transformer_depth=(0, 1, 2),
        transformer_depth_middle=2,
        context_dim=64,
        adm_in_channels=96,
    ),
}
# Multiplications of a ControlNet behind its hint encoder as a share of the UNet's, by torch's FlopCounterMode
# on the meta device: 0.328 at 256 x 256 and 0.334 at 512 x 512; 0.444 at 256 x 256 and 0.438 at 1024 x 1024.
FLOORS = {"sd15": 0.33, "sdxl": 0.44}
TOKENS = 77
CFG = 7.5
# A fresh ControlNet's zeros; a small scale lets the control be seen in the result and not swamp it.
JOINS = ("zero_convs.", "middle_block_out.", "input_hint_block.14.")


@dataclass(frozen=True)
class Task:
    """What every implementation is given: weights under LDM names, and the inputs of one picture in fp32.

    dtype: of weights and arithmetic. files, networks: ControlNets as files and as their tensors, mapped from
    those files; control i uses network i modulo their number. noise [1,4,H,W]; cond, uncond
    [1,TOKENS,context_dim]; y [1,adm_in_channels] or None; hints: one [1,3,8H,8W] in 0..1 for each control.
    """

    config: UNetConfig
    dtype: torch.dtype
    unet: dict[str, Tensor]
    files: list[Path]
    networks: list[dict[str, Tensor]]
    noise: Tensor
    cond: Tensor
    uncond: Tensor
    y: Tensor | None
    hints: list[Tensor]


def write_networks(config: UNetConfig, number: int, folder: Path, dtype: torch.dtype) -> list[Path]:
    """Random ControlNets as safetensors files in LDM names."""
    paths = []
    for i in range(number):
        path = folder / f"cnet_benchmark_{i}.safetensors"
        state = random_state(ControlNet(config, device="meta"), torch.Generator().manual_seed(1 + i), dtype)
        save_file(state, path, config_metadata(config))
        paths.append(path)
    return paths


def random_task(config: UNetConfig, size: int, controls: int, files: list[Path], dtype: torch.dtype) -> Task:
    generator = torch.Generator().manual_seed(0)
    side, width = size // 8, config.adm_in_channels

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return Task(
        config,
        dtype,
        random_state(UNet(config, device="meta"), generator, dtype),
        files,
        [load_file(path) for path in files],
        normal(1, config.in_channels, side, side),
        normal(1, TOKENS, config.context_dim),
        normal(1, TOKENS, config.context_dim),
        None if width is None else normal(1, width),
        [torch.rand(1, 3, size, size, generator=generator) for _ in range(controls)],
    )


def bytes_of(network: nn.Module, dtype: torch.dtype) -> int:
    """Bytes of a network's weights in this precision; it may be on the meta device."""
    return dtype.itemsize * sum(tensor.numel() for tensor in network.state_dict().values())


def random_state(
    network: nn.Module, generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Weights for a network on the meta device: variance 1/fan_in, norms about the identity."""
    state = {}
    for name, like in network.state_dict().items():
        value = torch.randn(like.shape, generator=generator)
        if like.ndim > 1:
            state[name] = value.mul_(like[0].numel() ** -0.5 * (0.1 if name.startswith(JOINS) else 1.0))
        else:
            state[name] = value.mul_(0.1).add_(1.0 if name.endswith("weight") else 0.0)
        state[name] = state[name].to(dtype)
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

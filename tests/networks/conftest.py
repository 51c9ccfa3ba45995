"""Tiny UNets of the three topologies with random weights."""

import pytest
import torch

from cnet_core.networks.config import UNetConfig
from cnet_core.networks.unet import UNet

CONFIGS = {
    "sd15": UNetConfig(32, (1, 2), (1, 1), (1, 0), context_dim=24, num_heads=4, norm_groups=8),
    "sd21": UNetConfig(
        32,
        (1, 2),
        (1, 1),
        (1, 0),
        context_dim=40,
        num_head_channels=16,
        use_linear_in_transformer=True,
        norm_groups=8,
    ),
    "sdxl": UNetConfig(
        32,
        (1, 2),
        (1, 1),
        (0, 2),
        2,
        context_dim=48,
        num_head_channels=16,
        use_linear_in_transformer=True,
        adm_in_channels=56,
        norm_groups=8,
    ),
}


@pytest.fixture(params=CONFIGS)
def config(request) -> UNetConfig:
    return CONFIGS[request.param]


@pytest.fixture
def unet(config) -> UNet:
    return random_unet(config)


def random_unet(config: UNetConfig) -> UNet:
    torch.manual_seed(0)
    return UNet(config).eval().requires_grad_(False)


def arguments(config: UNetConfig, height: int = 6, width: int = 5, batch: int = 2) -> tuple:
    """x, timesteps, context and y for a network of this configuration."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, config.in_channels, height, width, generator=generator)
    timesteps = torch.linspace(10.5, 900, batch)
    context = torch.randn(batch, 7, config.context_dim, generator=generator)
    adm = config.adm_in_channels
    return x, timesteps, context, None if adm is None else torch.randn(batch, adm, generator=generator)


def hint_for(x: torch.Tensor) -> torch.Tensor:
    shape = (x.shape[0], 3, 8 * x.shape[2], 8 * x.shape[3])
    return torch.rand(shape, generator=torch.Generator().manual_seed(2))

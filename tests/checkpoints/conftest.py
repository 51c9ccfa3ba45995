"""Small networks of the three topologies with random weights, as files of every kind."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cnet_core.checkpoints.shapes import config_metadata
from cnet_core.networks.config import UNetConfig
from cnet_core.networks.controlnet import ControlNet
from cnet_core.networks.unet import UNet

WIDTHS = (8, 8, 16, 16)

CONFIGS = {
    "sd15": UNetConfig(32, (1, 2), (1, 1), (1, 0), context_dim=24, num_heads=8),
    "sd21": UNetConfig(
        64, (1, 2), (1, 1), (1, 0), context_dim=40, num_head_channels=64, use_linear_in_transformer=True
    ),
    "sdxl": UNetConfig(
        64,
        (1, 2),
        (1, 1),
        (0, 2),
        2,
        context_dim=48,
        num_head_channels=64,
        use_linear_in_transformer=True,
        adm_in_channels=64,
    ),
}


def randomised(net):
    """Every weight random, zero convolutions too."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.05)
    return net.eval().requires_grad_(False)


@pytest.fixture(params=CONFIGS, scope="session")
def config(request) -> UNetConfig:
    return CONFIGS[request.param]


@pytest.fixture(scope="session")
def unet(config) -> UNet:
    torch.manual_seed(1)
    return randomised(UNet(config))


@pytest.fixture(scope="session")
def controlnet(config) -> ControlNet:
    torch.manual_seed(2)
    return randomised(ControlNet(config, hint_widths=WIDTHS))


@pytest.fixture(scope="session")
def sd15_controlnet() -> ControlNet:
    """For tests that do not depend on the topology."""
    torch.manual_seed(2)
    return randomised(ControlNet(CONFIGS["sd15"], hint_widths=WIDTHS))


@pytest.fixture
def write(tmp_path) -> Callable[..., Path]:
    """Save tensors as safetensors and give the path; with a configuration, its heads go into the metadata."""

    def write(tensors, name="net.safetensors", config: UNetConfig | None = None) -> Path:
        path = tmp_path / name
        metadata = None if config is None else config_metadata(config)
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata)
        return path

    return write

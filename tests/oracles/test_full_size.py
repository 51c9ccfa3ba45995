"""The released networks at full size, on the meta device: names, shapes and counts."""

from typing import Any

import pytest
import torch

from cnet_core.checkpoints.bases import base_name
from cnet_core.checkpoints.convert import from_diffusers, to_diffusers
from cnet_core.checkpoints.shapes import controlnet_config, unet_config
from cnet_core.networks.config import SD15, SD21, SDXL, UNetConfig
from cnet_core.networks.controlnet import HINT_WIDTHS, ControlNet
from cnet_core.networks.unet import UNet

diffusers = pytest.importorskip("diffusers")

# Tensors and millions of parameters of the ControlNet; the same of the UNet.
SIZES = {
    "SD1.5": (SD15, 340, 361.279, 686, 859.521),
    "SD2.x": (SD21, 340, 364.2, 686, 865.9),
    "SDXL": (SDXL, 844, 1251.0, 1680, 2567.5),
}

# The arguments in the config.json of the released diffusers models.
_SD: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
}
_SD_UP = ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3)
THEIRS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "SD1.5": ({**_SD, "cross_attention_dim": 768, "attention_head_dim": 8}, _SD_UP),
    "SD2.x": (
        {
            **_SD,
            "cross_attention_dim": 1024,
            "attention_head_dim": (5, 10, 20, 20),
            "use_linear_projection": True,
        },
        _SD_UP,
    ),
    "SDXL": (
        {
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "cross_attention_dim": 2048,
            "attention_head_dim": (5, 10, 20),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    ),
}


@pytest.fixture(params=SIZES, scope="module")
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def control(name) -> dict[str, torch.Tensor]:
    return ControlNet(SIZES[name][0], device="meta").state_dict()


@pytest.fixture(scope="module")
def unet(name) -> dict[str, torch.Tensor]:
    return UNet(SIZES[name][0], device="meta").state_dict()


def millions(state: dict[str, torch.Tensor]) -> float:
    return sum(tensor.numel() for tensor in state.values()) / 1e6


def shapes(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def test_counts(name, control, unet):
    _, control_tensors, control_size, unet_tensors, unet_size = SIZES[name]
    assert (len(control), len(unet)) == (control_tensors, unet_tensors)
    assert millions(control) == pytest.approx(control_size, abs=0.05)
    assert millions(unet) == pytest.approx(unet_size, abs=0.05)


def test_exact_count_of_the_release():
    state = ControlNet(SD15, device="meta").state_dict()
    assert sum(tensor.numel() for tensor in state.values()) == 361_279_120


def test_configuration_comes_back(name, control, unet):
    config = SIZES[name][0]
    assert controlnet_config(control) == (config, 3, HINT_WIDTHS)
    assert unet_config(unet) == config
    assert base_name(config) == name


def test_names_and_shapes_are_those_of_diffusers(name, control, unet):
    config: UNetConfig = SIZES[name][0]
    arguments, up = THEIRS[name]
    with torch.device("meta"):
        their_unet = diffusers.UNet2DConditionModel(**arguments, up_block_types=up).state_dict()
        their_control = diffusers.ControlNetModel(**arguments).state_dict()
    assert shapes(from_diffusers(their_unet)) == shapes(unet)
    assert shapes(from_diffusers(their_control)) == shapes(control)
    assert shapes(to_diffusers(unet, config)) == shapes(their_unet)
    assert shapes(to_diffusers(control, config)) == shapes(their_control)

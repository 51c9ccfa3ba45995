"""Networks of a host's layers that hold no weights before they are given any, as ComfyUI's linear layers do
with dynamic VRAM (the default on Nvidia cards)."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cnet_core.checkpoints import load_controlnet, load_unet, open_control, save_unet
from cnet_core.errors import CheckpointError
from cnet_core.networks.lllite import LayerSizes, LLLite
from cnet_core.networks.union import UnionControlNet

from .conftest import CONFIGS, WIDTHS, randomised

LLLITE = "lllite_unet_middle_block_1_transformer_blocks_0_attn1_to_q"


class Lazy:
    """A namespace of layers."""

    class Linear(nn.Linear):
        def __init__(self, in_features, out_features, bias=True, device=None, dtype=None):
            nn.Module.__init__(self)
            self.in_features, self.out_features = in_features, out_features
            self.weight = self.bias = None

        def _load_from_state_dict(self, state_dict, prefix, *args):
            for name, tensor in state_dict.items():
                setattr(self, name.removeprefix(prefix), nn.Parameter(tensor, requires_grad=False))

    Conv2d, GroupNorm, LayerNorm = nn.Conv2d, nn.GroupNorm, nn.LayerNorm


def assert_holds(net, expected):
    found = net.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert not any(parameter.is_meta or parameter.requires_grad for parameter in net.parameters())


def test_controlnet(controlnet, write):
    net = load_controlnet(write(controlnet.state_dict()), operations=Lazy)
    assert_holds(net, controlnet.state_dict())


def test_union(write):
    torch.manual_seed(0)
    union = randomised(UnionControlNet(CONFIGS["sdxl"], hint_widths=WIDTHS, types=6, type_channels=4))
    assert_holds(load_controlnet(write(union.state_dict()), operations=Lazy), union.state_dict())


def test_lllite(write):
    sizes = {LLLITE: LayerSizes(16, 3, 8, 4)}
    expected = randomised(LLLite(sizes)).state_dict()
    file = open_control(write({name.removeprefix("layers."): t for name, t in expected.items()}))
    assert_holds(file.build(operations=Lazy), expected)


def test_unet(unet, tmp_path):
    save_unet(unet, tmp_path / "unet.safetensors")
    assert_holds(load_unet(tmp_path / "unet.safetensors", operations=Lazy), unet.state_dict())


def test_wrong_shapes_are_still_found(controlnet, tmp_path):
    state = dict(controlnet.state_dict())
    state["time_embed.0.bias"] = torch.zeros(3)
    save_file(state, tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match=r"time_embed.0.bias is \(3,\), expected"):
        load_controlnet(tmp_path / "net.safetensors", operations=Lazy)


def test_eight_bits(write):
    """A union network has a parameter of its own, which is no layer's."""
    torch.manual_seed(0)
    state = randomised(
        UnionControlNet(CONFIGS["sd15"], hint_widths=WIDTHS, types=6, type_channels=4)
    ).state_dict()
    net = load_controlnet(write(state), torch.float8_e4m3fn, Lazy)
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float8_e4m3fn}

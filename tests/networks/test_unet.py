"""The UNet: residuals, gradients, injected layers and attention, and sizes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cnet_core.control.residuals import Residuals
from cnet_core.networks.blocks import sdpa
from cnet_core.networks.config import SD15, SD21, SDXL, UNetConfig
from cnet_core.networks.unet import UNet

from .conftest import CONFIGS, arguments, random_unet


def residuals_for(config: UNetConfig, x: torch.Tensor, scale: float = 1.0) -> Residuals:
    generator = torch.Generator().manual_seed(3)
    blocks = []
    for channels, factor in zip(config.residual_channels, config.residual_scales, strict=True):
        sides = [-(-side // factor) for side in x.shape[2:]]
        blocks.append(torch.randn(x.shape[0], channels, *sides, generator=generator) * scale)
    return Residuals(blocks[:-1], blocks[-1])


def test_the_releases_have_the_residuals_of_the_papers_figure():
    assert SD15.residual_channels == [320] * 4 + [640] * 3 + [1280] * 5 + [1280]
    assert SD15.residual_scales == [1] * 3 + [2] * 3 + [4] * 3 + [8] * 3 + [8]
    assert SD21.residual_channels == SD15.residual_channels
    assert len(SDXL.residual_channels) == len(SDXL.residual_scales) == 10


def test_residuals_are_added_out_of_place(config, unet):
    args = arguments(config)
    residuals = residuals_for(config, args[0])
    before = [block.clone() for block in [args[0], *residuals]]
    controlled = unet(*args, residuals=residuals)
    assert all(torch.equal(a, b) for a, b in zip([args[0], *residuals], before, strict=True))
    assert torch.equal(controlled, unet(*args, residuals=residuals))
    assert not torch.equal(controlled, unet(*args))


@pytest.mark.parametrize("block", range(5))
def test_every_residual_reaches_the_output(block):
    config = CONFIGS["sd15"]
    unet = random_unet(config)
    args = arguments(config)
    blocks = list(residuals_for(config, args[0], scale=0.0))
    assert len(blocks) == 5
    assert torch.equal(unet(*args, residuals=Residuals(blocks[:-1], blocks[-1])), unet(*args))
    blocks[block] = torch.ones_like(blocks[block])
    assert not torch.equal(unet(*args, residuals=Residuals(blocks[:-1], blocks[-1])), unet(*args))


def test_a_frozen_encoder_builds_no_graph(config, unet):
    """Only the decoder has to be kept for the backward pass: that is what makes training light."""
    with_graph = []

    def watch(module: nn.Module, name: str) -> None:
        module.register_forward_hook(
            lambda _m, _i, out: with_graph.append(name) if out.requires_grad else None
        )

    for name, module in unet.named_modules():
        if not list(module.children()) and not isinstance(module, nn.Identity):
            watch(module, name)
    args = arguments(config)
    residuals = residuals_for(config, args[0])
    for block in residuals:
        block.requires_grad_(True)
    unet(*args, residuals=residuals).square().mean().backward()
    assert with_graph and all(name.startswith(("output_blocks.", "out.")) for name in with_graph)
    assert all(block.grad is not None and block.grad.abs().sum() > 0 for block in residuals)


def test_residuals_of_another_topology_are_refused():
    config = CONFIGS["sd15"]
    args = arguments(config)
    blocks = list(residuals_for(config, args[0]))
    with pytest.raises(ValueError):
        random_unet(config)(*args, residuals=Residuals(blocks[:-2], blocks[-1]))


def test_a_vector_condition_of_the_wrong_width_is_named():
    config = CONFIGS["sdxl"]
    x, timesteps, context, y = arguments(config)
    unet = random_unet(config)
    with pytest.raises(ValueError, match="width 56, got none"):
        unet(x, timesteps, context)
    with pytest.raises(ValueError, match="width 56, got one of width 55"):
        unet(x, timesteps, context, y[:, 1:])


def test_a_configuration_with_a_level_missing_or_two_ways_of_heads_is_refused():
    with pytest.raises(ValueError, match="one entry per level"):
        UNetConfig(32, (1, 2), (1,), (1, 0), num_heads=4)
    with pytest.raises(ValueError, match="not both"):
        UNetConfig(num_heads=4, num_head_channels=8)
    with pytest.raises(ValueError, match="not both"):
        UNetConfig()


@settings(max_examples=10)
@given(height=st.integers(1, 17), width=st.integers(1, 17), kind=st.sampled_from(sorted(CONFIGS)))
def test_every_latent_size_comes_out_as_it_went_in(height, width, kind):
    config = CONFIGS[kind]
    unet = random_unet(config)
    args = arguments(config, height, width, batch=1)
    out = unet(*args, residuals=residuals_for(config, args[0]))
    assert out.shape == (1, 4, height, width)
    assert out.isfinite().all()


class Namespace:
    """Layers of our own making, as a host gives them."""

    class Conv2d(nn.Conv2d):
        pass

    class Linear(nn.Linear):
        pass

    class GroupNorm(nn.GroupNorm):
        pass

    class LayerNorm(nn.LayerNorm):
        pass


KINDS = (nn.Conv2d, nn.Linear, nn.GroupNorm, nn.LayerNorm)


def test_every_layer_comes_from_the_injected_operations(config):
    unet = UNet(config, operations=Namespace)
    layers = [module for module in unet.modules() if isinstance(module, KINDS)]
    assert layers and all(type(layer).__qualname__.startswith("Namespace.") for layer in layers)
    plain = random_unet(config)
    unet.load_state_dict(plain.state_dict())
    args = arguments(config)
    assert torch.equal(unet.eval()(*args), plain(*args))


def test_the_injected_attention_is_the_one_that_runs(config):
    calls = []

    def attention(q, k, v, heads):
        calls.append((tuple(q.shape), heads))
        return sdpa(q, k, v, heads)

    plain = random_unet(config)
    unet = UNet(config, attention=attention).eval()
    unet.load_state_dict(plain.state_dict())
    args = arguments(config)
    assert torch.equal(unet(*args), plain(*args))
    blocks = sum(name.endswith((".attn1", ".attn2")) for name, _ in unet.named_modules())
    assert len(calls) == blocks > 0
    assert all(heads == config.heads(shape[-1]) for shape, heads in calls)

    silent = UNet(config, attention=lambda q, k, v, heads: torch.zeros_like(q)).eval()
    silent.load_state_dict(plain.state_dict())
    assert not torch.equal(silent(*args), plain(*args))


def test_layers_are_made_in_the_asked_dtype_and_place():
    unet = UNet(SD15, dtype=torch.float16, device="meta")
    assert {(p.dtype, p.device.type) for p in unet.parameters()} == {(torch.float16, "meta")}

"""The ControlNet: a copy of the encoder that starts silent, and learns from its joins inwards."""

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cnet_core.networks.controlnet import ControlNet, LatentControlNet
from cnet_core.networks.unet import UNet

from .conftest import CONFIGS, arguments, hint_for, random_unet
from .test_unet import KINDS, Namespace

WIDTHS = (4, 8, 8, 16)


def copy_of(unet: UNet) -> ControlNet:
    return ControlNet.from_unet(unet, hint_widths=WIDTHS)


def randomised(net: ControlNet) -> ControlNet:
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return net


def run(net: ControlNet, args: tuple, hint: torch.Tensor | None = None):
    x, timesteps, context, y = args
    return net(x, net.encode_hint(hint_for(x) if hint is None else hint), timesteps, context, y)


def loss_of(unet: UNet, net: ControlNet, args: tuple) -> torch.Tensor:
    target = torch.randn(args[0].shape, generator=torch.Generator().manual_seed(5))
    return (unet(*args, residuals=run(net, args)) - target).square().mean()


def train_step(unet: UNet, net: ControlNet, args: tuple, rate: float = 1.0) -> dict[str, bool]:
    """One step of gradient descent; whether each parameter had a gradient."""
    net.zero_grad()
    loss_of(unet, net, args).backward()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.grad is not None:
                parameter -= rate * parameter.grad
    return {name: bool(p.grad is not None and p.grad.any()) for name, p in net.named_parameters()}


def fingerprint(net: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def is_join(name: str) -> bool:
    """Whether a parameter belongs to the zero convolutions at the outputs."""
    return name.startswith(("zero_convs.", "middle_block_out."))


LAST_HINT_CONV = "input_hint_block.14."


def test_step_0_is_the_base_bit_for_bit(config, unet):
    args = arguments(config)
    net = copy_of(unet)
    residuals = run(net, args)
    assert all(torch.equal(block, torch.zeros_like(block)) for block in residuals)
    assert torch.equal(unet(*args, residuals=residuals), unet(*args))


def test_the_copy_holds_the_encoders_weights_in_its_own_memory(config, unet):
    net = copy_of(unet)
    base = dict(unet.named_parameters())
    shared = [name for name, _ in net.named_parameters() if name in base]
    assert {name.split(".")[0] for name in shared} >= {"time_embed", "input_blocks", "middle_block"}
    assert ("label_emb" in {name.split(".")[0] for name in shared}) == (config.adm_in_channels is not None)
    assert all(torch.equal(net.get_parameter(name), base[name]) for name in shared)
    memory = {parameter.untyped_storage().data_ptr() for parameter in base.values()}
    assert not memory & {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}


def test_training_the_copy_leaves_the_base_as_it_was(config, unet):
    args = arguments(config)
    before, picture = fingerprint(unet), unet(*args)
    net = copy_of(unet)
    for _ in range(3):
        train_step(unet, net, args)
    assert fingerprint(unet) == before
    assert torch.equal(unet(*args), picture)
    changed = [not torch.equal(p, unet.state_dict()[n]) for n, p in net.named_parameters() if not is_join(n)
               and n in unet.state_dict()]  # fmt: skip
    assert all(changed)


def test_the_copy_of_a_frozen_unet_can_be_trained(unet):
    assert all(parameter.requires_grad for parameter in copy_of(unet).parameters())


def test_gradients_reach_the_joins_first_then_the_copy_then_the_hint(config, unet):
    """Section 3.1 of the paper: a zero convolution learns at once, what lies before it once it has moved."""
    args = arguments(config)
    net = copy_of(unet)
    first = train_step(unet, net, args)
    assert {name for name, moved in first.items() if moved} == {name for name in first if is_join(name)}
    second = train_step(unet, net, args)
    asleep = {name for name in second if name.startswith("input_hint_block.") and LAST_HINT_CONV not in name}
    assert {name for name, moved in second.items() if not moved} == asleep
    assert all(train_step(unet, net, args).values())


def test_a_fresh_network_without_a_base_says_nothing_either(config):
    args = arguments(config)
    assert not any(block.any() for block in run(ControlNet(config, hint_widths=WIDTHS), args))


def test_hint_features_can_be_made_once_and_used_at_every_step(config, unet):
    net = randomised(copy_of(unet)).requires_grad_(False)
    x, timesteps, context, y = arguments(config)
    features = net.encode_hint(hint_for(x))
    before = features[0].clone()
    for step in (900.0, 500.0):
        t = torch.full_like(timesteps, step)
        apart = net(x, features, t, context, y)
        anew = net(x, net.encode_hint(hint_for(x)), t, context, y)
        assert all(torch.equal(a, b) for a, b in zip(apart, anew, strict=True))
    assert torch.equal(features[0], before)


def test_residuals_depend_on_hint_latent_time_and_text(config, unet):
    net = randomised(copy_of(unet)).requires_grad_(False)
    args = arguments(config)
    base = run(net, args)
    hint = hint_for(args[0])
    others = [run(net, args, 1 - hint)]
    others += [run(net, (*args[:i], args[i] * 0.5, *args[i + 1 :]), hint) for i in range(3)]
    for other in others:
        assert not torch.equal(other.mid, base.mid)


@settings(max_examples=10)
@given(height=st.integers(1, 17), width=st.integers(1, 17), kind=st.sampled_from(sorted(CONFIGS)))
def test_residuals_fit_the_unet_at_every_latent_size(height, width, kind):
    config = CONFIGS[kind]
    unet = random_unet(config)
    args = arguments(config, height, width, batch=1)
    residuals = run(randomised(copy_of(unet)), args)
    expected = [
        (1, channels, -(-height // scale), -(-width // scale))
        for channels, scale in zip(config.residual_channels, config.residual_scales, strict=True)
    ]
    assert [tuple(block.shape) for block in residuals] == expected
    assert unet(*args, residuals=residuals).shape == args[0].shape


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_hints_of_other_channels(channels):
    net = ControlNet.from_unet(random_unet(CONFIGS["sd15"]), hint_channels=channels, hint_widths=WIDTHS)
    (features,) = net.encode_hint(torch.zeros(2, channels, 40, 24))
    assert features.shape == (2, 32, 5, 3)


def test_the_copy_is_built_from_the_bases_operations_and_attention():
    calls = []

    def attention(q, k, v, heads):
        calls.append(heads)
        return torch.zeros_like(q)

    config = CONFIGS["sd15"]
    unet = UNet(config, operations=Namespace, attention=attention, dtype=torch.bfloat16)
    net = copy_of(unet)
    layers = [module for module in net.modules() if isinstance(module, KINDS)]
    assert layers and all(type(layer).__qualname__.startswith("Namespace.") for layer in layers)
    assert {parameter.dtype for parameter in net.parameters()} == {torch.bfloat16}
    x, timesteps, context, y = arguments(config)
    hint = hint_for(x).bfloat16()
    net(x.bfloat16(), net.encode_hint(hint), timesteps, context.bfloat16(), y)
    assert calls == [4] * 4


class TestLatentControlNet:
    """The hint, a latent, in place of x_t."""

    @pytest.mark.parametrize("kind", CONFIGS)
    @torch.no_grad()
    def test_is_a_controlnet_that_sees_the_hint_as_x(self, kind):
        x, timesteps, context, y = arguments(CONFIGS[kind])
        net = randomised(LatentControlNet(CONFIGS[kind], x.shape[1], ())).eval()
        plain = ControlNet(CONFIGS[kind], hint_widths=WIDTHS).eval()
        plain.load_state_dict(net.state_dict(), strict=False)
        latent = torch.randn(x.shape, generator=torch.Generator().manual_seed(6))
        ours = net(x, net.encode_hint(latent), timesteps, context, y)
        silent = (torch.zeros(1),)
        for a, b in zip(ours, plain(latent, silent, timesteps, context, y), strict=True):
            assert torch.equal(a, b)
        for a, b in zip(ours, net(-x, net.encode_hint(latent), timesteps, context, y), strict=True):
            assert torch.equal(a, b)

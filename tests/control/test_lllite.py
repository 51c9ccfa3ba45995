"""LLLite as patches and hooks: which rows and layers change, by how much, and what stays as it was."""

from dataclasses import replace

import pytest
import torch

from cnet_core.control.lllite import Corrections, Patch, add_patches, corrections, layers_changed
from cnet_core.errors import ControlError
from cnet_core.networks.config import UNetConfig
from cnet_core.networks.lllite import LayerSizes, LLLite
from cnet_core.networks.unet import UNet

PREFIX = "lllite_unet_input_blocks_4_1_transformer_blocks_1_"
HERE = {"block": ("input", 4), "block_index": 1}


@pytest.fixture
def net() -> LLLite:
    torch.manual_seed(0)
    names = ("attn1_to_q", "attn1_to_v", "attn2_to_q")
    return LLLite({PREFIX + name: LayerSizes(8, 2, 4, 6) for name in names}).eval().requires_grad_(False)


@pytest.fixture
def features(net):
    return net.encode_hint(torch.rand(3, 3, 64, 96))


@pytest.fixture
def x():
    return torch.randn(3, 24, 8, generator=torch.Generator().manual_seed(1))


def test_only_the_layers_of_the_file_change_by_their_own_corrections(net, features, x):
    patches = corrections(net, features, [1, 1, 1]).attention
    q, k, v = patches["attn1_patch"](x, x, x, HERE)
    assert torch.equal(q, x + net.correction(PREFIX + "attn1_to_q", x, features[0]))
    assert k is x
    assert torch.equal(v, x + net.correction(PREFIX + "attn1_to_v", x, features[1]))
    text = torch.randn(3, 7, 5)
    q, k, v = patches["attn2_patch"](x, text, text, HERE)
    assert torch.equal(q, x + net.correction(PREFIX + "attn2_to_q", x, features[2]))
    assert k is text and v is text


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"block": ("input", 5), "block_index": 1},
        {"block": ("input", 4), "block_index": 0},
        {"block": ("output", 4), "block_index": 1},
    ],
)
def test_other_blocks_are_left_alone(net, features, x, elsewhere):
    patches = corrections(net, features, [1, 1, 1]).attention
    assert all(a is x for a in patches["attn1_patch"](x, x, x, elsewhere))


def test_each_row_has_its_weight_and_weight_zero_is_absence(net, features, x):
    def run(weights):
        return corrections(net, features, weights).attention["attn1_patch"](x, x, x, HERE)[0]

    whole = run([1, 1, 1]) - x
    weighted = run([2, 0, 0.5])
    assert torch.equal(weighted[1], x[1])
    torch.testing.assert_close(weighted - x, whole * torch.tensor([2, 0, 0.5])[:, None, None])
    torch.testing.assert_close(run([0.5] * 3) - x, 0.5 * whole)
    assert corrections(net, features, [0, 0, 0]) == Corrections()


def test_masks_weigh_the_tokens_by_area(net, features, x):
    mask = torch.zeros(1, 1, 64, 96)
    mask[..., :48] = 1
    patches = corrections(net, features, [1, 0, 1], mask).attention
    full = corrections(net, features, [1, 0, 1]).attention["attn1_patch"](x, x, x, HERE)[0]
    half = patches["attn1_patch"](x, x, x, HERE)[0]
    grid, whole, plain = (t.unflatten(1, (4, 6)) for t in (half, full, x))
    assert torch.equal(grid[:, :, :3], whole[:, :, :3])
    assert torch.equal(grid[:, :, 3:], plain[:, :, 3:])
    per_row = torch.stack([mask[0], mask[0], 0 * mask[0]])
    rows = corrections(net, features, [1, 0, 1], per_row).attention["attn1_patch"](x, x, x, HERE)[0]
    assert torch.equal(rows[0], half[0]) and torch.equal(rows[1:], x[1:])


def test_nothing_given_is_changed_and_two_uses_of_one_network_are_apart(net, features, x):
    before = [t.clone() for t in (x, *features)]
    other = net.encode_hint(torch.rand(3, 3, 64, 96))
    first = corrections(net, features, [1, 1, 1]).attention
    second = corrections(net, other, [1, 0, 1]).attention
    alone = first["attn1_patch"](x, x, x, HERE)[0]
    assert not torch.equal(second["attn1_patch"](x, x, x, HERE)[0], alone)
    assert torch.equal(first["attn1_patch"](x, x, x, HERE)[0], alone)
    assert all(torch.equal(a, b) for a, b in zip((x, *features), before, strict=True))


@pytest.mark.parametrize("shape", [(3, 12, 8), (6, 24, 8)])
def test_rearranged_tokens_are_refused(net, features, shape):
    x = torch.zeros(shape)
    patch = corrections(net, features, [1, 1, 1]).attention["attn1_patch"]
    with pytest.raises(ControlError, match=f"{shape[0]} rows of {shape[1]} tokens.*expected 3 of 24"):
        patch(x, x, x, HERE)


def test_patches_go_first_and_lists_that_others_hold_stay():
    theirs, ours, later = (lambda *a: a), Patch(lambda *a: a), Patch(lambda *a: a)
    shared = {"attn1_patch": [theirs], "input_block_patch": [theirs]}
    options = {"patches": shared, "sigmas": 1}
    add_patches(options, {"attn1_patch": ours, "attn2_patch": ours})
    assert options["patches"] == {
        "attn1_patch": [ours, theirs],
        "attn2_patch": [ours],
        "input_block_patch": [theirs],
    }
    assert shared == {"attn1_patch": [theirs], "input_block_patch": [theirs]}
    add_patches(options, {"attn1_patch": later})
    assert options["patches"]["attn1_patch"] == [ours, later, theirs]
    bare: dict = {}
    add_patches(bare, {"attn1_patch": ours})
    assert bare == {"patches": {"attn1_patch": [ours]}}


OTHERS = ("attn1_to_out_0", "attn2_to_out_0", "ff_net_0_proj", "ff_net_2")
UNET = UNetConfig(32, (1, 2), (1, 1), (1, 0), context_dim=8, num_heads=2)


def hooked_everywhere(sizes: dict[str, int]) -> LLLite:
    torch.manual_seed(2)
    net = LLLite({name: LayerSizes(width, 1, 4, 6) for name, width in sizes.items()})
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net.eval().requires_grad_(False)


@pytest.mark.parametrize("linear", [False, True])
def test_layers_outside_the_attentions_see_their_inputs_corrected(linear):
    """As sd-scripts does it: the layer's own forward is called with x + correction(x)."""
    unet = UNet(replace(UNET, use_linear_in_transformer=linear)).eval().requires_grad_(False)
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    block = "lllite_unet_input_blocks_1_1"
    names = [f"{block}_transformer_blocks_0_{name}" for name in OTHERS] + [f"{block}_proj_in"]
    net = hooked_everywhere({name: 128 if name.endswith("net_2") else 32 for name in names})
    features = net.encode_hint(torch.rand(2, 3, 64, 64))
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([500, 20]), torch.randn(2, 5, 8)
    plain = unet(*inputs)
    found = corrections(net, features, [1, 0.5])
    assert found.attention == {} and len(found.layers) == 5
    with layers_changed(unet, found.layers):
        drawn = unet(*inputs)
    assert torch.equal(unet(*inputs), plain)

    transformer = unet.input_blocks[1][1]
    layer = transformer.transformer_blocks[0]
    modules = [layer.attn1.to_out[0], layer.attn2.to_out[0], layer.ff.net[0].proj, layer.ff.net[2]]
    for name, module in zip(names, [*modules, transformer.proj_in], strict=True):
        own, number = module.forward, names.index(name)

        def forward(x, own=own, name=name, number=number):
            tokens = x if x.ndim == 3 else x.flatten(2).transpose(1, 2)
            change = net.correction(name, tokens, features[number]) * torch.tensor([1, 0.5])[:, None, None]
            return own(x + (change if x.ndim == 3 else change.transpose(1, 2).unflatten(2, x.shape[2:])))

        module.forward = forward
    expected = unet(*inputs)
    assert (expected - plain).abs().max() > 1e-2
    torch.testing.assert_close(drawn, expected, rtol=1e-5, atol=1e-5)


def test_changed_layers_are_as_before_when_the_call_fails():
    unet = UNet(UNET).eval()

    def fail(x):
        raise RuntimeError("stop")

    path = "input_blocks.1.1.transformer_blocks.0.ff.net.2"
    with pytest.raises(RuntimeError, match="stop"), layers_changed(unet, {path: fail}):
        unet(torch.randn(1, 4, 8, 8), torch.tensor([5]), torch.randn(1, 5, 8))
    assert not unet.get_submodule(path)._forward_pre_hooks

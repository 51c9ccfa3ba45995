"""LLLite as attention patches: which rows and layers change, by how much, and what stays as it was."""

import pytest
import torch

from cnet_core.control.lllite import add_patches, attention_patches
from cnet_core.errors import ControlError
from cnet_core.networks.lllite import LayerSizes, LLLite

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
    patches = attention_patches(net, features, [1, 1, 1])
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
    patches = attention_patches(net, features, [1, 1, 1])
    assert all(a is x for a in patches["attn1_patch"](x, x, x, elsewhere))


def test_each_row_has_its_weight_and_weight_zero_is_absence(net, features, x):
    def run(weights):
        return attention_patches(net, features, weights)["attn1_patch"](x, x, x, HERE)[0]

    whole = run([1, 1, 1]) - x
    weighted = run([2, 0, 0.5])
    assert torch.equal(weighted[1], x[1])
    torch.testing.assert_close(weighted - x, whole * torch.tensor([2, 0, 0.5])[:, None, None])
    torch.testing.assert_close(run([0.5] * 3) - x, 0.5 * whole)
    assert attention_patches(net, features, [0, 0, 0]) == {}


def test_masks_weigh_the_tokens_by_area(net, features, x):
    mask = torch.zeros(1, 1, 64, 96)
    mask[..., :48] = 1
    patches = attention_patches(net, features, [1, 0, 1], mask)
    full = attention_patches(net, features, [1, 0, 1])["attn1_patch"](x, x, x, HERE)[0]
    half = patches["attn1_patch"](x, x, x, HERE)[0]
    grid, whole, plain = (t.unflatten(1, (4, 6)) for t in (half, full, x))
    assert torch.equal(grid[:, :, :3], whole[:, :, :3])
    assert torch.equal(grid[:, :, 3:], plain[:, :, 3:])
    per_row = torch.stack([mask[0], mask[0], 0 * mask[0]])
    rows = attention_patches(net, features, [1, 0, 1], per_row)["attn1_patch"](x, x, x, HERE)[0]
    assert torch.equal(rows[0], half[0]) and torch.equal(rows[1:], x[1:])


def test_nothing_given_is_changed_and_two_uses_of_one_network_are_apart(net, features, x):
    before = [t.clone() for t in (x, *features)]
    other = net.encode_hint(torch.rand(3, 3, 64, 96))
    first = attention_patches(net, features, [1, 1, 1])
    second = attention_patches(net, other, [1, 0, 1])
    alone = first["attn1_patch"](x, x, x, HERE)[0]
    assert not torch.equal(second["attn1_patch"](x, x, x, HERE)[0], alone)
    assert torch.equal(first["attn1_patch"](x, x, x, HERE)[0], alone)
    assert all(torch.equal(a, b) for a, b in zip((x, *features), before, strict=True))


@pytest.mark.parametrize("shape", [(3, 12, 8), (6, 24, 8)])
def test_rearranged_tokens_are_refused(net, features, shape):
    x = torch.zeros(shape)
    patch = attention_patches(net, features, [1, 1, 1])["attn1_patch"]
    with pytest.raises(ControlError, match=f"{shape[0]} rows of {shape[1]} tokens.*expected 3 of 24"):
        patch(x, x, x, HERE)


def test_patches_go_first_and_lists_that_others_hold_stay():
    theirs, ours = (lambda *a: a), (lambda *a: a)
    shared = {"attn1_patch": [theirs], "input_block_patch": [theirs]}
    options = {"patches": shared, "sigmas": 1}
    add_patches(options, {"attn1_patch": ours, "attn2_patch": ours})
    assert options["patches"] == {
        "attn1_patch": [ours, theirs],
        "attn2_patch": [ours],
        "input_block_patch": [theirs],
    }
    assert shared == {"attn1_patch": [theirs], "input_block_patch": [theirs]}
    bare: dict = {}
    add_patches(bare, {"attn1_patch": ours})
    assert bare == {"patches": {"attn1_patch": [ours]}}

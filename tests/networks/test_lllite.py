"""ControlNet-LLLite: names, embeddings and corrections."""

import pytest
import torch
import torch.nn.functional as F

from cnet_core.networks.config import SD15, SDXL
from cnet_core.networks.lllite import (
    LayerSizes,
    LLLite,
    Place,
    differences,
    place_of,
    transformer_blocks,
)

Q4 = "lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
K7 = "lllite_unet_input_blocks_7_1_transformer_blocks_9_attn1_to_k"
QM = "lllite_unet_middle_block_1_transformer_blocks_3_attn2_to_q"


def test_names_tell_the_place():
    assert place_of(Q4) == Place(("input", 4), "transformer_blocks.0.attn1.to_q")
    assert place_of(K7) == Place(("input", 7), "transformer_blocks.9.attn1.to_k")
    place = place_of(QM)
    assert place == Place(("middle", 0), "transformer_blocks.3.attn2.to_q")
    assert (place.transformer, place.projection) == (3, ("attn2", "q"))
    assert place.path == "middle_block.1.transformer_blocks.3.attn2.to_q"
    place = place_of("lllite_unet_output_blocks_5_1_transformer_blocks_1_ff_net_0_proj")
    assert place.path == "output_blocks.5.1.transformer_blocks.1.ff.net.0.proj"
    assert (place.transformer, place.projection) == (1, None)
    place = place_of("lllite_unet_input_blocks_4_1_proj_in")
    assert (place.path, place.transformer) == ("input_blocks.4.1.proj_in", 0)


@pytest.mark.parametrize("tail", ["attn2_to_k", "attn2_to_v", "norm1", "proj_in", "ff_net_1"])
def test_other_layers_have_no_place(tail):
    """The text's layers have no tokens of the picture, and proj_in is outside the transformer blocks."""
    assert place_of(f"lllite_unet_input_blocks_4_1_transformer_blocks_0_{tail}") is None
    assert place_of("lllite_unet_input_blocks_4_1_ff_net_2") is None
    with pytest.raises(ValueError, match="no layer over the picture's tokens"):
        LLLite({f"lllite_unet_input_blocks_4_1_transformer_blocks_0_{tail}": LayerSizes(8, 2, 4, 6)})


def network() -> LLLite:
    torch.manual_seed(0)
    sizes = {
        QM: LayerSizes(12, 3, 6, 5),
        Q4: LayerSizes(8, 2, 4, 6),
        K7: LayerSizes(12, 1, 4, 3),
    }
    return LLLite(sizes).eval().requires_grad_(False)


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (1, 1)])
def test_embeddings_cover_the_tokens_of_their_layers(size):
    """One map per layer, its sides the latent's by 4, 2 and 1, rounded up as the UNet does."""
    features = network().encode_hint(torch.rand(2, 3, 8 * size[0], 8 * size[1]))
    for feature, channels, scale in zip(features, (6, 4, 4), (4, 2, 1), strict=True):
        assert tuple(feature.shape) == (2, channels, *(-(-side // scale) for side in size))


def test_correction_is_the_formula():
    """up(relu(mid([embedding, relu(down(x))]))), with the embedding of the hint in -1..1."""
    net, hint = network(), torch.rand(2, 3, 64, 64)
    state = {name.removeprefix(f"layers.{Q4}."): value for name, value in net.state_dict().items()}
    h = 2 * hint - 1
    h = F.relu(F.conv2d(h, state["conditioning1.0.weight"], state["conditioning1.0.bias"], stride=4))
    h = F.conv2d(h, state["conditioning1.2.weight"], state["conditioning1.2.bias"], stride=4)
    x = torch.randn(2, 16, 8)
    down = F.relu(x @ state["down.0.weight"].T + state["down.0.bias"])
    both = torch.cat([h.flatten(2).transpose(1, 2), down], dim=2)
    mid = F.relu(both @ state["mid.0.weight"].T + state["mid.0.bias"])
    expected = mid @ state["up.0.weight"].T + state["up.0.bias"]
    embedding = net.encode_hint(hint)[net.names.index(Q4)]
    torch.testing.assert_close(net.correction(Q4, x, embedding), expected, rtol=0, atol=1e-6)


def test_sdxls_transformer_blocks():
    blocks = transformer_blocks(SDXL)
    assert {block: depth for block, (_, _, depth) in blocks.items()} == {
        **{("input", 4): 2, ("input", 5): 2, ("input", 7): 10, ("input", 8): 10, ("middle", 0): 10},
        **{("output", i): 10 for i in range(3)},
        **{("output", i): 2 for i in range(3, 6)},
    }
    assert blocks["input", 4] == blocks["output", 5] == (640, 2, 2)
    assert blocks["input", 8] == blocks["middle", 0] == blocks["output", 0] == (1280, 4, 10)


def test_bases_are_told_by_the_hooked_blocks():
    sizes = {Q4: LayerSizes(640, 2, 32, 64), K7: LayerSizes(1280, 3, 32, 64), QM: LayerSizes(1280, 3, 32, 64)}
    assert differences(sizes, SDXL) == []
    reasons = differences(sizes, SD15)
    assert "in block input 7 it hooks transformer 9, the model has 1 there" in reasons
    assert differences({Q4: LayerSizes(320, 2, 32, 64)}, SDXL) == [
        "in block input 4 it corrects 320 channels at 1/16 of the picture's size, the model has 640 at 1/16"
    ]

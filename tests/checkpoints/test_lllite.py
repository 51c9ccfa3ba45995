"""ControlNet-LLLite files: sizes from shapes, the network as it was, errors by name."""

import pytest
import torch

from cnet_core.checkpoints import open_control
from cnet_core.errors import BaseMismatchError, CheckpointError
from cnet_core.networks.config import SD15, SDXL
from cnet_core.networks.lllite import LayerSizes, LLLite

Q4 = "lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
KM = "lllite_unet_middle_block_1_transformer_blocks_9_attn1_to_k"
FF = "lllite_unet_input_blocks_4_1_transformer_blocks_0_ff_net_0_proj"
FF2 = "lllite_unet_input_blocks_4_1_transformer_blocks_0_ff_net_2"
SIZES = {Q4: LayerSizes(640, 2, 4, 6), KM: LayerSizes(1280, 3, 6, 5)}


def weights(sizes=SIZES) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    state = LLLite(sizes).state_dict()
    return {name.removeprefix("layers."): tensor for name, tensor in state.items()}


def test_the_network_comes_back(write):
    state = weights()
    file = open_control(write({name: tensor.half() for name, tensor in state.items()}))
    assert (file.family.id, file.family.kind) == ("lllite", "native")
    assert file.sizes == SIZES
    assert (file.hint_channels, file.dtype, file.needs) == (3, torch.float16, None)
    assert file.label.startswith("ControlNet-LLLite for SDXL, fp16, ")
    net = file.build(dtype=torch.float32)
    for name, tensor in state.items():
        assert torch.equal(net.state_dict()[f"layers.{name}"], tensor.half().float())
    assert not net.training and not any(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_depth_is_told_by_the_strides(write, depth):
    sizes = {Q4: LayerSizes(8, depth, 4, 6)}
    assert open_control(write(weights(sizes))).sizes == sizes


def test_bases(write):
    file = open_control(write(weights()))
    file.check_base(SDXL, "it")
    with pytest.raises(BaseMismatchError, match=r"canny was made for SDXL, but the model is SD1\.5"):
        file.check_base(SD15, "canny")


def test_layers_of_feed_forward_networks_are_hooked_too(write):
    sizes = {Q4: LayerSizes(640, 2, 4, 6), FF: LayerSizes(640, 2, 4, 6), FF2: LayerSizes(2560, 2, 4, 6)}
    file = open_control(write(weights(sizes)))
    assert file.sizes == sizes
    file.check_base(SDXL, "it")
    with pytest.raises(BaseMismatchError):
        open_control(write(weights({FF2: LayerSizes(640, 2, 4, 6)}))).check_base(SDXL, "it")


def test_layers_outside_the_transformers_are_refused_by_name(write):
    state = weights()
    conv = "lllite_unet_input_blocks_4_0_in_layers_2"
    for name in [name for name in state if name.startswith(Q4)]:
        state[name.replace(Q4, conv)] = state[name].clone()
    with pytest.raises(
        CheckpointError, match=r"1 layers outside the transformers.*input_blocks_4_0_in_layers"
    ):
        open_control(write(state))


def test_damaged_files(write):
    state = weights()
    gone = {name: tensor for name, tensor in state.items() if name != f"{KM}.up.0.bias"}
    with pytest.raises(CheckpointError, match=rf"1 missing: {KM}\.up\.0\.bias"):
        open_control(write(gone)).build()
    gone = {name: tensor for name, tensor in state.items() if name != f"{KM}.down.0.weight"}
    with pytest.raises(CheckpointError, match=rf"damaged or incomplete.*it has no {KM}\.down\.0\.weight"):
        open_control(write(gone))
    gone = {name: tensor for name, tensor in state.items() if name != f"{KM}.conditioning1.4.weight"}
    with pytest.raises(CheckpointError, match=rf"{KM} embeds the hint by strides \(4, 4\)|unexpected"):
        open_control(write(gone)).build()

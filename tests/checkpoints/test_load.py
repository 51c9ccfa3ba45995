"""Networks from files and back: layouts, precisions, differences, and what is wrong with a file."""

import json
import os
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from cnet_core.checkpoints import (
    ControlFile,
    inspect,
    load_controlnet,
    load_unet,
    open_control,
    read_state_dict,
    save_controlnet,
    save_unet,
)
from cnet_core.checkpoints.convert import to_diffusers
from cnet_core.checkpoints.shapes import CONFIG_KEY, POOLING_KEY, config_metadata
from cnet_core.errors import CheckpointError
from cnet_core.networks.blocks import sdpa
from cnet_core.networks.config import UNetConfig
from cnet_core.networks.controlnet import ControlNet

from .conftest import CONFIGS, WIDTHS, randomised

CONFIG = UNetConfig(48, (1, 2), (1, 1), (1, 0), context_dim=24, num_heads=8)
LAYOUTS = ["ldm", "prefixed", "diffusers"]
BASE_PREFIXES = ["", "diffusion_model.", "model.diffusion_model."]


def in_layout(net, layout):
    state = net.state_dict()
    if layout == "diffusers":
        return to_diffusers(state, net.config)
    return {("control_model." if layout == "prefixed" else "") + name: t for name, t in state.items()}


def assert_same(found, expected):
    found, expected = found.state_dict(), expected.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_network(write, controlnet, config, layout):
    net = load_controlnet(write(in_layout(controlnet, layout), config=config))
    assert_same(net, controlnet)
    assert (net.config, net.hint_channels, net.hint_widths) == (config, 3, controlnet.hint_widths)
    assert not net.training and not any(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pickles_give_the_network(tmp_path, sd15_controlnet, layout):
    torch.save({"state_dict": in_layout(sd15_controlnet, layout)}, tmp_path / "net.pth")
    assert_same(load_controlnet(tmp_path / "net.pth"), sd15_controlnet)


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_hints_of_any_number_of_channels(write, layout, channels):
    torch.manual_seed(channels)
    expected = randomised(ControlNet(CONFIGS["sd15"], channels, WIDTHS))
    file = open_control(write(in_layout(expected, layout)))
    net = file.build()
    assert (file.hint_channels, net.hint_channels) == (channels, channels)
    assert_same(net, expected)
    hint = torch.rand(1, channels, 32, 32)
    x, t, context = torch.randn(1, 4, 4, 4), torch.tensor([5.0]), torch.randn(1, 3, 24)
    found = net(x, net.encode_hint(hint), t, context)
    # Mapped weights may lie in memory otherwise aligned, for which the processor's kernels may sum otherwise.
    torch.testing.assert_close(found.mid, expected(x, expected.encode_hint(hint), t, context).mid)
    blank = net(x, net.encode_hint(torch.cat([hint[:, :-1], 1 - hint[:, -1:]], 1)), t, context)
    assert not torch.equal(found.mid, blank.mid)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("written", "pooling"),
    [(None, None), ("True", True), ("true", True), ("1", True), ("False", False), ("0", False)],
)
def test_global_average_pooling_is_read_from_the_metadata(
    tmp_path, sd15_controlnet, layout, written, pooling
):
    path = tmp_path / "control_v11e_sd15_shuffle.safetensors"
    metadata = None if written is None else {POOLING_KEY: written}
    save_file(in_layout(sd15_controlnet, layout), path, metadata)
    assert open_control(path).global_average_pooling is pooling


def test_global_average_pooling_is_either_or(tmp_path, sd15_controlnet):
    save_file(sd15_controlnet.state_dict(), tmp_path / "net.safetensors", {POOLING_KEY: "often"})
    with pytest.raises(
        CheckpointError, match="global_average_pooling metadata is 'often'; expected true or false"
    ):
        open_control(tmp_path / "net.safetensors")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_precision_is_kept_and_cast(write, controlnet, config, dtype):
    state = {name: tensor.to(dtype) for name, tensor in controlnet.state_dict().items()}
    path = write(state, config=config)
    assert {p.dtype for p in load_controlnet(path).parameters()} == {dtype}
    cast = load_controlnet(path, dtype=torch.float16).state_dict()
    assert all(torch.equal(tensor, state[name].half()) for name, tensor in cast.items())


def test_mixed_precision_becomes_one(write, sd15_controlnet):
    state = sd15_controlnet.state_dict()
    state["time_embed.0.weight"] = state["time_embed.0.weight"].half()
    net = load_controlnet(write(state))
    assert {p.dtype for p in net.parameters()} == {torch.float32}


def test_weights_are_mapped_not_copied(write, sd15_controlnet):
    file = open_control(write(in_layout(sd15_controlnet, "diffusers")))
    net = file.build()
    for name, parameter in net.named_parameters():
        assert parameter.data_ptr() == file.tensors[name].data_ptr()


def test_two_networks_of_one_file_do_not_share(write, sd15_controlnet):
    path = write(sd15_controlnet.state_dict())
    first, second = load_controlnet(path), load_controlnet(path)
    for parameter in first.parameters():
        parameter.zero_()
    assert_same(second, sd15_controlnet)


def test_operations_and_attention_are_used(write, sd15_controlnet):
    class Operations:
        class Conv2d(torch.nn.Conv2d):
            pass

        class Linear(torch.nn.Linear):
            pass

        class GroupNorm(torch.nn.GroupNorm):
            pass

        class LayerNorm(torch.nn.LayerNorm):
            pass

    def attention(q, k, v, heads):
        calls.append(heads)
        return sdpa(q, k, v, heads)

    calls: list[int] = []
    net = load_controlnet(write(sd15_controlnet.state_dict()), operations=Operations, attention=attention)
    layers = [
        m for m in net.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear, torch.nn.GroupNorm))
    ]
    assert all(type(layer).__qualname__.split(".")[-2] == "Operations" for layer in layers)
    features = net.encode_hint(torch.rand(1, 3, 64, 64))
    net(torch.randn(1, 4, 8, 8), features, torch.tensor([5.0]), torch.randn(1, 3, 24))
    assert calls and set(calls) == {8}


def test_the_rest_of_a_training_checkpoint_is_left_out(write, sd15_controlnet):
    state = in_layout(sd15_controlnet, "prefixed")
    state |= {
        "model.diffusion_model.input_blocks.0.0.weight": torch.ones(1),
        "first_stage_model.a": torch.ones(1),
    }
    assert_same(load_controlnet(write(state)), sd15_controlnet)


class TestDifference:
    @pytest.fixture
    def path(self, write, unet, controlnet, config):
        base = unet.state_dict()
        state = {
            name: tensor - base[name] if name in base else tensor
            for name, tensor in controlnet.state_dict().items()
        }
        state = {f"control_model.{name}": tensor for name, tensor in state.items()}
        return write({**state, "difference": torch.ones(())}, config=config)

    @pytest.mark.parametrize("prefix", BASE_PREFIXES)
    def test_base_is_added(self, path, unet, controlnet, prefix):
        base = {prefix + name: tensor for name, tensor in unet.state_dict().items()}
        before = {name: tensor.clone() for name, tensor in base.items()}
        file = open_control(path)
        assert file.needs == "unet"
        found = file.build(base).state_dict()
        for name, tensor in controlnet.state_dict().items():
            assert (found[name] - tensor).abs().max() <= 1e-6, name
        assert all(torch.equal(base[name], tensor) for name, tensor in before.items())

    def test_sum_is_taken_in_fp32(self, path, unet, controlnet):
        base = {name: tensor.half() for name, tensor in unet.state_dict().items()}
        found = load_controlnet(path, base=base)
        assert {p.dtype for p in found.parameters()} == {torch.float32}

    def test_without_base(self, path):
        with pytest.raises(CheckpointError, match=r"difference ControlNet.*were not given"):
            load_controlnet(path)

    def test_foreign_base(self, path):
        with pytest.raises(CheckpointError, match="no Stable Diffusion UNet"):
            load_controlnet(path, base={"double_blocks.0.weight": torch.ones(1)})

    def test_base_of_other_sizes(self, path, unet):
        base = unet.state_dict() | {"time_embed.0.weight": torch.ones(3, 3)}
        with pytest.raises(CheckpointError, match=r"the model is another: time_embed.0.weight"):
            load_controlnet(path, base=base)


class TestWrongTensors:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @settings(max_examples=12, deadline=None)
    @given(data=st.data())
    def test_any_missing_tensor_is_named_as_in_the_file(
        self, tmp_path_factory, sd15_controlnet, layout, data
    ):
        state = in_layout(sd15_controlnet, layout)
        gone = data.draw(st.sampled_from(sorted(state)))
        path = tmp_path_factory.getbasetemp() / f"missing-{layout}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in state.items() if name != gone}, path)
        with pytest.raises(CheckpointError) as caught:
            load_controlnet(path)
        assert path.name in str(caught.value) and "Download it again" in str(caught.value)
        assert gone in str(caught.value)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_unexpected(self, write, sd15_controlnet, layout):
        state = in_layout(sd15_controlnet, layout)
        extra = "control_model.surprise.weight" if layout == "prefixed" else "surprise.weight"
        with pytest.raises(CheckpointError, match=f"1 unexpected: {extra}"):
            load_controlnet(write({**state, extra: torch.ones(1)}))

    def test_wrong_shape(self, write, sd15_controlnet):
        state = {**sd15_controlnet.state_dict(), "zero_convs.1.0.weight": torch.ones(32, 64, 1, 1)}
        with pytest.raises(
            CheckpointError, match=r"zero_convs.1.0.weight is \(32, 64, 1, 1\), expected \(32, 32, 1, 1\)"
        ):
            load_controlnet(write(state))

    def test_wrong_ranks_everywhere(self, write, sd15_controlnet):
        state = {name: tensor.flatten() for name, tensor in sd15_controlnet.state_dict().items()}
        with pytest.raises(CheckpointError, match="damaged or incomplete"):
            load_controlnet(write(state))

    def test_sizes_that_no_network_can_have(self, write):
        """48 channels do not divide into the usual 32 groups, and nothing in this file says otherwise."""
        state = ControlNet(replace(CONFIG, norm_groups=16)).state_dict()
        with pytest.raises(CheckpointError, match=r"net\.safetensors describes an impossible network"):
            load_controlnet(write(state))

    def test_few_names_of_many(self, write, sd15_controlnet):
        state = {
            n: t for n, t in sd15_controlnet.state_dict().items() if "transformer_blocks.0.norm" not in n
        }
        with pytest.raises(CheckpointError, match=r"12 missing: (\S+, ){3}\.\.\."):
            load_controlnet(write(state))


class TestSave:
    @pytest.mark.parametrize("dtype", [None, torch.float16])
    def test_round_trip(self, tmp_path, controlnet, dtype):
        path = tmp_path / "new folder" / "net.safetensors"
        save_controlnet(controlnet, path, {"note": "x"}, dtype)
        net = load_controlnet(path)
        assert net.config == controlnet.config
        for name, tensor in controlnet.state_dict().items():
            assert torch.equal(net.state_dict()[name], tensor.to(dtype or tensor.dtype))
        metadata = read_state_dict(path).metadata
        assert metadata["note"] == "x"
        assert json.loads(metadata[CONFIG_KEY])["hint_widths"] == list(controlnet.hint_widths)

    def test_groups_come_back(self, tmp_path):
        """They leave no trace in shapes either."""
        net = ControlNet(replace(CONFIG, norm_groups=16), hint_widths=(8, 8))
        save_controlnet(net, tmp_path / "net.safetensors")
        assert load_controlnet(tmp_path / "net.safetensors").config.norm_groups == 16

    def test_onto_the_file_that_it_was_loaded_from(self, tmp_path, sd15_controlnet):
        save_controlnet(sd15_controlnet, tmp_path / "net.safetensors")
        net = load_controlnet(tmp_path / "net.safetensors")
        save_controlnet(net, tmp_path / "net.safetensors")
        assert_same(net, sd15_controlnet)
        assert_same(load_controlnet(tmp_path / "net.safetensors"), sd15_controlnet)

    def test_the_file_has_the_mode_of_any_new_file(self, tmp_path, sd15_controlnet):
        (tmp_path / "any").touch()
        save_controlnet(sd15_controlnet, tmp_path / "net.safetensors")
        assert (tmp_path / "net.safetensors").stat().st_mode == (tmp_path / "any").stat().st_mode

    def test_a_failure_leaves_the_old_file_and_nothing_else(self, tmp_path, sd15_controlnet):
        path = tmp_path / "net.safetensors"
        path.write_bytes(b"old")
        with pytest.raises(Exception, match=r"."):
            save_controlnet(sd15_controlnet, path, {"note": 5})
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["net.safetensors"]

    def test_unet(self, tmp_path, unet):
        save_unet(unet, tmp_path / "unet.safetensors")
        net = load_unet(tmp_path / "unet.safetensors")
        assert net.config == unet.config
        assert_same(net, unet)


class TestUNet:
    @pytest.mark.parametrize("prefix", BASE_PREFIXES)
    def test_ldm(self, write, unet, config, prefix):
        state = {prefix + name: tensor for name, tensor in unet.state_dict().items()}
        if prefix.startswith("model."):
            state["first_stage_model.decoder.mid.block_1.norm1.weight"] = torch.ones(1)
        assert_same(load_unet(write(state, config=config)), unet)

    def test_diffusers(self, write, unet, config):
        assert_same(load_unet(write(to_diffusers(unet.state_dict(), config), config=config)), unet)

    def test_a_controlnet_is_refused(self, write, sd15_controlnet):
        with pytest.raises(CheckpointError, match="another kind of network: ControlNet"):
            load_unet(write(sd15_controlnet.state_dict()))

    def test_missing(self, write, unet, config):
        state = {name: tensor for name, tensor in unet.state_dict().items() if name != "out.0.bias"}
        with pytest.raises(CheckpointError, match=r"1 missing: out.0.bias"):
            load_unet(write(state, config=config))


class TestHeads:
    """Heads leave no trace in shapes."""

    def test_by_custom(self, write, controlnet, config):
        assert open_control(write(controlnet.state_dict())).config == config

    def test_metadata_goes_first(self, write, sd15_controlnet):
        path = write(sd15_controlnet.state_dict(), config=sd15_controlnet.config)
        assert open_control(path).config.num_heads == 8
        save_file(sd15_controlnet.state_dict(), path, {CONFIG_KEY: '{"num_head_channels": 16}'})
        assert open_control(path).config.num_head_channels == 16

    @pytest.mark.parametrize("written", ["{}", "[]", "no json", '{"num_heads": 2, "num_head_channels": 3}'])
    def test_useless_metadata(self, tmp_path, sd15_controlnet, written):
        save_file(sd15_controlnet.state_dict(), tmp_path / "net.safetensors", {CONFIG_KEY: written})
        with pytest.raises(CheckpointError, match=r"net\.safetensors.*metadata"):
            open_control(tmp_path / "net.safetensors")


def test_labels(write, controlnet, config):
    file = open_control(write({n: t.half() for n, t in controlnet.state_dict().items()}, config=config))
    assert isinstance(file, ControlFile)
    size = sum(tensor.numel() for tensor in controlnet.state_dict().values()) / 1e6
    assert file.label.startswith(f"ControlNet for custom width {config.model_channels} x (1, 2), text")
    assert file.label.endswith(f", fp16, {size:.1f} M parameters")


def test_metadata_holds_the_whole_configuration(config):
    written = json.loads(config_metadata(config, note=1)[CONFIG_KEY])
    assert written["note"] == 1 and written["transformer_depth"] == list(config.transformer_depth)


@pytest.mark.parametrize("scale", ["time_embed.0.scale_weight", "scaled_fp8", "time_embed.0.weight.absmax"])
def test_weights_with_scales_beside_them_are_refused(write, controlnet, scale):
    path = write({**controlnet.state_dict(), scale: torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"quantised weights.*fp16, bf16 or plain fp8"):
        load_controlnet(path)
    with pytest.raises(CheckpointError, match="quantised weights"):
        inspect(path)


def test_whole_numbers_are_no_weights(write, controlnet):
    state = controlnet.state_dict()
    state["time_embed.0.weight"] = state["time_embed.0.weight"].to(torch.int8)
    with pytest.raises(CheckpointError, match=r"1 of whole numbers: time_embed\.0\.weight"):
        load_controlnet(write(state))

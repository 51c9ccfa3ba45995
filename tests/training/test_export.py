"""Trained networks as files: the loader gives back what was trained, whatever it began with."""

import dataclasses
import json

import pytest
import torch

from cnet_core.checkpoints import (
    identify,
    load_controlnet,
    read_state_dict,
    save_controlnet,
    save_network,
)
from cnet_core.checkpoints.shapes import config_metadata
from cnet_core.errors import ControlError, TrainingError
from cnet_core.networks.controlnet import ControlNet
from cnet_core.networks.union import UnionControlNet
from cnet_core.training.export import result_metadata, save_result
from cnet_core.training.learner import Learner
from cnet_core.training.start import trainable

from .conftest import CONFIG, HINT_WIDTHS, SETTINGS, XL, Memory, make_base


@pytest.fixture
def union(tmp_path):
    """The file of a union network of eight kinds."""
    torch.manual_seed(2)
    net = UnionControlNet(CONFIG, hint_widths=HINT_WIDTHS, type_channels=4)
    path = tmp_path / "union.safetensors"
    save_network(net, path, config_metadata(CONFIG, hint_channels=3, hint_widths=HINT_WIDTHS))
    return path


def trained(settings, config=CONFIG, init=None):
    base, source = make_base(config), Memory(config=config)
    learner = Learner(base, trainable(base, settings, init, hint_widths=HINT_WIDTHS), settings)
    before = {name: tensor.clone() for name, tensor in learner.net.state_dict().items()}
    for _ in range(3):
        learner.advance(source)
    return learner, source, before


@torch.no_grad()
def residuals(net, source, encoded):
    batch = source.batch(0, 2, 0, 0.0)
    x, timesteps = batch.latents, torch.tensor([900, 30])
    return list(net(x, encoded(batch.hints.float() / 255), timesteps, batch.context, batch.y))


@pytest.mark.parametrize("config", [CONFIG, XL], ids=["sd15", "sdxl"])
def test_a_control_lora_comes_back_as_it_was_trained(config, tmp_path):
    learner, source, _ = trained(dataclasses.replace(SETTINGS, rank=3), config)
    path = tmp_path / "lora.safetensors"
    about = result_metadata(learner, source)
    save_result(learner.net, learner.result(), path, about, dtype=None)
    file = read_state_dict(path)
    assert identify(file).id == "control_lora" and about.items() <= file.metadata.items()
    ups = [tensor for name, tensor in file.tensors.items() if name.endswith(".up")]
    assert ups and all(up.shape[1] <= 3 for up in ups) and any(up.abs().max() > 0 for up in ups)
    whole = sum(p.numel() for p in learner.net.parameters())
    assert sum(tensor.numel() for tensor in file.tensors.values()) < whole / 2
    loaded = load_controlnet(path, torch.float32, base=learner.base.state_dict())
    ours = residuals(learner.net, source, learner.net.encode_hint)
    assert ours[-1].abs().max() > 0
    for mine, theirs in zip(ours, residuals(loaded, source, loaded.encode_hint), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, None], ids=["fp16", "bf16", "as it is"])
def test_every_weight_is_written_in_the_type_that_was_asked_for(dtype, tmp_path):
    learner, source, _ = trained(SETTINGS)
    path = tmp_path / "net.safetensors"
    save_result(learner.net, learner.result(), path, result_metadata(learner, source), dtype=dtype)
    tensors, result = read_state_dict(path).tensors, learner.result()
    assert tensors.keys() == result.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == (dtype or torch.float32)
        assert torch.equal(tensor, result[name].to(tensor.dtype))


def test_the_file_says_how_it_was_made(tmp_path):
    settings = dataclasses.replace(SETTINGS, prediction="v", seed=7)
    learner, source, _ = trained(settings)
    path = tmp_path / "net.safetensors"
    save_result(learner.net, learner.result(), path, result_metadata(learner, source))
    said = read_state_dict(path).metadata
    expected = {"prediction": "v", "steps": "3", "hint_kind": "lines", "annotator": "canny"}
    assert {name: said[f"cnet.{name}"] for name in expected} == expected
    assert said["cnet.data_hash"] == source.data_hash
    assert json.loads(said["cnet.settings"]) == dataclasses.asdict(settings)


def test_averaged_weights_are_what_is_written(tmp_path):
    learner, source, _ = trained(dataclasses.replace(SETTINGS, ema=0.9))
    path = tmp_path / "net.safetensors"
    save_result(learner.net, learner.result(), path, result_metadata(learner, source), dtype=None)
    tensors = read_state_dict(path).tensors
    for name, average in zip(learner.named, learner.average, strict=True):
        assert torch.equal(tensors[name], average)
    assert any(not torch.equal(tensors[name], weight) for name, weight in learner.named.items())


def test_the_changes_of_a_control_lora_are_no_larger_than_their_layers_and_drawn_by_fan_in():
    learner, _, before = trained(dataclasses.replace(SETTINGS, rank=24))
    spreads = []
    for name, layer in learner.net.named_modules():
        if not hasattr(layer, "down"):
            continue
        out, into = layer.weight.shape[:2]
        rank = min(24, out, into)
        assert layer.up.shape[:2] == (out, rank) and layer.down.shape[:2] == (rank, into)
        assert not layer.weight.requires_grad and not before[f"{name}.up"].any()
        spreads.append((before[f"{name}.down"] * layer.weight[0].numel() ** 0.5).flatten())
    assert abs(torch.cat(spreads).std() - 1) < 0.05


def test_a_union_network_learns_one_kind_and_stays_a_union(union, tmp_path):
    settings = dataclasses.replace(SETTINGS, union_kind="tile", weight_decay=0.0)
    learner, source, before = trained(settings, init=union)
    path = tmp_path / "trained.safetensors"
    save_result(learner.net, learner.result(), path, result_metadata(learner, source), dtype=None)
    loaded = load_controlnet(path)
    assert isinstance(loaded, UnionControlNet) and loaded.types == 8
    after = loaded.state_dict()
    # What says the hints' kind to the network moved for this kind only.
    moved = (after["task_embedding"] != before["task_embedding"]).any(dim=1)
    assert moved.tolist() == [False] * 6 + [True, False]
    assert after.keys() == learner.result().keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in learner.result().items())
    with pytest.raises(TrainingError, match="union networks; use ldm"):
        save_result(learner.net, learner.result(), tmp_path / "folder", {}, "diffusers")


def test_the_kind_of_a_union_network_must_be_said_and_be_one_of_its_own(union, base):
    with pytest.raises(
        TrainingError, match="say by union_kind which of its kinds the hints are: openpose, depth"
    ):
        trained(SETTINGS, init=union)
    with pytest.raises(TrainingError, match="a new network is no union network"):
        trainable(base, dataclasses.replace(SETTINGS, union_kind="tile"))
    with pytest.raises(TrainingError, match="a Control-LoRA begins as a new network"):
        trainable(base, dataclasses.replace(SETTINGS, rank=2, union_kind="tile"), union)


def test_a_union_network_without_the_kind_says_which_it_has(base, tmp_path):
    net = UnionControlNet(CONFIG, hint_widths=HINT_WIDTHS, types=6, type_channels=4)
    path = tmp_path / "six.safetensors"
    save_network(net, path, config_metadata(CONFIG, hint_channels=3, hint_widths=HINT_WIDTHS))
    with pytest.raises(ControlError, match="has no type tile; it has 6 types"):
        trained(dataclasses.replace(SETTINGS, union_kind="tile"), init=path)


def test_a_network_for_grey_hints_is_trained_further_from_its_file(tmp_path):
    base, path = make_base(), tmp_path / "grey.safetensors"
    save_controlnet(ControlNet.from_unet(base, 1, HINT_WIDTHS), path)
    assert trainable(base, SETTINGS, path).hint_channels == 1

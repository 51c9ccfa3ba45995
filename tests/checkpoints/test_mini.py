"""The mini checkpoints' networks from files as they ship, and from broken ones."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cnet_core.checkpoints import mini_autoencoder, mini_text_encoder, mini_unet_config, read_state_dict
from cnet_core.errors import CheckpointError
from cnet_core.training.encoders import MiniEncoders

WEIGHTS = Path(__file__).parents[2] / "demo" / "weights"
OPEN = {"unet": mini_unet_config, "autoencoder": mini_autoencoder, "text_encoder": mini_text_encoder}


def config(**changes):
    def change(metadata, tensors):
        metadata["cnet.config"] = json.dumps(json.loads(metadata["cnet.config"]) | changes)

    return change


def entry(key, value=None):
    def change(metadata, tensors):
        metadata.pop(key)
        if value is not None:
            metadata[key] = value

    return change


def tensor(change_shape):
    def change(metadata, tensors):
        name = next(name for name, value in tensors.items() if value.ndim > 1)
        if change_shape:
            tensors[name] = torch.zeros(1, 2)
        else:
            del tensors[name]

    return change


BREAKS = {
    "no_config": ("autoencoder", entry("cnet.config"), "no mini checkpoint"),
    "no_scale": ("autoencoder", entry("cnet.latent_scale"), "no mini checkpoint"),
    "no_json": ("autoencoder", entry("cnet.config", "{"), "damaged"),
    "list": ("autoencoder", entry("cnet.config", "[1]"), "damaged"),
    "scale": ("autoencoder", entry("cnet.latent_scale", "much"), "damaged"),
    "preview": ("autoencoder", entry("cnet.latent_rgb", "[1, 2]"), "damaged"),
    "field": ("autoencoder", config(colour="red"), "damaged"),
    "negative": ("autoencoder", config(width=-1), "damaged"),
    "text": ("autoencoder", config(width="wide"), "damaged"),
    "other_width": ("autoencoder", config(width=8), "another shape"),
    "missing": ("autoencoder", tensor(False), "1 missing"),
    "words": ("text_encoder", config(vocabulary=3), "damaged"),
    "no_words": ("text_encoder", entry("cnet.config", "{}"), "no mini checkpoint"),
    "shape": ("text_encoder", tensor(True), "another shape"),
    "unet_shape": ("unet", tensor(True), "mini checkpoint|shape|damaged"),
    "unet_missing": ("unet", tensor(False), "mini checkpoint|missing"),
}


def broken(folder, name, change):
    """The file with its metadata or its tensors changed."""
    with safe_open(WEIGHTS / f"{name}.safetensors", "pt") as file:
        metadata = dict(file.metadata())
    tensors = load_file(WEIGHTS / f"{name}.safetensors")
    change(metadata, tensors)
    path = folder / f"{name}.safetensors"
    save_file(tensors, path, metadata)
    return path


def test_those_that_ship():
    assert mini_unet_config(read_state_dict(WEIGHTS / "unet.safetensors")).context_dim == 64
    net, scale, preview = mini_autoencoder(read_state_dict(WEIGHTS / "autoencoder.safetensors"))
    assert net.config.latent_channels == len(preview) and scale > 0
    words = mini_text_encoder(read_state_dict(WEIGHTS / "text_encoder.safetensors"))
    assert words(words.tokenize(["a red dancer"])).shape == (1, 20, 64)


@pytest.mark.parametrize("case", BREAKS)
def test_broken_ones_are_refused_by_name(tmp_path, case):
    name, change, message = BREAKS[case]
    path = broken(tmp_path, name, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        OPEN[name](read_state_dict(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["autoencoder", "text_encoder"])
@pytest.mark.parametrize("value", [None, "{"])
def test_the_encoders_of_a_broken_folder(tmp_path, name, value):
    for one in ("autoencoder", "text_encoder"):
        broken(tmp_path, one, entry("cnet.config", value) if one == name else lambda *_: None)
    with pytest.raises(CheckpointError, match=rf"{name}\.safetensors is .*Cache Training Data"):
        MiniEncoders(tmp_path)
    (tmp_path / f"{name}.safetensors").unlink()
    with pytest.raises(CheckpointError, match="does not exist"):
        MiniEncoders(tmp_path)

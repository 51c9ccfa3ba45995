"""The networks of the mini checkpoints (demo/weights) besides the ControlNets, from their files."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..errors import CheckpointError
from ..networks.autoencoder import AutoencoderConfig, TinyAutoencoder
from ..networks.config import UNetConfig
from ..networks.text_encoder import WordEncoder, WordEncoderConfig
from ..networks.unet import UNet
from .control_file import check_tensors
from .read import StateFile
from .shapes import unet_config


def mini_unet_config(file: StateFile) -> UNetConfig:
    """The sizes of the UNet. All three raise CheckpointError for a file that is another or damaged."""
    with _described(file):
        config = unet_config(file.tensors, file.metadata)
        check_tensors(file.path, file.tensors, UNet(config, device=torch.device("meta")))
    return config


def mini_autoencoder(file: StateFile) -> tuple[TinyAutoencoder, float, list[list[float]]]:
    """(network, factor from its latents to the UNet's, RGB per latent channel for previews)."""
    with _described(file):
        net = TinyAutoencoder(AutoencoderConfig(**json.loads(file.metadata["cnet.config"])))
        scale = float(file.metadata["cnet.latent_scale"])
        preview = [[float(part) for part in rgb] for rgb in json.loads(file.metadata["cnet.latent_rgb"])]
        _fill(net, file)
    return net, scale, preview


def mini_text_encoder(file: StateFile) -> WordEncoder:
    with _described(file):
        config = json.loads(file.metadata["cnet.config"])
        net = WordEncoder(WordEncoderConfig(**{**config, "vocabulary": tuple(config["vocabulary"])}))
        _fill(net, file)
    return net


def _fill(net: nn.Module, file: StateFile) -> None:
    check_tensors(file.path, file.tensors, net)
    net.load_state_dict(file.tensors)
    net.eval().requires_grad_(False)


@contextmanager
def _described(file: StateFile) -> Iterator[None]:
    """Within, whatever a file's description of its network lacks or gets wrong is a CheckpointError."""
    try:
        yield
    except CheckpointError as error:
        if str(file.path) in str(error):
            raise
        raise CheckpointError(f"{file.path} is no mini checkpoint: {error}.") from error
    except KeyError as error:
        raise CheckpointError(f"{file.path} is no mini checkpoint: its metadata has no {error}.") from error
    except (TypeError, ValueError, IndexError, AttributeError, RuntimeError, OverflowError) as error:
        raise CheckpointError(
            f"{file.path} is damaged: what its metadata says of its network makes no sense ({error}). Get it "
            "again."
        ) from error

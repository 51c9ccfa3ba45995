"""BAE: normals by a network that knows how sure it is (G. Bae, I. Budvytis, R. Cipolla 2021)."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import weights
from ..networks import network_module
from ..registry import Annotation, Annotator
from .layers import OneByOne, without_batch_norms
from .shared import ask, in_annotators, standardised

_FILE = in_annotators("scannet.pt", "MIT")


class Encoder(torch.nn.Module):
    """EfficientNet-B5 without its classifier, whose features the decoder reads."""

    def __init__(self) -> None:
        super().__init__()
        from timm import create_model

        self.original_model: Any = create_model("tf_efficientnet_b5.ap_in1k", pretrained=False)
        self.original_model.classifier = torch.nn.Identity()

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Features at a half, a fourth, an eighth, a sixteenth and a thirty-second of the size."""
        net = self.original_model
        x = net.bn1(net.conv_stem(pictures))
        features = []
        for block in net.blocks:
            x = block(x)
            features.append(x)
        return [features[0], features[1], features[2], features[4], net.conv_head(x)]


class Refined(torch.nn.Module):
    """Normals at twice the size, by layers that look at one place at a time: of features [B,C,H,W] and of the
    normals [B,4,H,W] known there, whose fourth channel says how sure they are."""

    def __init__(self, layers: torch.nn.Sequential):
        super().__init__()
        self.layers = layers

    def forward(self, features: Tensor, normals: Tensor) -> Tensor:
        first, *others = [layer for layer in self.layers if isinstance(layer, torch.nn.Conv1d)]
        given = torch.cat([features, normals], 1).movedim(1, -1)
        # The first layer before the enlargement, which is as linear: a quarter of the places, fewer channels.
        small = F.linear(given, first.weight[..., 0], first.bias).movedim(-1, 1)
        large = F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=True).movedim(1, -1)
        places = large.flatten(0, 2)
        found = []
        # So few at once that they stay in a CPU's caches.
        for part in places.split(4096 if places.device.type == "cpu" else len(places)):
            for layer in others:
                part = F.linear(part.relu_(), layer.weight[..., 0], layer.bias)
            found.append(part)
        return normalised(torch.cat(found).view(*large.shape[:3], 4).movedim(-1, 1))


def normalised(found: Tensor) -> Tensor:
    """Normals [B,4,H,W] of length 1, and how sure they are, above 0."""
    normals, sure = found.split([3, 1], 1)
    length = normals.square().sum(1, keepdim=True).sqrt() + 1e-10
    return torch.cat([normals / length, F.elu(sure) + 1.01], 1)


class Bae(torch.nn.Module):
    """Encoder and decoder under their published names."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        settings = SimpleNamespace(architecture="BN", sampling_ratio=0.4, importance_ratio=0.7)
        self.decoder: Any = network_module("normalbae.nets.submodules.decoder").Decoder(settings)

    def forward(self, pictures: Tensor) -> Tensor:
        """Normals [B,3,H,W] of length 1."""
        net, read = self.decoder, self.encoder(pictures)
        sixteenth = net.up1(net.conv2(read[-1]), read[3])
        eighth = net.up2(sixteenth, read[2])
        fourth = net.up3(eighth, read[1])
        half = net.up4(fourth, read[0])
        normals = normalised(net.out_conv_res8(eighth))
        normals = net.out_conv_res4(eighth, normals)
        normals = net.out_conv_res2(fourth, normals)
        return net.out_conv_res1(half, normals)[:, :3]


def build(paths: Mapping[str, Path]) -> torch.nn.Module:
    path = paths[_FILE.file]
    held = weights.read(path, "model")
    # bn2 follows the last layer that is read.
    net = weights.load(Bae(), held, path, optional=r"\.original_model\.bn2\.")
    net.encoder.original_model.bn2 = torch.nn.Identity()
    blocks, decoder = net.encoder.original_model.blocks, net.decoder
    for i in range(3):
        blocks[i] = OneByOne(blocks[i])
    for name in ("up3", "up4"):
        setattr(decoder, name, OneByOne(getattr(decoder, name)))
    for name in ("out_conv_res4", "out_conv_res2", "out_conv_res1"):
        setattr(decoder, name, OneByOne(Refined(getattr(decoder, name))))
    return without_batch_norms(net)


def bae(pictures: Tensor, net: torch.nn.Module) -> Annotation:
    return Annotation((ask(net, standardised(pictures)) / 2 + 0.5).clamp(0.0, 1.0))


ANNOTATOR = Annotator(
    id="bae",
    title="BAE Normals",
    condition="normals",
    kind="normals",
    description="Which way surfaces face, estimated from one picture.",
    convention="R is x to the left, G is y up, B is z: blue faces the viewer",
    annotate=bae,
    build=build,
    weights=(_FILE,),
    multiple=32,
    cpu_pixels=2**20,
    suits=("lllyasviel/control_v11p_sd15_normalbae",),
    aliases=("normal map", "normalbae"),
)

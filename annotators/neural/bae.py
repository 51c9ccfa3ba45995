"""BAE: normals by a network that knows how sure it is (G. Bae, I. Budvytis, R. Cipolla 2021)."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from .. import weights
from ..networks import network_module
from ..registry import Annotation, Annotator
from .layers import without_batch_norms
from .shared import ask, in_annotators, standardised

_FILE = in_annotators("scannet.pt", "MIT")

# What the decoder reads of an encoder's features; the published names count every layer.
_READ = (4, 5, 6, 8, 11)


class Encoder(torch.nn.Module):
    """EfficientNet-B5 without its classifier, whose features the decoder reads."""

    def __init__(self) -> None:
        super().__init__()
        from timm import create_model

        self.original_model: Any = create_model("tf_efficientnet_b5.ap_in1k", pretrained=False)
        self.original_model.classifier = torch.nn.Identity()

    def forward(self, pictures: Tensor) -> dict[int, Tensor]:
        net = self.original_model
        x = net.bn1(net.conv_stem(pictures))
        features = []
        for block in net.blocks:
            x = block(x)
            features.append(x)
        read = [features[0], features[1], features[2], features[4], net.conv_head(x)]
        return dict(zip(_READ, read, strict=True))


class Bae(torch.nn.Module):
    """Encoder and decoder under their published names."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        settings = SimpleNamespace(architecture="BN", sampling_ratio=0.4, importance_ratio=0.7)
        self.decoder = network_module("normalbae.nets.submodules.decoder").Decoder(settings)

    def forward(self, pictures: Tensor) -> Tensor:
        """Normals [B,3,H,W] of length 1."""
        finest_last, _, _ = self.decoder(self.encoder(pictures))
        return finest_last[-1][:, :3]


def build(paths: Mapping[str, Path]) -> torch.nn.Module:
    path = paths[_FILE.file]
    held = weights.read(path)
    # bn2 follows the last layer that is read.
    net = weights.load(Bae(), held.get("model", held), path, optional=r"\.original_model\.bn2\.")
    net.encoder.original_model.bn2 = torch.nn.Identity()
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
    suits=("lllyasviel/control_v11p_sd15_normalbae",),
    aliases=("normal map", "normalbae"),
)

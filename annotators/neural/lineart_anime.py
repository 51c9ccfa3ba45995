"""Line art of anime (X. Xiang et al., Anime2Sketch 2022)."""

import functools
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from .. import weights
from ..networks import network_module
from ..registry import Annotation, Annotator
from .layers import AsProduct, OneByOne, instance_norms_as_group_norms
from .shared import as_picture, ask, in_annotators

_FILE = in_annotators("netG.pth", "MIT", "ccabdcc3f5cf3c07cf65d58776acb21df7dfda825cdc70c9766a93fd62bfc488")

# Of its eight halvings, those whose maps are larger than their weights.
_WIDE = 3


def build(paths: Mapping[str, Path]) -> torch.nn.Module:
    path = paths[_FILE.file]
    norm = functools.partial(torch.nn.InstanceNorm2d, affine=False, track_running_stats=False)
    net = network_module("lineart_anime").UnetGenerator(3, 1, 8, 64, norm_layer=norm)
    net = weights.load(net, weights.read(path), path)
    instance_norms_as_group_norms(net)
    for module in list(net.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, torch.nn.ConvTranspose2d):
                setattr(module, name, AsProduct(layer))
    block = net.model
    for _ in range(_WIDE):
        layers = list(block.model)
        (inner,) = [i for i, layer in enumerate(layers) if isinstance(layer, type(block))]
        block.model = torch.nn.Sequential(
            OneByOne(*layers[:inner]), layers[inner], OneByOne(*layers[inner + 1 :])
        )
        block = layers[inner]
    return net


def lineart_anime(pictures: Tensor, net: torch.nn.Module) -> Annotation:
    """White lines on black. The network takes RGB in -1..1 and draws black on white in -1..1."""
    return Annotation(as_picture(0.5 - 0.5 * ask(net, pictures * 2.0 - 1.0)))


ANNOTATOR = Annotator(
    id="lineart_anime",
    title="Line Art Anime",
    condition="anime line art",
    kind="soft",
    description="The lines of a drawing in the style of anime, without its colours and shades.",
    convention="white lines on black",
    annotate=lineart_anime,
    build=build,
    weights=(_FILE,),
    # It halves the picture eight times.
    multiple=256,
    cpu_pixels=2**20,
    suits=("lllyasviel/control_v11p_sd15s2_lineart_anime",),
    aliases=("lineart", "anime"),
)

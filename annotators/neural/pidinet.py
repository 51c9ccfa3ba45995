"""PiDiNet: soft edges by pixel difference networks (Z. Su et al. 2021), and scribbles from them."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from .. import weights
from ..networks import network_module
from ..parameters import Bool
from ..registry import Annotation, Annotator
from .layers import in_channels_last
from .shared import SAFE, as_picture, ask, in_annotators, in_levels, scribbled

_FILE = in_annotators(
    "table5_pidinet.pth",
    "research only (custom)",
    "80860ac267258b5f27486e0ef152a211d0b08120f62aeb185a050acc30da486c",
)

# The pixel differences of the published network's 16 layers: central, angular, radial, none.
_KINDS = ("cd", "ad", "rd", "cv") * 4
# Of the 3 x 3 kernel, row by row: the clockwise neighbour of each place.
_TURNED = (3, 0, 1, 6, 4, 2, 7, 8, 5)
# Where radial differences lie in a 5 x 5 kernel: the outer pixels, and the inner ones taken from them.
_OUTER = (0, 2, 4, 10, 14, 20, 22, 24)
_INNER = (6, 7, 8, 11, 13, 16, 17, 18)


def build(paths: Mapping[str, Path]) -> torch.nn.Module:
    """The network with plain convolutions, made from the published weights: equal, and faster."""
    path = paths[_FILE.file]
    held = weights.read(path, "state_dict")
    held = {name.removeprefix("module."): value for name, value in held.items()}
    net = network_module("pidi.model").PiDiNet(60, _KINDS, dil=24, sa=True, convert=True)
    blocks = [f"block1_{i}.conv1" for i in range(1, 4)]
    blocks += [f"block{i // 4 + 1}_{i % 4 + 1}.conv1" for i in range(4, 16)]
    for name, kind in zip(["init_block", *blocks], _KINDS, strict=True):
        kernel = held.get(f"{name}.weight")
        if isinstance(kernel, Tensor) and kernel.shape[-2:] == (3, 3):
            held[f"{name}.weight"] = plain_kernel(kernel, kind)
    return in_channels_last(weights.load(net, held, path))


def plain_kernel(kernel: Tensor, kind: str) -> Tensor:
    """The kernel of the plain convolution that does what a pixel difference convolution [O,I,3,3] does.

    kind: central ("cd", each pixel less the middle), angular ("ad", less its clockwise neighbour), radial
    ("rd", of an outer ring less the inner, [O,I,5,5]) or none ("cv").
    """
    if kind == "cd":
        kernel = kernel.clone()
        kernel[:, :, 1, 1] -= kernel.sum((2, 3))
        return kernel
    flat = kernel.flatten(2)
    if kind == "ad":
        return (flat - flat[:, :, _TURNED]).view_as(kernel)
    if kind == "rd":
        wide = kernel.new_zeros(*kernel.shape[:2], 25)
        wide[:, :, _OUTER] = flat[:, :, 1:]
        wide[:, :, _INNER] = -flat[:, :, 1:]
        return wide.view(*kernel.shape[:2], 5, 5)
    return kernel


def pidinet(pictures: Tensor, net: torch.nn.Module, safe: int = 0, filter: bool = False) -> Annotation:
    edges = _edges(pictures, net)
    if filter:
        edges = (edges > 0.5).float()
    return Annotation(as_picture(in_levels(edges, safe)))


def pidinet_scribble(pictures: Tensor, net: torch.nn.Module) -> Annotation:
    return Annotation(as_picture(scribbled(_edges(pictures, net))))


def _edges(pictures: Tensor, net: torch.nn.Module) -> Tensor:
    """Soft edges [B,1,H,W]. The network takes BGR in 0..1."""
    return ask(net, pictures.flip(1))[-1]


ANNOTATORS = (
    Annotator(
        id="pidinet",
        title="PiDiNet Soft Edges",
        condition="soft edge",
        kind="soft",
        description="Soft outlines, cleaner and with less texture than HED's.",
        convention="soft white lines on black",
        annotate=pidinet,
        parameters=(
            SAFE,
            Bool("filter", False, "Keep only edges that are more likely than not, as plain white lines."),
        ),
        build=build,
        weights=(_FILE,),
        multiple=8,
        suits=("lllyasviel/control_v11p_sd15_softedge", "SargeZT/controlnet-sd-xl-1.0-softedge-dexined"),
        aliases=("soft edge", "softedge", "pidi"),
    ),
    Annotator(
        id="pidinet_scribble",
        title="PiDiNet Scribble",
        condition="scribble",
        kind="soft",
        description="Thick strokes as if drawn by hand, along the soft edges that PiDiNet finds.",
        convention="thick white lines on black",
        annotate=pidinet_scribble,
        build=build,
        weights=(_FILE,),
        multiple=8,
        suits=("lllyasviel/control_v11p_sd15_scribble", "xinsir/controlnet-scribble-sdxl-1.0"),
        aliases=("fake scribble",),
    ),
)

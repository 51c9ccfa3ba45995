"""HED: soft edges by holistically-nested edge detection (S. Xie, Z. Tu 2015), and scribbles from them."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from .. import weights
from ..networks import network_module
from ..registry import Annotation, Annotator
from .layers import in_channels_last
from .shared import SAFE, as_picture, ask, fused, in_annotators, in_levels, scribbled

_FILE = in_annotators(
    "ControlNetHED.pth", "Apache-2.0", "5ca93762ffd68a29fee1af9d495bf6aab80ae86f08905fb35472a083a4c7a8fa"
)


def build(paths: Mapping[str, Path]) -> torch.nn.Module:
    path = paths[_FILE.file]
    net = network_module("hed").ControlNetHED_Apache2()
    return in_channels_last(weights.load(net, weights.read(path), path))


def hed(pictures: Tensor, net: torch.nn.Module, safe: int = 0) -> Annotation:
    return Annotation(as_picture(in_levels(_edges(pictures, net), safe)))


def hed_scribble(pictures: Tensor, net: torch.nn.Module) -> Annotation:
    return Annotation(as_picture(scribbled(_edges(pictures, net))))


def _edges(pictures: Tensor, net: torch.nn.Module) -> Tensor:
    """Soft edges [B,1,H,W]. The network takes RGB in 0..255."""
    return fused(ask(net, pictures * 255.0), *pictures.shape[-2:])


ANNOTATORS = (
    Annotator(
        id="hed",
        title="HED Soft Edges",
        condition="soft edge",
        kind="soft",
        description="Soft, painterly outlines of what is seen; the hint of soft edge ControlNets.",
        convention="soft white lines on black",
        annotate=hed,
        parameters=(SAFE,),
        build=build,
        weights=(_FILE,),
        multiple=16,
        suits=("lllyasviel/control_v11p_sd15_softedge", "lllyasviel/sd-controlnet-hed"),
        aliases=("soft edge", "softedge"),
    ),
    Annotator(
        id="hed_scribble",
        title="HED Scribble",
        condition="scribble",
        kind="soft",
        description="Thick strokes as if drawn by hand, along the soft edges that HED finds.",
        convention="thick white lines on black",
        annotate=hed_scribble,
        build=build,
        weights=(_FILE,),
        multiple=16,
        suits=("lllyasviel/control_v11p_sd15_scribble", "xinsir/controlnet-scribble-sdxl-1.0"),
        aliases=("fake scribble",),
    ),
)

"""TEED: soft edges by the tiny and efficient edge detector (X. Soria et al. 2023)."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from .. import weights
from ..networks import network_module
from ..registry import Annotation, Annotator, WeightFile
from .layers import in_channels_last
from .shared import SAFE, as_picture, ask, fused, in_levels

_FILE = WeightFile(
    "bdsqlsz/qinglong_controlnet-lllite",
    "Annotators/7_model.pth",
    "MIT",
    "b9037964149c55156c6adbffdfbd7e8ca7d2ef2a4d90573520efa7f3a1aacf06",
)


def build(paths: Mapping[str, Path]) -> torch.nn.Module:
    return build_teed(paths[_FILE.file])


def build_teed(path: Path) -> torch.nn.Module:
    """The network, with one of its published weights."""
    return in_channels_last(weights.load(network_module("teed.ted").TED(), weights.read(path), path))


def teed(pictures: Tensor, net: torch.nn.Module, safe: int = 2) -> Annotation:
    return Annotation(as_picture(in_levels(teed_edges(pictures, net), safe)))


def teed_edges(pictures: Tensor, net: torch.nn.Module) -> Tensor:
    """Soft edges [B,1,H,W]. The network takes RGB in 0..255."""
    return fused(ask(net, pictures * 255.0), *pictures.shape[-2:])


ANNOTATOR = Annotator(
    id="teed",
    title="TEED Soft Edges",
    condition="soft edge",
    kind="soft",
    description="Soft outlines by a very small network, fast even without a GPU.",
    convention="soft white lines on black",
    annotate=teed,
    parameters=(replace(SAFE, default=2),),
    build=build,
    weights=(_FILE,),
    multiple=8,
    suits=("lllyasviel/control_v11p_sd15_softedge", "bdsqlsz/qinglong_controlnet-lllite"),
    aliases=("soft edge", "softedge"),
)

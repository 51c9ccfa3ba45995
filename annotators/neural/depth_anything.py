"""Depth Anything V2 (L. Yang et al. 2024), in three sizes, by transformers."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..registry import Annotation, Annotator, WeightFile
from .shared import SPAN, ask, depth_finish, from_transformers, sound, standardised, transformers


@dataclass(frozen=True)
class Size:
    """Of the published networks: widths of the transformer, of the features taken from it and of the decoder,
    the transformer's layers, heads, and the layers that features are taken from."""

    width: int
    neck: tuple[int, ...]
    decoder: int
    layers: int
    heads: int
    taken: tuple[int, ...]


SIZES = {
    "Small": Size(384, (48, 96, 192, 384), 64, 12, 6, (3, 6, 9, 12)),
    "Base": Size(768, (96, 192, 384, 768), 128, 12, 12, (3, 6, 9, 12)),
    "Large": Size(1024, (256, 512, 1024, 1024), 256, 24, 16, (5, 12, 18, 24)),
}


def configuration(size: Size) -> Any:
    """What transformers makes the network from."""
    library = transformers()
    backbone = library.Dinov2Config(
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        image_size=518,
        patch_size=14,
        out_indices=list(size.taken),
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    return library.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=size.width,
        neck_hidden_sizes=list(size.neck),
        fusion_hidden_size=size.decoder,
    )


def build(paths: Mapping[str, Path], size: Size) -> torch.nn.Module:
    (path,) = paths.values()
    return from_transformers("DepthAnythingForDepthEstimation", configuration(size), path)


def depth_anything(pictures: Tensor, net: torch.nn.Module, **parameters: object) -> Annotation:
    """Inverse depth, of no known scale. The network takes RGB as ImageNet has it."""
    return Annotation(depth=sound(ask(net, standardised(pictures)).predicted_depth))


def _entry(name: str, size: Size, licence: str, sha256: str | None = None) -> Annotator:
    return Annotator(
        id=f"depth_anything_{name.lower()}",
        title=f"Depth Anything V2 {name}",
        condition="depth",
        kind="depth",
        description=f"How near everything is, with fine outlines; the {name.lower()} network.",
        convention="near is white, far is black",
        annotate=depth_anything,
        parameters=(SPAN,),
        finish=depth_finish,
        build=partial(build, size=size),
        weights=(
            WeightFile(f"depth-anything/Depth-Anything-V2-{name}-hf", "model.safetensors", licence, sha256),
        ),
        extra="transformers",
        multiple=14,
        makes=("depth",),
        suits=("lllyasviel/control_v11f1p_sd15_depth", "diffusers/controlnet-depth-sdxl-1.0"),
    )


ANNOTATORS = (
    _entry(
        "Small",
        SIZES["Small"],
        "Apache-2.0",
        "3152477ce0d8d6978d76b995120de97cb5b928701fd0f817769f59e249a16b70",
    ),
    _entry("Base", SIZES["Base"], "CC-BY-NC-4.0"),
    _entry("Large", SIZES["Large"], "CC-BY-NC-4.0"),
)

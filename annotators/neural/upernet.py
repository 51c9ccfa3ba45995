"""UperNet on ConvNeXt: what everything is, in ADE20K's 150 classes (T. Xiao et al. 2018), by transformers."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..ade20k import PALETTE, coloured
from ..registry import Annotation, Annotator, WeightFile
from .shared import ask, from_transformers, sound, standardised, transformers

_FILE = WeightFile("openmmlab/upernet-convnext-small", "pytorch_model.bin", "MIT")


def build(paths: Mapping[str, Path]) -> torch.nn.Module:
    """The network without what it needs for training only."""
    library = transformers()
    backbone = library.ConvNextConfig(
        depths=[3, 3, 27, 3],
        hidden_sizes=[96, 192, 384, 768],
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = library.UperNetConfig(
        backbone_config=backbone, num_labels=len(PALETTE), use_auxiliary_head=False
    )
    network = "UperNetForSemanticSegmentation"
    return from_transformers(network, config, paths[_FILE.file], optional=r"^auxiliary_head\.")


def upernet(pictures: Tensor, net: torch.nn.Module) -> Annotation:
    """The likeliest class of every pixel. The network takes RGB as ImageNet has it."""
    labels = sound(ask(net, standardised(pictures)).logits).argmax(1).cpu()
    return Annotation(coloured(labels), labels=labels)


ANNOTATOR = Annotator(
    id="upernet",
    title="UperNet Segmentation",
    condition="segmentation",
    kind="areas",
    description="What everything is (sky, wall, person, ...), each class in its colour; labels are raw.",
    convention="ADE20K's palette of 150 classes",
    annotate=upernet,
    build=build,
    weights=(_FILE,),
    extra="transformers",
    multiple=32,
    makes=("labels",),
    suits=("lllyasviel/control_v11p_sd15_seg", "abovzv/sdxl_segmentation_controlnet_ade20k"),
    aliases=("semantic segmentation", "ade20k", "oneformer", "uniformer"),
)

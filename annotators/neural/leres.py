"""LeReS: depth with sharp outlines (W. Yin et al. 2021)."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from .. import weights
from ..networks import network_module
from ..parameters import Float
from ..registry import Annotation, Annotator
from .layers import AsProduct, OneByOne, in_channels_last, without_batch_norms
from .shared import SPAN, as_picture, ask, in_annotators, ranged, standardised

_FILE = in_annotators(
    "res101.pth", "CC0-1.0", "1d696b2ef3e8336b057d0c15bc82d2fecef821bfebe5ef9d7671a5ec5dde520b"
)


def build(paths: Mapping[str, Path]) -> torch.nn.Module:
    path = paths[_FILE.file]
    held = weights.read(path, "depth_model")
    net = network_module("leres.leres.multi_depth_model_woauxi").RelDepthModel(backbone="resnext101")
    loaded = weights.load(net, held, path).depth_model
    loaded = in_channels_last(without_batch_norms(loaded))
    encoder, decoder = loaded.encoder_modules.encoder, loaded.decoder_modules
    decoder.conv.conv1 = AsProduct(decoder.conv.conv1)
    to_depth = decoder.outconv.adapt_conv
    to_depth[3] = AsProduct(to_depth[3])
    for part, names in ((encoder, ("layer1", "layer2")), (decoder, ("ffm1", "ffm0", "outconv"))):
        for name in names:
            setattr(part, name, OneByOne(getattr(part, name)))
    return loaded


def leres(pictures: Tensor, net: torch.nn.Module, **parameters: object) -> Annotation:
    """Depth, of no known scale and offset. The network takes RGB as ImageNet has it; its far is large."""
    return Annotation(depth=-ask(net, standardised(pictures))[:, 0])


def leres_finish(annotation: Annotation, near: float, background: float, span: str) -> Annotation:
    """The nearest `near` parts of 100 white, the farthest `background` parts black."""
    assert annotation.depth is not None
    depth = ranged(annotation.depth, span)
    depth = torch.where(depth >= 1.0 - near / 100.0, 1.0, depth) if near else depth
    depth = torch.where(depth <= background / 100.0, 0.0, depth) if background else depth
    annotation.picture = as_picture(depth)
    return annotation


ANNOTATOR = Annotator(
    id="leres",
    title="LeReS Depth",
    condition="depth",
    kind="depth",
    description="How near everything is, with much detail in the background.",
    convention="near is white, far is black",
    annotate=leres,
    parameters=(
        Float("near", 0.0, 0.0, 100.0, "So many parts of 100 of the depth, the nearest, become white.", 0.1),
        Float("background", 0.0, 0.0, 100.0, "So many parts of 100, the farthest, become black.", 0.1),
        SPAN,
    ),
    finish=leres_finish,
    build=build,
    weights=(_FILE,),
    multiple=32,
    cpu_pixels=2**20,
    makes=("depth",),
    suits=("lllyasviel/control_v11f1p_sd15_depth",),
)

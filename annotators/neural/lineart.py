"""Line art as informative drawings (C. Chan, F. Durand, P. Isola 2022): fine, and coarse as sketched."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from .. import weights
from ..networks import network_module
from ..registry import Annotation, Annotator, WeightFile
from .layers import AsProduct, instance_norms_as_group_norms
from .shared import as_picture, ask, in_annotators

_FINE = in_annotators(
    "sk_model.pth", "MIT", "c686ced2a666b4850b4bb6ccf0748031c3eda9f822de73a34b8979970d90f0c6"
)
_COARSE = in_annotators(
    "sk_model2.pth", "MIT", "30a534781061f34e83bb9406b4335da4ff2616c95d22a585c1245aa8363e74e0"
)


def build(paths: Mapping[str, Path]) -> torch.nn.Module:
    (path,) = paths.values()
    net = weights.load(network_module("lineart").Generator(3, 1, 3), weights.read(path), path)
    instance_norms_as_group_norms(net)
    net.model4[1] = AsProduct(net.model4[1])
    return net


def lineart(pictures: Tensor, net: torch.nn.Module) -> Annotation:
    """White lines on black. The network takes RGB in 0..1 and draws black on white."""
    return Annotation(as_picture(1.0 - ask(net, pictures)))


def _entry(id: str, title: str, description: str, weight: WeightFile) -> Annotator:
    return Annotator(
        id=id,
        title=title,
        condition="line art",
        kind="soft",
        description=description,
        convention="white lines on black",
        annotate=lineart,
        build=build,
        weights=(weight,),
        # The least that its reflected borders can be taken from.
        multiple=8,
        suits=("lllyasviel/control_v11p_sd15_lineart",),
        aliases=("lineart", "sketch"),
    )


ANNOTATORS = (
    _entry("lineart", "Line Art Realistic", "The lines by which one would draw what is seen.", _FINE),
    _entry("lineart_coarse", "Line Art Coarse", "Fewer and rougher lines, as in a first sketch.", _COARSE),
)

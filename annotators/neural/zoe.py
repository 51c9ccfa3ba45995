"""ZoeDepth: depth in metres, for rooms (S. F. Bhat et al. 2023)."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import weights
from ..networks import network_module
from ..parameters import Bool
from ..registry import Annotation, Annotator
from .shared import SPAN, as_picture, ask, in_annotators, ranged

_FILE = in_annotators("ZoeD_M12_N.pt", "MIT")

# The picture's black is the 85th percentile of the distance, its white the 2nd.
_FAR, _NEAR = 85.0, 2.0
# The least side that the network's layers can halve.
_PATCH = 32


class Zoe(torch.nn.Module):
    """The published network, asked about the picture and its mirror image, with reflected borders."""

    def __init__(self, net: Any):
        super().__init__()
        self.net: Any = net
        prepare = net.core.prep

        def prepared(pictures: Tensor) -> Tensor:
            # Very long pictures would have a side of no pixel.
            width, height = prepare.resizer.get_size(*pictures.shape[:-3:-1])
            size = (max(_PATCH, int(height)), max(_PATCH, int(width)))
            return prepare.normalization(F.interpolate(pictures, size, mode="bilinear", align_corners=True))

        net.core.prep = prepared

    def forward(self, pictures: Tensor) -> Tensor:
        """Distances [B,1,H,W] in metres. It looks at them at about 384 x 512, of their own shape."""
        distances = (self._asked(pictures) + self._asked(pictures.flip(3)).flip(3)) / 2
        # Kept for the next module to read, and large.
        self.net.core.core_out.clear()
        self.net.core.core.pretrained.activations.clear()
        return distances

    def _asked(self, pictures: Tensor) -> Tensor:
        down, right = (min(int(math.sqrt(side / 2) * 3), side - 1) for side in pictures.shape[-2:])
        framed = F.pad(pictures, (right, right, down, down), mode="reflect")
        small = self.net(framed)["metric_depth"]
        size = framed.shape[-2:]
        whole = F.interpolate(small, size, mode="bicubic", align_corners=False)
        return whole[:, :, down : size[0] - down, right : size[1] - right]


def network() -> torch.nn.Module:
    """ZoeD_M12_N without weights."""
    models = "zoe.zoedepth.models"
    midas = network_module(f"{models}.base_models.midas_repo.midas.dpt_depth")
    dpt = midas.DPTDepthModel(backbone="beitl16_384", non_negative=True)
    core = network_module(f"{models}.base_models.midas").MidasCore(
        dpt, fetch_features=True, freeze_bn=True, keep_aspect_ratio=True, img_size=[384, 512]
    )
    core.set_output_channels("DPT_BEiT_L_384")
    return network_module(f"{models}.zoedepth.zoedepth_v1").ZoeDepth(
        core,
        n_bins=64,
        bin_embedding_dim=128,
        bin_centers_type="softplus",
        n_attractors=[16, 8, 4, 1],
        attractor_alpha=1000,
        attractor_gamma=2,
        attractor_kind="mean",
        attractor_type="inv",
        min_temp=0.0212,
        max_temp=50.0,
    )


def build(paths: Mapping[str, Path]) -> torch.nn.Module:
    path = paths[_FILE.file]
    held = weights.read(path)
    # What follows from the sizes is not in all files, and the transformer's classifier is not used.
    optional = r"relative_position_index$|\.pretrained\.model\.(head|fc_norm)\."
    return Zoe(weights.load(network(), held.get("model", held), path, optional))


def zoe(pictures: Tensor, net: torch.nn.Module, **parameters: object) -> Annotation:
    """The depth is the distance in metres, negative: nearer is larger. The network takes RGB in 0..1."""
    return Annotation(depth=-ask(net, pictures)[:, 0])


def zoe_finish(annotation: Annotation, gamma: bool, span: str) -> Annotation:
    assert annotation.depth is not None
    picture = ranged(annotation.depth, span, 100.0 - _FAR, 100.0 - _NEAR)
    annotation.picture = as_picture(picture.pow(2.2) if gamma else picture)
    return annotation


ANNOTATOR = Annotator(
    id="zoe",
    title="Zoe Depth",
    condition="depth",
    kind="depth",
    description="How far everything is, in metres as the network learned them in rooms; its raw depth is so.",
    convention="near is white, far is black",
    annotate=zoe,
    parameters=(
        Bool("gamma", False, "Darken the middle (to the power of 2.2), which sets near things off."),
        SPAN,
    ),
    finish=zoe_finish,
    build=build,
    weights=(_FILE,),
    makes=("depth",),
    suits=("lllyasviel/control_v11f1p_sd15_depth", "diffusers/controlnet-zoe-depth-sdxl-1.0"),
    aliases=("zoedepth",),
)

"""ZoeDepth: depth in metres, for rooms (S. F. Bhat et al. 2023)."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
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
# The least side that the network's layers can halve, and the side of what a token stands for.
_PATCH, _TOKEN = 32, 16
_MODELS = "zoe.zoedepth.models"


Ways = Callable[[int, int, torch.device], Tensor]


class Zoe(torch.nn.Module):
    """The published network, asked with reflected borders, with attention that takes less time."""

    def __init__(self, net: Any):
        super().__init__()
        self.net: Any = net
        prepare = net.core.prep
        # The same for all layers, and for all pictures of a size.
        ways = lru_cache(maxsize=1)(_ways)
        for block in net.core.core.pretrained.model.blocks:
            block.attn.forward = partial(_attention, block.attn, ways)

        def prepared(pictures: Tensor) -> Tensor:
            # Very long pictures would have a side of no pixel.
            width, height = prepare.resizer.get_size(*pictures.shape[:-3:-1])
            size = (max(_PATCH, int(height)), max(_PATCH, int(width)))
            return prepare.normalization(F.interpolate(pictures, size, mode="bilinear", align_corners=True))

        net.core.prep = prepared

    def forward(self, pictures: Tensor) -> Tensor:
        """Distances [B,1,H,W] in metres. It looks at them at about 384 x 512, of their own shape."""
        down, right = (min(int(math.sqrt(side / 2) * 3), side - 1) for side in pictures.shape[-2:])
        framed = F.pad(pictures, (right, right, down, down), mode="reflect")
        small = self.net(framed)["metric_depth"]
        # Kept for the next module to read, and large.
        self.net.core.core_out.clear()
        self.net.core.core.pretrained.activations.clear()
        size = framed.shape[-2:]
        whole = F.interpolate(small, size, mode="bicubic", align_corners=False)
        return whole[:, :, down : size[0] - down, right : size[1] - right]


def _attention(
    layer: Any, ways: Ways, tokens: Tensor, resolution: Sequence[int], shared_rel_pos_bias: None
) -> Tensor:
    """What an attention layer of BEiT (H. Bao et al. 2021) makes of tokens [B,N,C] of pictures of a size."""
    bias = torch.cat((layer.q_bias, layer.k_bias, layer.v_bias))
    split = F.linear(tokens, layer.qkv.weight, bias).unflatten(2, (3, layer.num_heads, -1))
    query, key, value = split.permute(2, 0, 3, 1, 4)
    places = _places(layer, ways, resolution)
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=places, scale=layer.scale)
    return layer.proj(mixed.transpose(1, 2).flatten(2))


def _places(layer: Any, ways: Ways, resolution: Sequence[int]) -> Tensor:
    """What a layer adds for how its tokens lie to each other, [1,heads,N,N]."""
    rows, columns = (side // _TOKEN for side in resolution)
    # By way down and across, and three ways from and to the token of the whole picture.
    table = layer.relative_position_bias_table.T
    shape = [2 * side - 1 for side in layer.window_size]
    scaled = F.interpolate(
        table[None, :, :-3].unflatten(2, shape), (2 * rows - 1, 2 * columns - 1), mode="bilinear"
    )
    table = torch.cat([scaled[0].flatten(1), table[:, -3:]], 1)
    which = ways(rows, columns, table.device)
    # In this order each head's part is written as a whole.
    return table.index_select(1, which.flatten()).unflatten(1, which.shape)[None]


def _ways(rows: int, columns: int, device: torch.device) -> Tensor:
    """The way from each token to each other, as a number of the table, [N,N]."""
    beit = network_module(f"{_MODELS}.base_models.midas_repo.midas.backbones.beit")
    return beit.gen_relative_position_index((rows, columns)).to(device)


def network() -> torch.nn.Module:
    """ZoeD_M12_N without weights."""
    midas = network_module(f"{_MODELS}.base_models.midas_repo.midas.dpt_depth")
    dpt = midas.DPTDepthModel(backbone="beitl16_384", non_negative=True)
    core = network_module(f"{_MODELS}.base_models.midas").MidasCore(
        dpt, fetch_features=True, freeze_bn=True, keep_aspect_ratio=True, img_size=[384, 512]
    )
    core.set_output_channels("DPT_BEiT_L_384")
    return network_module(f"{_MODELS}.zoedepth.zoedepth_v1").ZoeDepth(
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
    held = weights.read(path, "model")
    # What follows from the sizes is not in all files, and the transformer's classifier is not used.
    optional = r"relative_position_index$|\.pretrained\.model\.(head|fc_norm)\."
    return Zoe(weights.load(network(), held, path, optional))


def zoe(pictures: Tensor, net: torch.nn.Module, mirrored: bool = True, **parameters: object) -> Annotation:
    """The depth is the distance in metres, negative: nearer is larger. The network takes RGB in 0..1."""
    distance = ask(net, pictures)
    if mirrored:
        distance = (distance + ask(net, pictures.flip(3)).flip(3)) / 2
    return Annotation(depth=-distance[:, 0])


def zoe_finish(annotation: Annotation, gamma: bool, span: str, mirrored: bool) -> Annotation:
    assert annotation.depth is not None
    picture = ranged(annotation.depth, span, 100.0 - _FAR, 100.0 - _NEAR)
    annotation.picture = as_picture(picture.pow(2.2) if gamma else picture)
    return annotation


ANNOTATOR = Annotator(
    id="zoe",
    title="Zoe Depth",
    condition="depth",
    kind="depth",
    description=(
        "How far everything is, in metres as the network learned them in rooms; its raw depth is minus the "
        "metres, so that larger is nearer."
    ),
    convention="near is white, far is black",
    annotate=zoe,
    parameters=(
        Bool("gamma", False, "Darken the middle (to the power of 2.2), which sets near things off."),
        SPAN,
        Bool(
            "mirrored",
            True,
            "Look at the picture's mirror image too and take the mean, as the first release does: steadier, "
            "in twice the time.",
            advanced=True,
        ),
    ),
    finish=zoe_finish,
    build=build,
    weights=(_FILE,),
    makes=("depth",),
    suits=("lllyasviel/control_v11f1p_sd15_depth", "diffusers/controlnet-zoe-depth-sdxl-1.0"),
    aliases=("zoedepth",),
)

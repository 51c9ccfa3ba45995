"""M-LSD: straight lines by a network (G. Gu et al. 2021), as segments and as a picture."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import weights
from ..networks import network_module
from ..parameters import Float
from ..registry import Annotation, Annotator
from .layers import in_channels_last, without_batch_norms
from .shared import as_picture, ask, in_annotators

_FILE = in_annotators(
    "mlsd_large_512_fp32.pth",
    "Apache-2.0",
    "5696f168eb2c30d4374bbfd45436f7415bb4d88da29bea97eea0101520fba082",
)

# So many candidates of a picture are looked at, the likeliest.
_CANDIDATES = 200


def build(paths: Mapping[str, Path]) -> torch.nn.Module:
    path = paths[_FILE.file]
    net = network_module("mlsd.models.mbv2_mlsd_large").MobileV2_MLSD_Large()
    return in_channels_last(without_batch_norms(weights.load(net, weights.read(path), path)))


def mlsd(pictures: Tensor, net: torch.nn.Module, score: float = 0.1, distance: float = 0.1) -> Annotation:
    """Lines likelier than `score` and longer than `distance`, in pixels of the network's half-size map."""
    found = segments(_maps(pictures, net), score, distance)
    return Annotation(as_picture(_drawn(found, *pictures.shape[-2:])), lines=found)


def segments(maps: Tensor, score: float, distance: float) -> list[Tensor]:
    """For each picture its segments [N,4], x0, y0, x1, y1, likeliest first.

    maps: [B,5,h,w], of half the picture's size: the logit of a line's middle, and from there the way to
    its ends (x, y, x, y), in pixels of the map.
    """
    heat = maps[:, 0].sigmoid()
    peaks = heat * (F.max_pool2d(heat[:, None], 3, stride=1, padding=1)[:, 0] == heat)
    width = maps.shape[-1]
    likely, places = peaks.flatten(1).topk(min(_CANDIDATES, peaks[0].numel()))
    ways = maps[:, 1:].flatten(2).gather(2, places[:, None].expand(-1, 4, -1))
    long = (ways[:, :2] - ways[:, 2:]).norm(dim=1) > distance
    middles = torch.stack([places % width, places // width] * 2, 1)
    ends = (2.0 * (middles + ways)).movedim(1, -1).cpu()
    kept = ((likely > score) & long).cpu()
    return [one[which] for one, which in zip(ends, kept, strict=True)]


def _maps(pictures: Tensor, net: torch.nn.Module) -> Tensor:
    """The network's maps. It takes RGB in -1..1, and a fourth channel of ones among the bytes 0..255."""
    ones = pictures.new_ones(1, 1, 1, 1).expand(len(pictures), 1, *pictures.shape[-2:])
    asked = torch.cat([pictures * 255.0, ones], 1) / 127.5 - 1.0
    return ask(net, asked)[:, :5]


def _drawn(found: list[Tensor], height: int, width: int) -> Tensor:
    """Segments as lines of one pixel, [B,H,W], 0 or 1."""
    canvases = []
    for lines in found:
        canvas = np.zeros((height, width), np.uint8)
        for x0, y0, x1, y1 in lines.clamp(-(2**14), 2**14).to(torch.int32).tolist():
            cv2.line(canvas, (x0, y0), (x1, y1), 255, 1)
        canvases.append(canvas)
    return torch.from_numpy(np.stack(canvases)).float() / 255.0


ANNOTATOR = Annotator(
    id="mlsd",
    title="M-LSD Lines",
    condition="lines",
    kind="lines",
    description="Straight lines only, as of rooms and buildings; curves and people are left out.",
    convention="white lines of one pixel on black",
    annotate=mlsd,
    parameters=(
        Float("score", 0.1, 0.0, 1.0, "Lines that are less likely than this are left out."),
        Float("distance", 0.1, 0.0, 256.0, "Lines shorter than this, at half size, are left out.", 0.1),
    ),
    build=build,
    weights=(_FILE,),
    multiple=16,
    makes=("lines",),
    suits=("lllyasviel/control_v11p_sd15_mlsd",),
    aliases=("hough", "straight lines", "wireframe"),
)

"""MiDaS: depth by the DPT-Hybrid transformer (R. Ranftl et al. 2021), and normals from its depth."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from .. import weights
from ..networks import network_module
from ..parameters import Float
from ..registry import Annotation, Annotator
from .layers import in_channels_last
from .shared import SPAN, ask, depth_finish, in_annotators, ranged

_FILE = in_annotators(
    "dpt_hybrid-midas-501f0c75.pt",
    "MIT",
    "501f0c75b3bca7daec6b3682c5054c09b366765aef6fa3a09d03a5cb4b230853",
)


class Midas(torch.nn.Module):
    """The published network, which forgets its features when it is done."""

    def __init__(self, dpt: Any):
        super().__init__()
        self.dpt: Any = dpt

    def forward(self, pictures: Tensor) -> Tensor:
        depth = self.dpt(pictures)
        # Kept in the module's globals, and large.
        self.dpt.pretrained.activations.clear()
        return depth


def build(paths: Mapping[str, Path]) -> torch.nn.Module:
    path = paths[_FILE.file]
    held = weights.read(path, "model")
    dpt = network_module("midas.midas.dpt_depth").DPTDepthModel(backbone="vitb_rn50_384", non_negative=True)
    # The classifier of the transformer is not used, and not in all files.
    return in_channels_last(
        Midas(weights.load(dpt, held, path, optional=r"^pretrained\.model\.(head|fc_norm)\."))
    )


def midas(pictures: Tensor, net: torch.nn.Module, **parameters: object) -> Annotation:
    """Inverse depth, of no known scale. The network takes RGB in -1..1."""
    return Annotation(depth=ask(net, pictures * 2.0 - 1.0))


def normals_finish(annotation: Annotation, strength: float, background: float, span: str) -> Annotation:
    """Normals as the first normal ControlNet learned them: from Sobel's gradient of the depth, in the order
    z, y, x; what is farther than `background` (0 farthest, 1 nearest of the picture, or of the sequence)
    faces the viewer."""
    assert annotation.depth is not None
    near = ranged(annotation.depth, span).numpy()
    normals = []
    for depth, distance in zip(annotation.depth.numpy(), near, strict=True):
        x, y = (cv2.Sobel(depth, cv2.CV_32F, *axis, ksize=3) for axis in ((1, 0), (0, 1)))
        flat = distance < background
        x[flat] = y[flat] = 0
        normal = np.stack([np.full_like(x, strength), y, x])
        normals.append(normal / np.linalg.norm(normal, axis=0))
    annotation.picture = torch.from_numpy(np.stack(normals)) / 2 + 0.5
    return annotation


ANNOTATORS = (
    Annotator(
        id="midas",
        title="MiDaS Depth",
        condition="depth",
        kind="depth",
        description="How near everything is, estimated from one picture; robust, and a little blurred.",
        convention="near is white, far is black",
        annotate=midas,
        parameters=(SPAN,),
        finish=depth_finish,
        build=build,
        weights=(_FILE,),
        multiple=32,
        makes=("depth",),
        suits=("lllyasviel/control_v11f1p_sd15_depth", "diffusers/controlnet-depth-sdxl-1.0"),
        aliases=("dpt",),
    ),
    Annotator(
        id="midas_normals",
        title="MiDaS Normals",
        condition="normals",
        kind="normals",
        description="Which way surfaces face, from MiDaS' depth; for the first release's normal ControlNet.",
        convention="R is z, G is y, B is x: red faces the viewer",
        annotate=midas,
        parameters=(
            Float(
                "strength",
                2 * math.pi,
                0.1,
                100.0,
                "How flat the surfaces are taken to be: higher values face the viewer more.",
                0.1,
            ),
            Float("background", 0.1, 0.0, 1.0, "What is farther than this part of the depth is flat."),
            SPAN,
        ),
        finish=normals_finish,
        build=build,
        weights=(_FILE,),
        multiple=32,
        makes=("depth",),
        suits=("lllyasviel/sd-controlnet-normal",),
        aliases=("normal map",),
    ),
)

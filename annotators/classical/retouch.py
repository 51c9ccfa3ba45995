"""Hints that are the picture itself, changed: shuffled, blurred, reduced, in grey, in two tones, inverted."""

import cv2
import numpy as np
import torch
from torch import Tensor

from .. import fit
from ..parameters import Choice, Float, Int
from ..pixels import as_grey, from_grey
from ..registry import Annotation, Annotator


def shuffle(pictures: Tensor, seeds: list[int], scale: int = 256) -> Annotation:
    """Pictures [B,3,H,W] whose parts flow elsewhere: each pixel is taken from where smooth noise tells, as in
    ControlNet 1.1. scale: pixels over which the noise changes."""
    height, width = pictures.shape[-2:]
    made = np.empty(pictures.shape, np.float32)
    for picture, seed, out in zip(pictures.cpu().float().numpy(), seeds, made, strict=True):
        rng = np.random.default_rng(seed)
        x, y = (_noise(rng, height, width, scale) * (side - 1) for side in (width, height))
        for channel in range(3):
            out[channel] = cv2.remap(picture[channel], x, y, cv2.INTER_LINEAR)
    return Annotation(torch.from_numpy(made))


def _noise(rng: np.random.Generator, height: int, width: int, scale: int) -> np.ndarray:
    """Smooth noise float32 [H,W] from 0 to 1."""
    coarse = rng.uniform(size=(height // scale + 2, width // scale + 2)).astype(np.float32)
    size = (width + 2 * scale, height + 2 * scale)
    fine = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    fine = fine[scale : scale + height, scale : scale + width]
    return (fine - fine.min()) / max(float(fine.max() - fine.min()), 1e-6)


def tile(pictures: Tensor, rate: float = 4.0) -> Annotation:
    """Pictures [B,3,H,W] without details: shrunk by `rate`, and enlarged again."""
    size = (pictures.shape[-2], pictures.shape[-1])
    small = (max(1, round(size[0] / rate)), max(1, round(size[1] / rate)))
    return Annotation(fit.resize(fit.resize(pictures, small, "photo"), size, "photo"))


def blur(pictures: Tensor, sigma: float = 9.0) -> Annotation:
    """Pictures [B,3,H,W] blurred by a Gaussian, sigma in pixels."""
    arrays = pictures.cpu().float().numpy()
    made = np.empty_like(arrays)
    for out, planes in zip(made, arrays, strict=True):
        for channel, plane in enumerate(planes):
            out[channel] = cv2.GaussianBlur(plane, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    return Annotation(torch.from_numpy(made).clamp_(0.0, 1.0))


def recolor(pictures: Tensor, by: str = "luminance", gamma: float = 1.0) -> Annotation:
    """Pictures [B,3,H,W] in grey: L of CIE Lab, or the strongest channel (V of HSV), to the power of
    gamma."""
    arrays = pictures.cpu().float().movedim(1, -1).numpy()
    if by == "intensity":
        grey = arrays.max(-1)
    else:
        grey = np.stack(
            [cv2.cvtColor(np.ascontiguousarray(one), cv2.COLOR_RGB2LAB)[..., 0] for one in arrays]
        )
        grey = (grey / 100).clip(0, 1)
    return Annotation(from_grey(grey**gamma))


def colour_grid(pictures: Tensor, cell: int = 64) -> Annotation:
    """Pictures [B,3,H,W] as a grid of their mean colours, cells about `cell` pixels wide."""
    height, width = pictures.shape[-2:]
    grid = (max(1, round(height / cell)), max(1, round(width / cell)))
    small = fit.resize(pictures, grid, "depth")
    return Annotation(fit.resize(small, (height, width), "areas"))


def threshold(pictures: Tensor, level: int = 128) -> Annotation:
    """Pictures [B,3,H,W] in white where their brightness is at least `level` of 255, and black elsewhere; 0
    finds the level of each (Otsu's)."""
    made = []
    for grey in as_grey(pictures):
        found = level or cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[0] + 1
        made.append((grey >= found).astype(np.uint8) * 255)
    return Annotation(from_grey(np.stack(made)))


def invert(pictures: Tensor) -> Annotation:
    """The negative of pictures [B,3,H,W]."""
    return Annotation(1.0 - pictures)


_PICTURE = "the picture's own colours"

ANNOTATORS = (
    Annotator(
        id="shuffle",
        title="Shuffle",
        condition="shuffle",
        kind="photo",
        description="The colours and textures of a picture, flown elsewhere: its style without its content.",
        convention=_PICTURE,
        annotate=shuffle,
        parameters=(Int("scale", 256, 8, 4096, "How large the parts are that stay together, in pixels."),),
        seedable=True,
        suits=("lllyasviel/control_v11e_sd15_shuffle",),
        aliases=("content shuffle",),
    ),
    Annotator(
        id="tile",
        title="Tile",
        condition="tile",
        kind="photo",
        description="A picture without its details, for a tile ControlNet to invent new ones.",
        convention=_PICTURE,
        annotate=tile,
        parameters=(Float("rate", 4.0, 1.0, 32.0, "How much detail is lost; 1 keeps all.", 0.1),),
        suits=("lllyasviel/control_v11f1e_sd15_tile", "xinsir/controlnet-tile-sdxl-1.0"),
        aliases=("upscale", "resample"),
    ),
    Annotator(
        id="blur",
        title="Blur",
        condition="blur",
        kind="photo",
        description="A blurred picture, for ControlNets that sharpen.",
        convention=_PICTURE,
        annotate=blur,
        parameters=(Float("sigma", 9.0, 0.1, 128.0, "How far the blur reaches, in pixels.", 0.1),),
        suits=("Stability's SD3.5 blur", "ControlNet-LLLite blur"),
        aliases=("gaussian blur",),
    ),
    Annotator(
        id="recolor",
        title="Recolor",
        condition="recolor",
        kind="photo",
        description="A picture in grey, for ControlNets that colour it.",
        convention="grey",
        annotate=recolor,
        parameters=(
            Choice(
                "by",
                "luminance",
                ("luminance", "intensity"),
                "luminance: as bright as it is seen. intensity: the strongest of red, green and blue.",
            ),
            Float("gamma", 1.0, 0.1, 10.0, "Above 1 darkens, below brightens."),
        ),
        suits=("stabilityai/control-lora (recolor)", "ioclab/control_v1p_sd15_brightness"),
        aliases=("greyscale", "grayscale", "luminance", "brightness"),
    ),
    Annotator(
        id="colour_grid",
        title="Colour Grid",
        condition="tile",
        kind="areas",
        description="The mean colours of a picture's parts, as a grid.",
        convention=_PICTURE,
        annotate=colour_grid,
        parameters=(Int("cell", 64, 1, 1024, "Width of a cell in pixels."),),
        suits=("TencentARC/t2iadapter_color_sd14v1",),
        aliases=("color grid", "color palette", "mosaic"),
    ),
    Annotator(
        id="threshold",
        title="Threshold",
        condition="tool",
        kind="areas",
        description="A picture in black and white.",
        convention="white where bright",
        annotate=threshold,
        parameters=(Int("level", 128, 0, 255, "As bright as this is white; 0 finds it."),),
        aliases=("binary", "binarize"),
    ),
    Annotator(
        id="invert",
        title="Invert",
        condition="tool",
        kind="photo",
        description="The negative: black lines on white become white lines on black.",
        convention="inverted",
        annotate=invert,
        aliases=("negative",),
    ),
)

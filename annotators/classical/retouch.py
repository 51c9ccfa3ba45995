"""Hints that are the picture itself, changed: shuffled, blurred, reduced, in grey, in two tones, inverted."""

import cv2
import numpy as np
import torch
from torch import Tensor

from .. import fit
from ..parameters import Choice, Float, Int
from ..pixels import as_arrays, as_bytes, as_grey, from_arrays, from_grey, strongest
from ..registry import Annotation, Annotator

# Of bytes of sRGB the linear light (IEC 61966-2-1), and its parts in luminance.
_ENCODED = np.arange(256) / 255
_LINEAR = np.where(_ENCODED > 0.04045, ((_ENCODED + 0.055) / 1.055) ** 2.4, _ENCODED / 12.92).astype(
    np.float32
)
_LUMINANCE = np.array([[0.212671, 0.715160, 0.072169]], np.float32)


def shuffle(pictures: Tensor, seeds: list[int], scale: int = 256) -> Annotation:
    """Pictures [B,3,H,W] whose parts flow elsewhere: each pixel is taken from where smooth noise tells, as in
    ControlNet 1.1. scale: pixels over which the noise changes."""
    height, width = pictures.shape[-2:]
    arrays = as_arrays(pictures)
    made = np.empty_like(arrays)
    for picture, seed, out in zip(arrays, seeds, made, strict=True):
        rng = np.random.default_rng(seed)
        x, y = (_noise(rng, height, width, scale, side - 1) for side in (width, height))
        cv2.remap(picture, x, y, cv2.INTER_LINEAR, dst=out)
    return Annotation(from_arrays(made))


def _noise(rng: np.random.Generator, height: int, width: int, scale: int, high: float) -> np.ndarray:
    """Smooth noise float32 [H,W] from 0 to `high`."""
    coarse = rng.uniform(size=(height // scale + 2, width // scale + 2)).astype(np.float32)
    rows, columns = (
        _enlarging(n, side, scale) for n, side in zip(coarse.shape, (height, width), strict=True)
    )
    fine = rows @ coarse @ columns.T
    fine -= fine.min()
    fine *= high / max(float(fine.max()), 1e-6)
    return fine


def _enlarging(few: int, many: int, scale: int) -> np.ndarray:
    """The matrix [many,few] that enlarges a line of values cubically, to `scale` more at each end, which are
    cut."""
    size = (few, many + 2 * scale)
    return cv2.resize(np.eye(few, dtype=np.float32), size, interpolation=cv2.INTER_CUBIC)[
        scale : scale + many
    ]


def tile(pictures: Tensor, rate: float = 4.0) -> Annotation:
    """Pictures [B,3,H,W] without details: shrunk by `rate`, and enlarged again."""
    size = (pictures.shape[-2], pictures.shape[-1])
    small = (max(1, round(size[0] / rate)), max(1, round(size[1] / rate)))
    made = fit.resize(fit.resize(pictures, small, "photo"), size, "photo")
    return Annotation(pictures.clone() if made is pictures else made)


def blur(pictures: Tensor, sigma: float = 9.0) -> Annotation:
    """Pictures [B,3,H,W] blurred by a Gaussian, sigma in pixels."""
    arrays = as_arrays(pictures)
    made = np.empty_like(arrays)
    for picture, out in zip(arrays, made, strict=True):
        cv2.GaussianBlur(picture, (0, 0), sigma, dst=out, borderType=cv2.BORDER_REFLECT)
    return Annotation(from_arrays(made).clamp_(0.0, 1.0))


def recolor(pictures: Tensor, by: str = "luminance", gamma: float = 1.0) -> Annotation:
    """Pictures [B,3,H,W] in grey: L of CIE Lab, or the strongest channel (V of HSV), to the power of
    gamma."""
    if by == "intensity":
        greys = [strongest(picture) for picture in as_arrays(pictures)]
    else:
        greys = [_lightness(picture) for picture in as_bytes(pictures)]
    return Annotation(from_grey(greys if gamma == 1.0 else [grey**gamma for grey in greys]))


def _lightness(picture: np.ndarray) -> np.ndarray:
    """L of CIE Lab, float32 [H,W] in 0..1, of a picture uint8 [H,W,3] in sRGB."""
    light = torch.from_numpy(cv2.transform(cv2.LUT(picture, _LINEAR), _LUMINANCE))
    cubic = light.pow(1 / 3).mul_(1.16).sub_(0.16)
    return torch.where(light > 216 / 24389, cubic, light.mul_(24389 / 2700)).clamp_(0.0, 1.0).numpy()


def colour_grid(pictures: Tensor, cell: int = 64) -> Annotation:
    """Pictures [B,3,H,W] as a grid of their mean colours, cells about `cell` pixels wide."""
    height, width = pictures.shape[-2:]
    grid = (max(1, round(height / cell)), max(1, round(width / cell)))
    small = fit.resize(pictures, grid, "depth")
    made = fit.resize(small, (height, width), "areas")
    return Annotation(made.clone() if made is pictures else made)


def threshold(pictures: Tensor, level: int = 128) -> Annotation:
    """Pictures [B,3,H,W] in white where their brightness is at least `level` of 255, and black elsewhere; 0
    finds the level of each (Otsu's)."""
    made = []
    for grey in as_grey(pictures):
        kind = cv2.THRESH_BINARY if level else cv2.THRESH_BINARY | cv2.THRESH_OTSU
        # OpenCV's is what is above.
        made.append(cv2.threshold(grey, level - 1, 255, kind)[1])
    return Annotation(from_grey(made))


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

"""Sizes: where a picture lands in another size, and hints resized as their kind allows.

Thin lines must stay thin and whole, colours of areas must not mix, normals must stay unit vectors, and the
marked places of an inpaint hint must stay marked.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import ParameterError
from .pixels import as_arrays, from_arrays
from .registry import Kind

Size = tuple[int, int]
# stretch: to the size whatever the shape; crop: cover it, and cut what stands out; fill: lie within it, the
# rest in the colour of the border.
Mode = Literal["stretch", "crop", "fill"]
MODES: tuple[Mode, ...] = get_args(Mode)
# Of a picture that is enlarged and then cut: annotators take about 100 bytes for each.
_MOST_PIXELS = 1 << 26


@dataclass(frozen=True)
class Placement:
    """A picture of size `source` scaled to `scaled`, its upper left corner at `top`, `left` (negative where
    it is cut) of a canvas of size `size`. Sizes are (height, width) in pixels."""

    source: Size
    scaled: Size
    top: int
    left: int
    size: Size

    def points(self, points: Tensor) -> Tensor:
        """Points [...,2] x, y in pixels of the source, in pixels of the canvas. Pixel centres are whole."""
        factor = torch.tensor([self.scaled[1] / self.source[1], self.scaled[0] / self.source[0]])
        return (points + 0.5) * factor - 0.5 + torch.tensor([self.left, self.top])


def place(source: Size, size: Size, mode: Mode = "crop") -> Placement:
    """Where a picture of one size (height, width) lands in another. Raises ParameterError for an unknown
    mode, a size below one pixel, and strips that would have to be enormous to cover the size."""
    if mode not in MODES:
        raise ParameterError(f"the resize mode is {mode!r}; choose one of {', '.join(MODES)}.")
    if min(*source, *size) < 1:
        raise ParameterError(f"a picture of {source} cannot be fitted to {size}; sides begin at 1 pixel.")
    if mode == "stretch":
        return Placement(source, size, 0, 0, size)
    ratios = [size[0] / source[0], size[1] / source[1]]
    if mode == "crop":
        scale = max(ratios)
        scaled = tuple(max(wanted, round(side * scale)) for side, wanted in zip(source, size, strict=True))
        if math.prod(scaled) > max(_MOST_PIXELS, math.prod(source)):
            raise ParameterError(
                f"a picture of {source[1]} x {source[0]} covers {size[1]} x {size[0]} only when it is scaled "
                f"to {scaled[1]} x {scaled[0]}: crop it first, or set the resize mode to fill."
            )
    else:
        scale = min(ratios)
        scaled = tuple(
            min(wanted, max(1, round(side * scale))) for side, wanted in zip(source, size, strict=True)
        )
    top, left = (size[0] - scaled[0]) // 2, (size[1] - scaled[1]) // 2
    return Placement(source, (scaled[0], scaled[1]), top, left, size)


def pixel_perfect(source: Size, size: Size, mode: Mode = "crop") -> Size:
    """The size at which an annotator should look at a picture, so that a pixel of its hint is one of `size`.

    The picture keeps its shape: its short side is round(max(H/h, W/w) * min(h, w)) for a picture h x w and a
    size H x W, and with min instead of max where the hint will be laid within the size ("fill").
    """
    return place(source, size, "fill" if mode == "fill" else "crop").scaled


def short_side(source: Size, length: int) -> Size:
    """A size of the source's shape whose short side is `length`."""
    scale = length / min(source)
    return max(1, round(source[0] * scale)), max(1, round(source[1] * scale))


def fit(maps: Tensor, size: Size, mode: Mode, kind: Kind) -> Tensor:
    """Hints [B,C,H,W] at a size (height, width), resized as their kind allows."""
    placement = place((maps.shape[-2], maps.shape[-1]), size, mode)
    return laid(resize(maps, placement.scaled, kind), placement, kind)


def laid(maps: Tensor, placement: Placement, kind: Kind) -> Tensor:
    """Maps [B,C,h,w] of the placement's scaled size, cut and bordered to its canvas."""
    top, left = placement.top, placement.left
    height, width = placement.size
    if top < 0 or left < 0:
        maps = maps[..., max(-top, 0) :, max(-left, 0) :][..., :height, :width]
    rows, columns = maps.shape[-2:]
    if (rows, columns) == (height, width):
        return maps
    top, left = max(top, 0), max(left, 0)
    canvas = _border(maps, kind)[..., None, None].expand(*maps.shape[:2], height, width).clone()
    canvas[..., top : top + rows, left : left + columns] = maps
    return canvas


def resize(maps: Tensor, size: Size, kind: Kind) -> Tensor:
    """Maps [B,C,H,W] scaled to a size (height, width) as their kind allows; unchanged at their own size."""
    return maps if tuple(maps.shape[-2:]) == tuple(size) else _RESIZERS[kind](maps, size)


# More of these are no palette. ADE20K's has 150 colours, and some of its pictures a few more.
_COLOURS, _GREYS = 199, 16
# How far at most half of a normal map's vectors are from length 1: as a JPEG 0.02, of 8 bits less.
_UNIT = 0.05


def kind_of(picture: Tensor) -> Kind:
    """The kind that a hint [3,H,W] of unknown origin looks like.

    Marks of -1 are an inpaint hint's, few colours are areas, two of which one is only thin lines are lines.
    Many shades of grey are like depth, unit vectors are normals, and everything else is like a photo.
    """
    # Raw depth may be far below.
    if -1.1 < picture.min() < -0.5:
        return "inpaint"
    array = (picture.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.int64)
    colours = torch.unique(array[0] << 16 | array[1] << 8 | array[2])
    if len(colours) > _GREYS and bool((array == array[:1]).all()):
        return "depth"
    if len(colours) > _COLOURS:
        # Of each colour once: one may fill the picture.
        rgb = torch.stack([colours >> 16, colours >> 8 & 255, colours & 255]) / 255
        lengths = (rgb * 2 - 1).norm(dim=0)
        return "normals" if (lengths - 1).abs().median() < _UNIT else "photo"
    if set(colours.tolist()) == {0, 0xFFFFFF} and _is_thin(picture[:1, None])[0]:
        return "lines"
    return "areas"


def _smooth(maps: Tensor, size: Size) -> Tensor:
    """Area where a side shrinks, cubic where it grows, in the maps' own range."""
    scaled = _scaled(maps, size, cv2.INTER_CUBIC)
    if size[0] > maps.shape[-2] or size[1] > maps.shape[-1]:
        for one, made in zip(maps, scaled, strict=True):
            made.clamp_(*(float(end) for end in one.aminmax()))
    return scaled


def _linear(maps: Tensor, size: Size) -> Tensor:
    """Area where a side shrinks, linear where it grows: no overshoot at the steps of a depth map."""
    return _scaled(maps, size, cv2.INTER_LINEAR)


def _scaled(maps: Tensor, size: Size, growing: int) -> Tensor:
    rows, columns = maps.shape[-2:]
    small = (min(rows, size[0]), min(columns, size[1]))
    result = np.empty((len(maps), *size, maps.shape[1]), np.float32)
    for picture, made in zip(as_arrays(maps), result, strict=True):
        # One side may shrink while the other grows: OpenCV's area filter is only for shrinking.
        if small != (rows, columns):
            picture = _shrunk(picture, small)
        if small != size:
            picture = cv2.resize(
                picture, size[::-1], made if made.shape[-1] > 1 else None, interpolation=growing
            )
        if picture is not made:
            made[:] = picture.reshape(made.shape)
    return from_arrays(result).to(maps.device)


def _shrunk(picture: np.ndarray, size: Size) -> np.ndarray:
    """A picture float32 [H,W,C] whose pixels are the means of those that they cover."""
    rows, columns, channels = picture.shape
    each = rows // size[0]
    if each * size[0] == rows and each > 1:
        # Sums of whole rows are several times as fast as OpenCV's.
        sums = np.add.reduce(picture.reshape(size[0], each, -1), 1)
        picture = np.divide(sums, np.float32(each), out=sums).reshape(size[0], columns, channels)
    return cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)


def _nearest(maps: Tensor, size: Size) -> Tensor:
    rows, columns = (
        ((2 * torch.arange(new, device=maps.device) + 1) * old).div(2 * new, rounding_mode="floor")
        for new, old in zip(size, maps.shape[-2:], strict=True)
    )
    # Whole rows are copied last.
    pixels = maps.movedim(1, -1).contiguous().index_select(2, columns).index_select(1, rows)
    return pixels.movedim(-1, 1)


def _lines(maps: Tensor, size: Size) -> Tensor:
    """Lines without gaps: each pixel that a line touches where a side shrinks, and one pixel wide again if
    they were."""
    thin = _is_thin(maps)
    small = (min(maps.shape[-2], size[0]), min(maps.shape[-1], size[1]))
    scaled = _nearest(F.adaptive_max_pool2d(maps, small), size)
    for i in range(len(scaled)):
        if thin[i]:
            scaled[i] *= _skeleton(scaled[i].amax(0).cpu()).to(scaled)
    return scaled


def _is_thin(maps: Tensor) -> list[bool]:
    """Whether hardly a pixel of a map of lines [B,C,H,W] has only lit ones around it."""
    lit = maps.amax(1, keepdim=True) > 0.5
    inner = -F.max_pool2d(-lit.float(), 3, 1, 1)
    inside = inner[..., 1:-1, 1:-1].sum((1, 2, 3))
    return (inside <= 0.01 * lit.sum((1, 2, 3))).tolist()


def _skeleton(lines: Tensor) -> Tensor:
    from skimage.morphology import skeletonize

    return torch.from_numpy(skeletonize((lines > 0.5).numpy()))


def _normals(maps: Tensor, size: Size) -> Tensor:
    """Vectors n encoded as n / 2 + 1/2; no vector at all stays none."""
    vectors = _linear(maps * 2 - 1, size)
    length = vectors.norm(dim=1, keepdim=True)
    return torch.where(length > 0.1, vectors / length.clamp(min=1e-6), vectors) / 2 + 0.5


def _inpaint(maps: Tensor, size: Size) -> Tensor:
    """Pictures whose marked places are -1: a pixel is marked if half of it is, and no mark mixes with a
    colour."""
    marked = (maps < -0.5).all(1, keepdim=True).float()
    return torch.where(_linear(marked, size) >= 0.5, -1.0, resize_around(maps, marked, size))


def resize_around(maps: Tensor, marked: Tensor, size: Size) -> Tensor:
    """Maps [B,C,H,W] in 0..1 scaled so that what is marked, by a 1 in [B,1,H,W], mixes with nothing."""
    colours = _linear(maps * (1 - marked), size)
    return (colours / (1 - _linear(marked, size)).clamp(min=1e-3)).clamp(0, 1)


_RESIZERS: dict[Kind, Callable[[Tensor, Size], Tensor]] = {
    "lines": _lines,
    "soft": _smooth,
    "photo": _smooth,
    "depth": _linear,
    "normals": _normals,
    "areas": _nearest,
    "skeleton": _smooth,
    "inpaint": _inpaint,
}


def _border(maps: Tensor, kind: Kind) -> Tensor:
    """The colour [B,C] around maps [B,C,H,W]: the median of each channel along their edges, of normals at
    their length; of areas the most frequent colour, for a median might be that of no area; of an inpaint hint
    its mark, where more than half of the edges are marked; black around lines and skeletons."""
    if kind in ("lines", "soft", "skeleton"):
        return maps.new_zeros(maps.shape[:2])
    edges = torch.cat([maps[..., 0, :], maps[..., -1, :], maps[..., 0], maps[..., -1]], -1)
    if kind == "normals":
        return _border_of_normals(maps, edges)
    if kind == "inpaint":
        marked = (edges < -0.5).all(1, keepdim=True)
        colour = edges.masked_fill(marked, torch.nan).nanmedian(-1).values
        return torch.where(2 * marked.sum(-1) > edges.shape[-1], -1.0, colour)
    if kind != "areas":
        return edges.median(-1).values
    colours = []
    for edge in edges:
        found, counts = edge.unique(dim=1, return_counts=True)
        colours.append(found[:, counts.argmax()])
    return torch.stack(colours)


def _border_of_normals(maps: Tensor, edges: Tensor) -> Tensor:
    """The colour [B,C] around normals [B,C,H,W] with these edges [B,C,N]: a normal, if they are."""
    middle = edges.median(-1).values
    vector = middle * 2 - 1
    length = vector.norm(dim=1, keepdim=True)
    # Where the edges face all ways their median is short, and what faces the viewer is taken: the axis of
    # which a map has most.
    axis = maps.mean((2, 3)).argmax(1)
    facing = F.one_hot(axis, maps.shape[1]).to(maps)
    normal = torch.where(length > 0.1, vector / length.clamp(min=1e-6), facing) / 2 + 0.5
    # A background without any, grey or black, stays what it is.
    longest = (edges * 2 - 1).norm(dim=1).median(-1).values[:, None]
    return torch.where((longest - 1).abs() < 0.2, normal, middle)

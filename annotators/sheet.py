"""The picture docs/annotators.jpg: what annotators without weights make of photos that scikit-image ships."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import fit
from .registry import Annotator
from .run import annotate
from .table import ANNOTATORS

_TILE, _GAP, _LABEL, _COLUMNS = 192, 10, 26, 6
# Annotated at twice the tiles' size: lines of one pixel come out fine, not coarse.
_SIZE = (2 * _TILE, 2 * _TILE)
_PAPER, _INK, _FAINT = (255, 255, 255), (34, 34, 34), (110, 110, 110)

# What is annotated, in rows: what shows best what the annotators of these conditions do.
_ROWS: Mapping[str, tuple[str, ...]] = {
    "Astronaut": ("canny", "soft edge", "scribble", "line art"),
    "Coffee": ("lines", "inpaint", "tool"),
    "Cat": ("shuffle", "tile", "blur", "recolor"),
}
# These take no photo; with what they are given here, and what that is called.
_OTHERS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "depth_normals": ("Depth map", {"strength": 2.0, "smooth": 3.0}),
    "drawing": ("Drawing", {}),
    "ade20k_colours": ("Mask", {"read_as": "mask", "mask_class": "animal"}),
}

Tile = tuple[str, Tensor]


def write(path: Path) -> Path:
    """Write the picture as a file, whose path comes back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _drawn(tiles()).save(path, quality=88, optimize=True)
    return path


def tiles() -> list[list[Tile]]:
    """Rows of tiles, each a title and a picture [H,W,3] in 0..1: sources, with the hints of them behind."""
    sources = _sources()
    rows: dict[str, list[Tile]] = {name: [(name, sources[name])] for name in _ROWS}
    others: list[Tile] = []
    for one in ANNOTATORS.values():
        if one.weights or one.extra:
            continue
        if one.id in _OTHERS:
            name, values = _OTHERS[one.id]
            others += [(name, sources[name]), (one.title, _hint(one, sources[name], values))]
        else:
            name = next((name for name, conditions in _ROWS.items() if one.condition in conditions), "Cat")
            rows[name].append((one.title, _hint(one, sources[name], {})))
    return [*rows.values(), others]


def _hint(annotator: Annotator, source: Tensor, values: Mapping[str, Any]) -> Tensor:
    masks = _disk() if annotator.masked else None
    return annotate(annotator, source[None], values, masks=masks).image[0].clamp(0, 1)


def _sources() -> dict[str, Tensor]:
    # A dependency of controlnet-aux, which brings these pictures; all are free of rights, the stereo pair's
    # depth is by D. Scharstein et al. 2014, who allow its use.
    from skimage import data

    horse = np.pad(~data.horse(), ((36, 36), (0, 0)))
    sources = {
        "Astronaut": _square(data.astronaut() / 255),
        "Coffee": _square(data.coffee() / 255),
        "Cat": _square(data.chelsea() / 255),
        "Mask": _square(horse[..., None].repeat(3, -1)),
        "Depth map": _square(_depth(data.stereo_motorcycle()[2])),
    }
    # Black lines on white paper.
    sources["Drawing"] = 1 - _hint(ANNOTATORS["lineart_xdog"], sources["Coffee"], {})
    return sources


def _square(picture: np.ndarray) -> Tensor:
    return _fitted(torch.from_numpy(picture.astype(np.float32)), _SIZE)


def _fitted(picture: Tensor, size: fit.Size) -> Tensor:
    """A picture [H,W,3] cropped and scaled to a size, in 0..1."""
    return fit.fit(picture.movedim(-1, 0)[None], size, "crop", "photo")[0].movedim(0, -1).clamp(0, 1)


def _depth(disparity: np.ndarray) -> np.ndarray:
    """A depth picture [H,W,3], near is white, of a disparity map [H,W]; where that is not finite, it is as
    at the farther side."""
    turned = disparity[:, ::-1]
    filled = np.minimum(_carried(disparity), _carried(turned)[:, ::-1])
    near, far = filled.max(), filled.min()
    return ((filled - far) / (near - far))[..., None].repeat(3, -1)


def _carried(values: np.ndarray) -> np.ndarray:
    """Values [H,W], where they are not finite the last one at the left that is."""
    places = np.where(np.isfinite(values), np.arange(values.shape[1]), 0)
    return np.take_along_axis(values, np.maximum.accumulate(places, 1), 1)


def _disk() -> Tensor:
    """A mask of the sources' size: 1 in a disk in the middle."""
    line = torch.linspace(-1, 1, _SIZE[0])
    return ((line[:, None] ** 2 + line**2) < 0.4**2).float()


def _drawn(rows: list[list[Tile]]) -> Any:
    """A picture of PIL's of rows of tiles, each with its title below; long rows are broken."""
    from PIL import Image, ImageDraw, ImageFont

    lines = [row[i : i + _COLUMNS] for row in rows for i in range(0, len(row), _COLUMNS)]
    step = (_TILE + _GAP, _TILE + _LABEL + _GAP)
    sheet = Image.new("RGB", (_COLUMNS * step[0] + _GAP, len(lines) * step[1] + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    sources = {*_ROWS, *(name for name, _values in _OTHERS.values())}
    for i, line in enumerate(lines):
        for j, (title, picture) in enumerate(line):
            left, top = _GAP + j * step[0], _GAP + i * step[1]
            sheet.paste(_tile(picture), (left, top))
            place = (left + _TILE / 2, top + _TILE + _LABEL / 2 + 1)
            draw.text(place, title, _FAINT if title in sources else _INK, font, "mm")
    return sheet


def _tile(picture: Tensor) -> Any:
    from PIL import Image

    return Image.fromarray((_fitted(picture, (_TILE, _TILE)) * 255).round().byte().numpy())

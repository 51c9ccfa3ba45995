"""Pictures of numbers: a sheet to draw on, its colours, and how numbers are written and rounded."""

from collections.abc import Sequence
from functools import cache
from math import floor, log10
from typing import Any

import numpy as np
import torch
from torch import Tensor

# A node on the canvas is shown narrower than a page: the text must survive that.
WIDTH = 560
PAPER, INK, FAINT, GRID = (255, 255, 255), (34, 34, 34), (110, 110, 110), (226, 226, 226)
# Okabe and Ito's colours, which the colour-blind tell apart.
COLOURS = [(0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (230, 159, 0)]


class Sheet:
    """A white picture to draw on; places in pixels from the top left, text centred on its line's middle."""

    def __init__(self, width: int, height: int):
        # A dependency of the host as well; drawn by it, text is smooth and knows accents.
        from PIL import Image, ImageDraw

        self.image = Image.new("RGB", (width, height), PAPER)
        self.draw = ImageDraw.Draw(self.image)

    def text(
        self, x: float, y: float, text: str, size: int = 13, anchor: str = "lm", fill: Any = INK
    ) -> None:
        self.draw.text((x, y), text, font=font(size), anchor=anchor, fill=fill)

    def bar(self, left: float, top: float, right: float, bottom: float, fill: Any) -> None:
        """A filled rectangle, at least one pixel wide; nothing where it has no height."""
        left, right, top, bottom = round(left), round(right), round(top), round(bottom)
        if top < bottom:
            self.draw.rectangle((left, top, max(left, right - 1), bottom - 1), fill=fill)

    def line(self, points: Sequence[tuple[float, float]], fill: Any, width: int = 1) -> None:
        self.draw.line([(round(x), round(y)) for x, y in points], fill=fill, width=width)

    def picture(self) -> Tensor:
        return torch.from_numpy(np.array(self.image)).float().div(255.0)[None]


@cache
def font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def fitted(text: str, width: float, size: int = 13) -> str:
    """The text, cut to so many pixels."""
    if font(size).getlength(text) <= width:
        return text
    while text and font(size).getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def number(value: float) -> str:
    """Three digits that count, without needless zeros; from 1000 on all before the point."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def round_top(value: float) -> float:
    """The end of an axis: a round number from the value upwards; 1 for 0."""
    if value <= 0:
        return 1.0
    power = 10.0 ** floor(log10(value))
    return next(
        power * step
        for step in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
        if value <= power * step * (1 + 1e-9)
    )

"""Pictures of numbers, [1,H,W,3] in 0..1: bars per step, bars per block, maps from conflict to agreement."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..cnet_core.drawing import COLOURS, FAINT, GRID, INK, WIDTH, Sheet, fitted, font, number, round_top

# From conflict over silence to agreement: red and blue of equal lightness, apart for the colour-blind too.
CONFLICT, SILENT, AGREE = (178, 24, 43), (228, 228, 228), (33, 102, 172)


@dataclass(frozen=True)
class StrengthRow:
    """One control: its strength at each step on the prompt's and on the negative's side.

    frames: factors per frame, blocks: weights per block; empty where they are all alike. computed: at which
    steps the control is computed, where it is not at each that it acts in; note: more about that.
    """

    label: str
    cond: Sequence[float]
    uncond: Sequence[float]
    frames: Sequence[float] = ()
    blocks: Sequence[float] = ()
    computed: Sequence[bool] = ()
    note: str = ""


@dataclass(frozen=True)
class Area:
    """Where bars stand: values from 0 at the bottom to `top` at the top, in `count` equal columns."""

    left: float
    upper: float
    right: float
    lower: float
    top: float
    count: int

    def x(self, column: float) -> float:
        return self.left + (self.right - self.left) * column / self.count

    def y(self, value: float) -> float:
        return self.lower - (self.lower - self.upper) * value / self.top

    def grid(self, sheet: Sheet) -> None:
        for value in (0.0, self.top / 2, self.top):
            y = self.y(value)
            sheet.line([(self.left, y), (self.right, y)], FAINT if value == 0 else GRID)
            sheet.text(self.left - 6, y, number(value), 11, "rm", FAINT)

    def bars(
        self, sheet: Sheet, values: Sequence[float], fill: Any, pale: Sequence[bool] | None = None
    ) -> None:
        """pale: which bars are drawn faintly."""
        # Gaps between bars only where there is room for both.
        gap = 1 if self.x(1) - self.x(0) >= 6 else 0
        faint = tuple(round(255 - 0.35 * (255 - channel)) for channel in fill)
        for i, value in enumerate(values):
            colour = faint if pale and pale[i] else fill
            sheet.bar(self.x(i) + gap, self.y(value), self.x(i + 1) - gap, self.y(0), colour)

    def stairs(self, sheet: Sheet, values: Sequence[float], fill: Any) -> None:
        points = [(self.x(i + side), self.y(value)) for i, value in enumerate(values) for side in (0, 1)]
        sheet.line(points, fill, 2)

    def ticks(self, width: float) -> list[int]:
        """Columns to write below, `width` pixels apart at least; the first always."""
        return list(range(0, self.count, max(1, ceil(width / (self.x(1) - self.x(0))))))


def strength_chart(title: str, rows: Sequence[StrengthRow], sigmas: Sequence[float]) -> Tensor:
    """The strength of controls at each step, one row per control on one scale, panels for frames and blocks.

    sigmas: the noise level of each step.
    """
    sides = any(list(row.cond) != list(row.uncond) for row in rows)
    panels = [name for name in ("frames", "blocks") if any(getattr(row, name) for row in rows)]
    head, foot, height = 62 if sides else 44, 32, 104
    left, right, panel = 64, WIDTH - 16, 128
    end = right - panel * len(panels)
    top = round_top(max(max(*row.cond, *row.uncond) for row in rows))
    sheet = Sheet(WIDTH, head + height * len(rows) + foot)
    sheet.text(16, 20, fitted(title, WIDTH - 32, 15), 15)
    if sides:
        sheet.bar(16, 37, 32, 49, FAINT)
        sheet.text(38, 43, "prompt", 12)
        sheet.line([(104, 43), (124, 43)], INK, 2)
        sheet.text(130, 43, "negative prompt", 12)
    for i, row in enumerate(rows):
        upper, colour = head + height * i, COLOURS[i % len(COLOURS)]
        area = Area(left, upper + 24, end, upper + height - 12, top, len(sigmas))
        room = end - left - (font(11).getlength(row.note) + 12 if row.note else 0)
        sheet.text(left, upper + 9, fitted(row.label, room))
        sheet.text(end, upper + 9, row.note, 11, "rm", FAINT)
        area.grid(sheet)
        area.bars(sheet, row.cond, colour, [not computed for computed in row.computed])
        if sides:
            area.stairs(sheet, row.uncond, INK)
        for k, name in enumerate(panels):
            values = getattr(row, name)
            if values:
                start = end + panel * k
                _panel(sheet, (start + 44, upper, start + panel, upper + height), name, values, colour)
    below = head + height * len(rows) - 12
    sheet.text(left - 14, below + 10, "step", 11, "rm", FAINT)
    sheet.text(left - 14, below + 26, "sigma", 11, "rm", FAINT)
    for step in area.ticks(40):
        x = area.x(step + 0.5)
        sheet.text(x, below + 10, str(step + 1), 11, "mm")
        sheet.text(x, below + 26, number(sigmas[step]), 11, "mm", FAINT)
    return sheet.picture()


def _panel(
    sheet: Sheet, box: tuple[float, float, float, float], name: str, values: Sequence[float], colour: Any
) -> None:
    """A small chart of factors; frames count from 0 as elsewhere, blocks run from the outermost inwards."""
    left, upper, right, lower = box
    area = Area(left, upper + 24, right, lower - 26, round_top(max(values)), len(values))
    sheet.text(left, upper + 9, f"factor per {name[:-1]}")
    area.grid(sheet)
    area.bars(sheet, values, colour)
    ends = ("outer", "deep") if name == "blocks" else ("0", str(len(values) - 1))
    sheet.text(left, lower - 16, ends[0], 11, "lm", FAINT)
    if len(values) > 1:
        sheet.text(right, lower - 16, ends[1], 11, "rm", FAINT)


def sizes_chart(
    title: str, blocks: Sequence[str], labels: Sequence[str], sizes: Sequence[Sequence[float]]
) -> Tensor:
    """How loud controls are: a group of bars per block, one for each label. sizes: [label][block]."""
    head = 46 + 20 * len(labels)
    sheet = Sheet(WIDTH, head + 218)
    sheet.text(16, 20, fitted(title, WIDTH - 32, 15), 15)
    left = 60
    top = round_top(max((size for row in sizes for size in row), default=0.0))
    area = Area(left, head, WIDTH - 16, head + 190, top, max(1, len(blocks)))
    area.grid(sheet)
    sheet.text(left - 6, area.lower + 12, "skip", 11, "rm", FAINT)
    share = 0.8 / len(labels)
    for k, (label, row) in enumerate(zip(labels, sizes, strict=True)):
        colour = COLOURS[k % len(COLOURS)]
        sheet.bar(16, 38 + 20 * k, 30, 50 + 20 * k, colour)
        sheet.text(38, 44 + 20 * k, fitted(label, WIDTH - 60), 13)
        for i, size in enumerate(row):
            x = i + 0.1 + share * k
            sheet.bar(area.x(x), area.y(size), area.x(x + share), area.y(0), colour)
    for i in area.ticks(34):
        sheet.text(area.x(i + 0.5), area.lower + 12, blocks[i].removeprefix("skip "), 11, "mm")
    return sheet.picture()


def agreement_map(values: Tensor, first: str, second: str, width: int, height: int) -> Tensor:
    """Where two controls agree (blue), conflict (red) or have nothing to do with each other (grey).

    values: [H,W] in -1..1; width, height: of the picture that it is about, shown enlarged if it is small.
    """
    from PIL import Image

    scale = max(1, ceil(448 / width))
    width, height = width * scale, height * scale
    spread = torch.nn.functional.interpolate(
        values[None, None].float(), (height, width), mode="bilinear", align_corners=False
    )[0, 0]
    sheet = Sheet(width, height + 64)
    sheet.image.paste(Image.fromarray(diverging(spread.cpu().numpy())), (0, 0))
    sheet.text(12, height + 17, fitted(f"{first}  and  {second}", width - 24), 13)
    ramp = diverging(np.linspace(-1, 1, 160)[None].repeat(12, 0))
    start = width // 2 - 80
    sheet.image.paste(Image.fromarray(ramp), (start, height + 36))
    sheet.text(start - 8, height + 42, "conflict -1", 12, "rm")
    sheet.text(start + 168, height + 42, "1 agree", 12, "lm")
    sheet.text(width / 2, height + 56, "0", 11, "mm", FAINT)
    return sheet.picture()


def diverging(values: np.ndarray) -> np.ndarray:
    """RGB [...,3] uint8 of values in -1..1."""
    ends = np.where(values[..., None] < 0, CONFLICT, AGREE)
    # The power lifts weak agreement out of the grey.
    share = np.power(np.abs(values), 0.7)[..., None]
    return np.round(np.array(SILENT) * (1 - share) + ends * share).astype(np.uint8)

"""The history of a training, and its curves as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import floor, log10
from typing import Any

import torch
from torch import Tensor

from ..drawing import COLOURS, FAINT, GRID, WIDTH, Sheet, fitted, number
from .state import State

# Of the exponential mean that is drawn over the losses, whose noise is larger than their change.
_SMOOTHING = 0.98
_PALE = (190, 214, 232)


@dataclass
class History:
    """losses: one per step from the first on; fidelity: (steps done, value) of each set of probes."""

    losses: list[float] = field(default_factory=list)
    fidelity: list[tuple[int, float]] = field(default_factory=list)

    def into(self, state: State) -> State:
        """The state with this history in it."""
        losses = torch.tensor(self.losses, dtype=torch.float32)
        tensors = {**state.tensors, "history.losses": losses}
        return State(state.step, tensors, {**state.facts, "fidelity": self.fidelity})

    @classmethod
    def of(cls, state: State) -> "History":
        return cls(
            state.tensors["history.losses"].tolist(),
            [(int(step), float(value)) for step, value in state.facts["fidelity"]],
        )

    def smoothed(self) -> list[float]:
        """The exponential mean of the losses, as a plain mean at first."""
        means: list[float] = []
        for count, loss in enumerate(self.losses, 1):
            share = max(1 / count, 1 - _SMOOTHING)
            means.append(loss if not means else means[-1] + share * (loss - means[-1]))
        return means


def curves(history: History, title: str = "") -> Tensor:
    """Losses over steps, and below them the probes' fidelity if there is any: [1,H,W,3] in 0..1."""
    panels: list[tuple[str, list[tuple[Sequence[tuple[float, float]], Any, int]]]] = []
    steps = range(1, len(history.losses) + 1)
    lines: list[tuple[Sequence[tuple[float, float]], Any, int]] = [
        (_thinned(list(zip(steps, history.losses, strict=True))), _PALE, 1),
        (_thinned(list(zip(steps, history.smoothed(), strict=True))), COLOURS[0], 2),
    ]
    panels.append(("loss, and its running mean", lines))
    if history.fidelity:
        panels.append(("fidelity of the probes", [(history.fidelity, COLOURS[1], 2)]))
    height = 200
    sheet = Sheet(WIDTH, 36 + height * len(panels))
    sheet.text(16, 18, fitted(title, WIDTH - 32, 15), 15)
    last = max(1, len(history.losses), *(step for step, _ in history.fidelity))
    for i, (name, drawn) in enumerate(panels):
        _panel(sheet, 36 + height * i, height, name, drawn, last)
    return sheet.picture()


def _panel(
    sheet: Sheet,
    top: float,
    height: float,
    name: str,
    lines: Sequence[tuple[Sequence[tuple[float, float]], Any, int]],
    last: int,
) -> None:
    left, right, upper, lower = 64.0, sheet.image.width - 20.0, top + 26, top + height - 28
    sheet.text(left, top + 10, name)
    # What the thick line shows decides the scale; single losses may leave the panel.
    shown = [y for points, _, width in lines if width > 1 for _, y in points] or [0.0, 1.0]
    ticks = _ticks(min(shown), max(shown))
    low, high = ticks[0], ticks[-1]

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x, y = point
        share = min(1.0, max(0.0, (y - low) / (high - low)))
        return left + (right - left) * x / last, lower - (lower - upper) * share

    for value in ticks:
        y = place((0, value))[1]
        sheet.line([(left, y), (right, y)], GRID)
        sheet.text(left - 6, y, number(value), 11, "rm", FAINT)
    for value in _ticks(0, last):
        if value <= last:
            sheet.text(place((value, low))[0], lower + 12, number(value), 11, "mm", FAINT)
    for points, colour, width in lines:
        if len(points) > 1:
            sheet.line([place(point) for point in points], colour, width)


def _ticks(low: float, high: float) -> list[float]:
    """Three to eight round numbers that enclose low and high."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** floor(log10(span))
    step = next(power * s for s in (0.2, 0.5, 1, 2, 5) if span / (power * s) <= 5)
    first, end = floor(low / step + 1e-9), -floor(-high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, max(end, first + 1) + 1)]


def _thinned(points: list[tuple[float, float]], most: int = 1000) -> list[tuple[float, float]]:
    """At most about so many of the points: a picture has no more columns."""
    return points[:: max(1, len(points) // most)]

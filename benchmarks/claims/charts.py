"""Scores over steps as pictures."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from cnet_core.drawing import COLOURS, FAINT, GRID, INK, WIDTH, Sheet, number
from cnet_core.training.shards import write_whole

# Curves [seeds, pictures, measurements] and the steps of the measurements.
Curves = tuple[np.ndarray, list[int]]
LEFT, RIGHT, UPPER, HEIGHT = 48, WIDTH - 16, 44, 240


class Axes:
    """Steps to the right, from 0 to the last, scores upwards between two tenths."""

    def __init__(self, sheet: Sheet, top: float, last: int, low: float, high: float):
        self.sheet, self.top, self.last = sheet, top, last
        self.low, self.high = np.floor(low * 10) / 10, max(np.ceil(high * 10), np.floor(low * 10) + 1) / 10
        for score in np.arange(self.low, self.high + 0.05, 0.1):
            (left, y), (right, _) = self.place(0, score), self.place(last, score)
            sheet.line([(left, y), (right, y)], GRID)
            sheet.text(left - 6, y, number(score), 11, "rm", FAINT)
        for step in np.linspace(0, last, 5):
            sheet.text(self.place(step, 0)[0], top + HEIGHT + 12, f"{step:.0f}", 11, "mm", FAINT)

    def place(self, step: float, score: float) -> tuple[float, float]:
        share = (score - self.low) / (self.high - self.low)
        return LEFT + (RIGHT - LEFT) * step / self.last, self.top + HEIGHT * (1 - share)

    def line(self, steps: Sequence[int], scores: Sequence[float], fill: Any, width: int) -> None:
        places = [self.place(*point) for point in zip(steps, scores, strict=True)]
        self.sheet.line(places, fill, width)


def ablation_chart(networks: Mapping[str, Curves], zero: str, last: int, ends: Mapping[str, float]) -> Tensor:
    """Mean scores by network, thick, and of each seed, thin; ends: levels by name, dashed.

    zero: which of them is the one with zero convolutions. last: steps that are shown.
    """
    shown = {}
    for name, (scores, steps) in networks.items():
        kept = [i for i, step in enumerate(steps) if step <= last]
        shown[name] = (scores.mean(axis=1)[:, kept], [steps[i] for i in kept])
    levels = [*ends.values(), *(value for means, _ in shown.values() for value in means.ravel())]
    sheet = Sheet(WIDTH, UPPER + HEIGHT + 34 + 20 * -(-len(shown) // 2))
    sheet.text(16, 20, "fidelity to the depth hint over training steps", 15)
    axes = Axes(sheet, UPPER, last, min(levels), max(levels))
    for name, level in ends.items():
        left, y = axes.place(0, level)
        for x in range(int(left), RIGHT, 12):
            sheet.line([(x, y), (x + 6, y)], FAINT)
        sheet.text(RIGHT, y - 8, name, 11, "rm", FAINT)
    for i, (name, (means, steps)) in enumerate(shown.items()):
        colour = COLOURS[i % len(COLOURS)]
        pale = tuple(255 - (255 - channel) // 3 for channel in colour)
        for seed in means:
            axes.line(steps, seed, pale, 1)
        axes.line(steps, means.mean(axis=0), colour, 2)
        x, y = LEFT + (WIDTH // 2 - 20) * (i % 2), UPPER + HEIGHT + 34 + 20 * (i // 2)
        sheet.bar(x, y - 6, x + 14, y + 6, colour)
        sheet.text(x + 22, y, "zero convolutions" if name == zero else name.replace("-", ", std "))
    return sheet.picture()


def convergence_chart(scores: np.ndarray, steps: list[int]) -> Tensor:
    """A panel for each seed: every picture's scores, thin, and their mean."""
    panel = HEIGHT + 54
    sheet = Sheet(WIDTH, 40 + panel * len(scores))
    sheet.text(16, 20, "fidelity of each picture to its depth hint over training steps", 15)
    for i, seed in enumerate(scores):
        sheet.text(16, 50 + panel * i, f"seed {i}")
        axes = Axes(sheet, 66 + panel * i, steps[-1], float(scores.min()), float(scores.max()))
        for k, picture in enumerate(seed):
            colour = COLOURS[k % len(COLOURS)]
            axes.line(steps, picture, tuple(255 - (255 - channel) // 2 for channel in colour), 1)
        axes.line(steps, seed.mean(axis=0), INK, 3)
    return sheet.picture()


def save(picture: Tensor, path: Path) -> None:
    pixels = (picture[0] * 255).round().byte().numpy()
    content = io.BytesIO()
    # Few colours, so a palette makes a file a third as large.
    Image.fromarray(pixels).quantize(64).save(content, format="PNG", optimize=True)
    write_whole(path, content.getvalue())

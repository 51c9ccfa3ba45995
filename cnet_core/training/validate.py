"""What is wrong with training data, all of it, before anything is computed; and a sheet to look at it."""

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..errors import DataError
from .buckets import bucket_of, buckets
from .cache import Preparation
from .data import Dataset, Pair, Problem
from .pictures import fitted, mirrored_hint, window

# Rows or columns that rounding may cost when a hint is made in another size than its picture.
_SAME_SHAPE = 0.02
# The share of a picture whose loss is worth a note.
_MUCH = 1 / 3
_NAMED = 20


@dataclass(frozen=True)
class Report:
    """What validation found: the sound pairs by their buckets (width x height), and what is wrong."""

    source: str
    sound: int
    sizes: dict[tuple[int, int], int]
    problems: tuple[Problem, ...]

    @property
    def fatal(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.fatal]

    def to_text(self) -> str:
        """For people: every problem on a line of its own, then the sums."""
        lines = [f"{'error' if p.fatal else 'note'}: {p}" for p in self.problems]
        shapes = ", ".join(f"{n} of {w}x{h}" for (w, h), n in self.sizes.items())
        fatal, notes = len(self.fatal), len(self.problems) - len(self.fatal)
        lines.append(
            f"{self.source}: {self.sound} sound pairs ({shapes or 'none'}), {fatal} errors, {notes} notes"
        )
        return "\n".join(lines)

    def to_json(self) -> str:
        sizes = [{"width": w, "height": h, "pairs": n} for (w, h), n in self.sizes.items()]
        problems = [asdict(problem) for problem in self.problems]
        return json.dumps(
            {"source": self.source, "sound": self.sound, "buckets": sizes, "problems": problems}
        )

    def raise_if_unfit(self) -> None:
        """Raise DataError that names the problems if any pair cannot be trained on, or none is there."""
        if self.fatal:
            named = "\n".join(f"- {problem}" for problem in self.fatal[:_NAMED])
            more = f"\n... and {len(self.fatal) - _NAMED} more" if len(self.fatal) > _NAMED else ""
            raise DataError(
                f"{self.source} has {len(self.fatal)} problems:\n{named}{more}\n"
                "Mend them, or leave such pairs out by skip_broken."
            )
        if not self.sound:
            raise DataError(f"{self.source} holds no pair to train on.")


def validate(
    dataset: Dataset,
    preparation: Preparation,
    hints_made: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Dataset, Report]:
    """The pairs that can be prepared so, and everything that is wrong with the others; every picture is read
    once.

    hints_made: an annotator makes the hints, so that none need be there. progress: called with the number of
    pairs that were looked at, and of all; what it raises ends the work.
    Raises DataError for a resolution that has no buckets.
    """
    sizes = buckets(preparation.resolution, preparation.multiple)
    looked = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            for found in pool.map(lambda pair: _look(pair, sizes, preparation, hints_made), dataset.pairs):
                looked.append(found)
                progress(len(looked), len(dataset.pairs))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    sound = [(pair, size) for pair, (size, _) in zip(dataset.pairs, looked, strict=True) if size]
    wrong = [problem for _, problems in looked for problem in problems]
    counted = Counter(size for _, size in sound)
    report = Report(dataset.source, len(sound), dict(sorted(counted.items())), (*dataset.problems, *wrong))
    return replace(dataset, pairs=tuple(pair for pair, _ in sound)), report


def _look(
    pair: Pair, sizes: list[tuple[int, int]], preparation: Preparation, hints_made: bool
) -> tuple[tuple[int, int] | None, list[Problem]]:
    """The bucket of a pair, None where it cannot be trained on, and what is wrong with it."""
    problems: list[Problem] = []
    if not pair.caption:
        message = "has an empty caption; it teaches the hint without a text, as dropped captions do."
        problems.append(Problem("caption", pair.name, message, fatal=False))
    read = []
    for what in (pair.picture, pair.control):
        try:
            read.append(what())
        except DataError as error:
            problems.append(Problem("unreadable", pair.name, str(error)))
            return None, problems
    image, hint = read
    assert image is not None
    if hint is None and not hints_made:
        message = "has no hint; add hints, or choose an annotator that makes them."
        problems.append(Problem("orphan", pair.name, message))
        return None, problems
    if hint is not None and preparation.mirror and not hints_made:
        assert preparation.hint_kind is not None
        try:
            mirrored_hint(hint, preparation.hint_kind, "the hint")
        except DataError as error:
            problems.append(Problem("mirror", pair.name, str(error)))
            return None, problems
    height, width = image.shape[:2]
    bucket = bucket_of(width, height, sizes)
    if width < bucket[0] or height < bucket[1]:
        message = f"the picture is {width}x{height} and will be enlarged to {bucket[0]}x{bucket[1]}."
        problems.append(Problem("size", pair.name, message, fatal=False))
    _, _, wide, high = window(width, height, *bucket)
    lost = 1 - wide * high / (width * height)
    if lost > _MUCH:
        message = (
            f"of the picture, {width}x{height}, {100 * lost:.0f} % are cut off for {bucket[0]}x{bucket[1]}."
        )
        problems.append(Problem("aspect", pair.name, message, fatal=False))
    if hint is None or hints_made or hint.shape[:2] == image.shape[:2]:
        return bucket, problems
    high, wide = hint.shape[:2]
    if abs(wide / high * height / width - 1) > _SAME_SHAPE:
        message = f"the hint is {wide}x{high}, of another shape than the picture, {width}x{height}; "
        problems.append(Problem("aspect", pair.name, message + "crop them alike, or make the hint anew."))
        return None, problems
    message = f"the hint is {wide}x{high}, the picture {width}x{height}; the hint is scaled."
    problems.append(Problem("size", pair.name, message, fatal=False))
    return bucket, problems


_CELL = 192
_TEXT = 320


def contact_sheet(rows: Sequence[tuple[np.ndarray, np.ndarray | None, str]]) -> Image.Image:
    """Picture, hint and caption, a row for each: what a glance tells whether they belong together."""
    sheet = Image.new("RGB", (2 * _CELL + _TEXT, _CELL * max(1, len(rows))), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for row, (image, hint, caption) in enumerate(rows):
        for column, pixels in enumerate((image, hint)):
            if pixels is not None:
                scale = (_CELL - 4) / max(pixels.shape[:2])
                width, height = (max(1, round(side * scale)) for side in pixels.shape[1::-1])
                small = Image.fromarray(fitted(pixels, width, height))
                left = column * _CELL + (_CELL - width) // 2
                sheet.paste(small, (left, row * _CELL + (_CELL - height) // 2))
        lines = _wrapped(caption or "(no caption)", font, _TEXT - 16)
        draw.multiline_text((2 * _CELL + 8, row * _CELL + 8), "\n".join(lines[:10]), fill="black", font=font)
    return sheet


def _wrapped(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def spread_over(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """At most `count` pairs, evenly from the first to the last."""
    if len(pairs) <= count:
        return list(pairs)
    return [pairs[i * (len(pairs) - 1) // max(1, count - 1)] for i in range(count)]

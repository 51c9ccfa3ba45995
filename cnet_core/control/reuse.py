"""Residuals reused between steps: at which steps a control is computed, and what it says at the others.

A control's residuals change slowly over sampling. Computed at some steps (anchors), they are held or
predicted at the others, before they are weighed, so that strengths may change from step to step. Positions
count the steps of a run in which the control acts: 0 is the first, 1.5 half way from the second to the third
(in log sigma), where samplers with half steps ask. How far to go on as before is measured at each anchor:
where a sampler adds noise, residuals turn back on their way.
"""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import ControlError
from .rows import index_of, pick

# How residuals between anchors come about: the highest degree of the polynomial through the last anchors.
METHODS: dict[str, int] = {"exact": 0, "hold": 0, "predicted": 2}
# Where anchors lie, as the power p of the way (i / anchors)^p through a run; adaptive ones depend on the run.
SPACINGS: dict[str, float | None] = {"uniform": 1.0, "dense early": 1.1, "adaptive": None}
# A parabola through anchors overshoots: at most so much of what it adds to the straight line is taken.
DAMPING = 0.6
# The numbers below and those of SPACINGS were chosen in trials on other scenes than benchmarks.reuse reports.
# So much more of the straight line is taken than was right at the anchors, which are farther ahead.
_NEARER = 0.1
# How steady residuals must be for any, and for all of that of the parabola.
_CURVED = 0.5, 0.9
# Positions nearer than this are the same: samplers take noise levels through logarithms and back.
_SAME = 1e-3
# Anchors are at least so many steps apart.
_APART = 0.5
_TINY = torch.finfo(torch.float32).tiny
# What was asked for so many steps ago, and not since, is asked for no more.
_FORGOTTEN = 4
# Adaptive: an anchor is at most so many steps after the last, and so many times its predecessor's distance.
_LONGEST, _GROWTH = 8.0, 2.0


@dataclass(frozen=True)
class Reuse:
    """How a control is economised.

    method: a key of METHODS; spacing: a key of SPACINGS. share: how much of the steps is computed, above 0
    to 1. bound: for adaptive spacing instead of it, the error of a prediction that is accepted, as a share of
    the residual's size. Raises ControlError for values out of range.
    """

    method: str = "exact"
    spacing: str = "dense early"
    share: float = 1 / 3
    bound: float = 0.05

    def __post_init__(self) -> None:
        for what, value, known in (("method", self.method, METHODS), ("spacing", self.spacing, SPACINGS)):
            if value not in known:
                raise ControlError(f"{what} {value!r} of reuse is unknown; choose one of {', '.join(known)}.")
        if not 0 < self.share <= 1:
            raise ControlError(
                f"the share of steps to compute is {self.share}; expected above 0 to 1 (every step)."
            )
        if not (math.isfinite(self.bound) and self.bound > 0):
            raise ControlError(
                f"the accepted error is {self.bound}; expected a number above 0, such as 0.05."
            )

    @property
    def exact(self) -> bool:
        """Whether every step is computed."""
        return self.method == "exact"

    @property
    def adaptive(self) -> bool:
        """Whether the computed steps are chosen during the run."""
        return not self.exact and SPACINGS[self.spacing] is None

    @property
    def kept(self) -> int:
        """How many computed steps are kept at once."""
        return 0 if self.exact else METHODS[self.method] + 1

    def plan(self, ways: Sequence[float], calls: int = 1) -> list[int]:
        """Which steps of a run are computed, sorted, the first always; adaptive ones cannot be foretold.

        ways: for each step the share of the run before it, rising from 0 (`Course.ways`). calls: how often
        the sampler asks in a step, each time at another noise level; the share is of these.
        """
        power, steps = SPACINGS[self.spacing], len(ways)
        if self.exact or power is None:
            return list(range(steps))
        count = min(steps, max(1, math.ceil(self.share * calls * steps - 1e-9)))
        anchors: list[int] = []
        for i in range(count):
            wanted = (i / count) ** power
            nearest = min(range(steps), key=lambda step: abs(ways[step] - wanted))
            # Every anchor by itself, and with steps left for those to come.
            anchors.append(min(max(nearest, anchors[-1] + 1 if anchors else 0), steps - count + i))
        return anchors


EXACT = Reuse()
# The choices of a node, from every step computed to few. Strong at a sixth would be 5 dB farther from exact
# in 30 steps of euler, and 12 dB in 12.
ECONOMIES: dict[str, Reuse] = {
    "exact": EXACT,
    "light": Reuse("predicted", share=0.3),
    "strong": Reuse("predicted", share=1 / 5),
}


def computed_steps(
    reuse: Reuse, course: "Course", levels: Sequence[float], acting: Sequence[bool]
) -> list[bool]:
    """Which steps a sampler has computed that asks once at each of these noise levels: only acting ones."""
    memory = Memory(reuse, course.ways)
    computed = []
    for level, acts in zip(levels, acting, strict=True):
        computed.append(acts and (reuse.exact or memory.due(0, course.position(level))))
        if computed[-1]:
            memory.keep([0], course.position(level), [])
    return computed


def weights_at(anchors: Sequence[float], position: float, steadiness: float = 1.0) -> list[float]:
    """The factors of the residuals at these positions (rising, at most three) whose sum is the prediction.

    One anchor is held. Of what a straight line through two adds to it (Lagrange's form), and of what the
    parabola through three adds to the line, so much is taken as steadiness allows: 1 where residuals go on as
    they went, 0 where they do not. At an anchor the factors are 1 for it and 0 for the others, exactly.
    """
    factors = [0.0] * (len(anchors) - 1) + [1.0]
    if position == anchors[-1]:
        return factors
    straight = min(max(steadiness + _NEARER, 0.0), 1.0)
    least, most = _CURVED
    curved = DAMPING * min(max((steadiness - least) / (most - least), 0.0), 1.0)
    before = factors
    for points, part in ((2, straight), (3, curved)):
        if len(anchors) >= points:
            curve = [0.0] * (len(anchors) - points) + _lagrange(anchors[-points:], position)
            factors = [f + part * (c - b) for f, c, b in zip(factors, curve, before, strict=True)]
            before = curve
    return factors


def _lagrange(anchors: Sequence[float], position: float) -> list[float]:
    return [
        math.prod((position - other) / (anchor - other) for other in anchors if other != anchor)
        for anchor in anchors
    ]


class Course:
    """The steps of a run in which a control acts.

    sigmas: their noise levels, falling, at least one; levels of 0 and repeated ones do not count. percent:
    the share of sampling done at a noise level (`schedule.Clock.percent`).
    """

    def __init__(self, sigmas: Sequence[float], percent: Callable[[float], float]):
        self._levels = sorted({-math.log(sigma) for sigma in sigmas if sigma > 0})
        count = len(self._levels)
        done = [percent(math.exp(-level)) for level in self._levels]
        whole = (done[-1] - done[0]) * count / max(count - 1, 1) if done else 0.0
        # For each step the share of the run before it. What a control says changes with the noise that is
        # left, but each step is one that may go wrong: the mean of both ways.
        self.ways = [
            (step / count + ((at - done[0]) / whole if whole > 0 else step / count)) / 2
            for step, at in enumerate(done)
        ]

    def __len__(self) -> int:
        return len(self._levels)

    def position(self, sigma: float) -> float:
        """Below 0 before the first step, beyond the last one's number after it."""
        levels, level = self._levels, -math.log(max(sigma, 1e-9))
        if len(levels) == 1:
            position = level - levels[0]
        else:
            before = min(max(bisect_right(levels, level) - 1, 0), len(levels) - 2)
            position = before + (level - levels[before]) / (levels[before + 1] - levels[before])
        step = round(position)
        return float(step) if abs(position - step) < _SAME else position


@dataclass(frozen=True, eq=False)
class Kept:
    """What was computed for some rows at a position.

    values: [rows,N], all residuals end to end, so that one kernel does for all of them. shapes: of each
    without the rows, in this order. places: for each residual its number among these, None where there is
    none; a tensor that stands at several places is kept once.
    """

    position: float
    values: Tensor = field(repr=False)
    shapes: tuple[torch.Size, ...]
    places: tuple[int | None, ...]

    @classmethod
    def of(cls, position: float, rows: int, residuals: Sequence[Tensor | None]) -> "Kept":
        """A copy of residuals [rows,...] of one precision and device."""
        present = {id(residual): residual for residual in residuals if residual is not None}
        parts = [residual.flatten(1) for residual in present.values()]
        values = torch.cat(parts, 1) if parts else torch.empty(rows, 0)
        numbers = {key: number for number, key in enumerate(present)}
        shapes = tuple(residual.shape[1:] for residual in present.values())
        return cls(position, values, shapes, tuple(numbers.get(id(residual)) for residual in residuals))

    def alike(self, other: "Kept") -> bool:
        """Whether another is laid out as this one."""
        return (self.shapes, self.places) == (other.shapes, other.places)

    @cached_property
    def sizes(self) -> list[int]:
        """How many values each residual has in a row."""
        return [shape.numel() for shape in self.shapes]

    @cached_property
    def block(self) -> int:
        """The size of equal blocks of a row, none of which is of two residuals."""
        return math.gcd(*self.sizes)

    def lengths(self, values: Tensor, origin: Tensor | None = None) -> Tensor:
        """The length [n,B] of each block of values [n,N] laid out alike, or of the way there from others."""
        precision = _precision(values)
        if origin is not None:
            values = values.to(precision, copy=True).sub_(origin)
        return torch.linalg.vector_norm(values.unflatten(1, (-1, self.block)), dim=-1, dtype=precision)

    def squares(self, *lengths: Tensor) -> np.ndarray:
        """Of lengths [n,B] of blocks the squared lengths of the residuals, [len(lengths),n,R] in fp64.

        By blocks, because a GPU takes longer to begin on each residual by itself than to reduce them all.
        """
        blocks = torch.stack(lengths).cpu().numpy().astype(np.float64)
        starts = [end // self.block for end in accumulate(self.sizes[:-1], initial=0)]
        return np.add.reduceat(blocks**2, starts, axis=-1)

    def residuals(self, values: Tensor | None = None) -> list[Tensor | None]:
        """Views of the residuals, or of others that are laid out alike, [n,N] as [n,...]."""
        whole = self.values if values is None else values
        rows = whole.shape[0]
        parts = whole.split(self.sizes, 1)
        views = [part.view(rows, *shape) for part, shape in zip(parts, self.shapes, strict=True)]
        return [None if place is None else views[place] for place in self.places]


class Anchor(NamedTuple):
    """A row of what was computed at a position."""

    kept: Kept
    row: int

    @property
    def position(self) -> float:
        return self.kept.position


class Memory:
    """What one control said at its anchors in one run, row by row.

    Rows are named by whatever tells them apart in a run (prompt, frame, size), so that it does not matter in
    which company and order a host asks for them.
    """

    def __init__(self, reuse: Reuse, ways: Sequence[float]):
        self.reuse = reuse
        self.ways = ways
        # By calls of the sampler in a step.
        self._plans: dict[int, list[int]] = {}
        # Of each row how many noise levels it was asked at, and its farthest position.
        self._asked: dict[Hashable, tuple[int, float]] = {}
        # The farthest position of all, and the one before.
        self._before = self._latest = -math.inf
        self._rows: dict[Hashable, deque[Anchor]] = {}
        # Adaptive: how far the next anchor of a row lies from its last.
        self._gaps: dict[Hashable, int] = {}
        # Of each row how far it came along straight lines to its anchors, and how long they were (squares).
        self._came: dict[Hashable, tuple[float, float]] = {}

    def due(self, row: Hashable, position: float) -> bool:
        """Whether a row must be computed here: at an anchor, and where there is nothing before to go by.

        To be asked whenever the host asks: the answers tell how often in a step it does.
        """
        asked, farthest = self._asked.get(row, (0, -math.inf))
        # Samplers may go back, but come to the same levels again.
        if position > farthest:
            asked, farthest = asked + 1, position
        if position > self._latest:
            self._before, self._latest = self._latest, position
        self._asked[row] = asked, farthest
        anchors = self._rows.get(row)
        if not anchors or position < anchors[-1].position:
            return True
        last = anchors[-1].position
        if self.reuse.adaptive:
            return position >= last + self._gaps.get(row, 1) - _SAME
        calls = max(1, math.floor(asked / (max(farthest, 0) + 1) + 0.5))
        if calls not in self._plans:
            self._plans[calls] = self.reuse.plan(self.ways, calls)
        plan = self._plans[calls]
        # The first step of the plan after the last anchor.
        coming = bisect_right(plan, last)
        return coming < len(plan) and plan[coming] <= position

    def keep(
        self, rows: Sequence[Hashable], position: float, residuals: Sequence[Tensor | None]
    ) -> list[Tensor | None]:
        """Remember what was computed for rows: residuals [len(rows),...] of one precision and device.

        The same values come back from where they are kept, and must not be changed.
        """
        kept = Kept.of(position, len(rows), residuals)
        # Not where sampling has gone back: rows that it asks for there may have been long unasked.
        if position >= self._latest:
            self._forget()
        for row in rows:
            anchors = self._rows.setdefault(row, deque(maxlen=self.reuse.kept))
            if anchors and not kept.alike(anchors[-1].kept):
                # It says something else than before.
                anchors.clear()
        if kept.sizes:
            for places in self._groups(rows, position):
                self._compare([rows[i] for i in places], kept, pick(kept.values, places))
        for i, row in enumerate(rows):
            anchors = self._rows[row]
            # Of two that lie too near to tell a direction, and of those that lie ahead, only this one counts.
            while anchors and anchors[-1].position > position - _APART:
                anchors.pop()
            anchors.append(Anchor(kept, i))
        return kept.residuals()

    def _forget(self) -> None:
        """Let go of rows that were asked for no more: prompts whose time is over, windows that have moved."""
        # Before the latest position, because other rows may yet be asked for there.
        gone = [row for row, (_, farthest) in self._asked.items() if farthest < self._before - _FORGOTTEN]
        for row in gone:
            for memory in (self._asked, self._rows, self._gaps, self._came):
                memory.pop(row, None)

    def said(self, rows: Sequence[Hashable], position: float) -> list[Tensor | None]:
        """The residuals [len(rows),...] here of rows that are kept; they may be the kept ones themselves."""
        groups = self._groups(rows)
        kept = self._rows[rows[0]][-1].kept
        if len(groups) == 1:
            return kept.residuals(self._together(rows, position))
        whole = kept.values.new_empty(len(rows), kept.values.shape[1])
        for places in groups:
            whole[index_of(places, whole.device)] = self._together([rows[i] for i in places], position)
        return kept.residuals(whole)

    def _groups(self, rows: Sequence[Hashable], before: float = math.inf) -> list[list[int]]:
        """The places of those rows that have anchors, all before a position, grouped by whose these are."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, row in enumerate(rows):
            anchors = self._rows.get(row)
            if anchors and anchors[-1].position < before:
                groups.setdefault(tuple(id(anchor.kept) for anchor in anchors), []).append(i)
        return list(groups.values())

    def _together(self, rows: Sequence[Hashable], position: float) -> Tensor:
        """The values [len(rows),N] here of rows that were always computed together."""
        columns = list(zip(*(self._rows[row] for row in rows), strict=True))
        *earlier, last = (_values(column) for column in columns)
        weights = [
            weights_at([column[0].position for column in columns], position, self._steadiness(row))
            for row in rows
        ]
        if all(own == [0.0] * len(earlier) + [1.0] for own in weights):
            # At an anchor, what was computed there.
            return last
        total = last.to(_precision(last), copy=True)
        start = 0
        for (*factors, newest), alike in groupby(weights):
            some = slice(start, start := start + len(list(alike)))
            total[some].mul_(newest)
            for values, factor in zip(earlier, factors, strict=True):
                total[some].add_(values[some], alpha=factor)
        return total.to(last.dtype)

    def _steadiness(self, row: Hashable) -> float:
        came, length = self._came.get(row, (0.0, 0.0))
        return came / length if length > 0 else 1.0

    def _compare(self, rows: Sequence[Hashable], kept: Kept, values: Tensor) -> None:
        """Learn from how well these values of kept would have been predicted, of rows of one group."""
        if self.reuse.adaptive:
            self._space(rows, kept, values)
        columns = list(zip(*(self._rows[row] for row in rows), strict=True))
        if len(columns) < 2:
            return
        earlier, later = (_values(column) for column in columns[-2:])
        first, last = (column[0].position for column in columns[-2:])
        ahead = (kept.position - last) / (last - first)
        line, way, both, size = kept.squares(
            kept.lengths(later, earlier),
            kept.lengths(values, later),
            kept.lengths(values, earlier),
            kept.lengths(values),
        )
        # |a + b|^2 = |a|^2 + 2ab + |b|^2: a product of its own would need memory, or a matrix product, which
        # takes a GPU long where one side is so long and the other so short.
        for row, came, length in zip(rows, *_shares(size, (both - line - way) / 2, line), strict=True):
            so_far = self._came.get(row, (0.0, 0.0))
            self._came[row] = so_far[0] + came * ahead, so_far[1] + length * ahead**2

    def _space(self, rows: Sequence[Hashable], kept: Kept, values: Tensor) -> None:
        """Set the distances of the next anchors."""
        predicted = self._together(rows, kept.position)
        missed, size = kept.squares(kept.lengths(values, predicted), kept.lengths(values))
        for row, error in zip(rows, *_shares(np.sqrt(size), np.sqrt(missed)), strict=True):
            anchors = self._rows[row]
            growth = (self.reuse.bound / max(error, 1e-9)) ** (1 / len(anchors))
            gap = (kept.position - anchors[-1].position) * min(growth, _GROWTH)
            # In this order what is not a number comes to 1.
            self._gaps[row] = int(min(max(1, gap), _LONGEST))


def _values(column: Sequence[Anchor]) -> Tensor:
    """The values of rows that were computed together."""
    return pick(column[0].kept.values, [anchor.row for anchor in column])


def _precision(values: Tensor) -> torch.dtype:
    """In which values are summed: fp32 at least."""
    return torch.promote_types(values.dtype, torch.float32)


def _shares(size: np.ndarray, *parts: np.ndarray) -> list[list[float]]:
    """Of each part [n,R] the mean share of the size [n,R], by row."""
    return [(part / np.maximum(size, _TINY)).mean(-1).tolist() for part in parts]

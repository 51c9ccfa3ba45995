"""A merge that remembers what its controls said."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor

from ...cnet_core.control.merge import Rule
from ...cnet_core.control.weighting import COND
from ..answers import PLACES, Parts
from .calls import Call
from .merged import MergedControl
from .steered import Steered


@dataclass
class Record:
    """What each control said on the prompt's side, weighed, at the call for most of the picture nearest to a
    noise level, and the noise level there.

    wanted: that noise level. Samplers may ask at others within a step, and beyond it.
    """

    wanted: float
    spoken: list[Parts | None] = field(default_factory=list)
    # Whether each control acted there, with residuals or without.
    acted: list[bool] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    sigma: float = 0.0
    # (height, width) of the latent.
    size: tuple[int, int] = (0, 0)

    def residuals(self) -> dict[str, list[Tensor | None]]:
        """By name of the block, from the outermost inwards, each control's residual [B,...]."""
        found: dict[str, list[Tensor | None]] = {}
        doubles = any(parts is not None and any(parts["input"]) for parts in self.spoken)
        for place in PLACES:
            count = max((len(parts[place]) for parts in self.spoken if parts is not None), default=0)
            for i in range(count):
                block = [self._said(parts, place, i) for parts in self.spoken]
                present = [residual for residual in block if residual is not None]
                if not present:
                    continue
                # Transformers take tokens from the beginning. Flux has double blocks, then single ones.
                token_block = f"single block {i}" if place == "output" and doubles else f"block {i}"
                found[token_block if present[0].ndim == 3 else _block_name(place, i, count)] = block
        return found

    def _said(self, parts: Parts | None, place: str, i: int) -> Tensor | None:
        if parts is None or i >= len(parts[place]):
            return None
        part = parts[place][i]
        return None if part is None else part.value[self.rows]


def _apart(one: float, other: float) -> float:
    """How far two noise levels are from each other."""
    return abs(math.log(max(one, 1e-9) / max(other, 1e-9)))


def _block_name(place: str, i: int, count: int) -> str:
    if place == "middle":
        return "middle"
    # The host takes those of the encoder from the end of their list.
    return f"skip {i}" if place == "output" else f"input {count - 1 - i}"


class RecordingControl(MergedControl):
    """Acts as MergedControl does; all its copies write into one record."""

    def __init__(self, controls: Iterable[Steered], rule: Rule, record: Record):
        super().__init__(controls, rule)
        self.record = record

    def copy(self) -> "RecordingControl":
        other = RecordingControl(self.controls, self.rule, self.record)
        self.copy_to(other)
        return other

    def parts(self, call: Call) -> list[Parts | None]:
        spoken = super().parts(call)
        record, size = self.record, (call.x.shape[-2], call.x.shape[-1])
        far, nearest = (_apart(sigma, record.wanted) for sigma in (call.sigma, record.sigma))
        # A prompt for an area is asked for after the whole picture's, and tells of less.
        smaller = call.sigma == record.sigma and math.prod(size) < math.prod(record.size)
        if COND in call.sides and far <= nearest and not smaller:
            first = call.sides.index(COND) * call.batch
            record.spoken, record.rows = spoken, list(range(first, first + call.batch))
            record.acted = [any(control.rows(call)[first : first + call.batch]) for control in self.controls]
            record.sigma, record.size = call.sigma, size
        return spoken

"""Controls whose answers are residuals: computed at some steps, predicted from these at the others."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ...cnet_core.control.reuse import Course, Memory
from ..answers import Answer, Parts, at_rows, counts_of, flat, shaped
from .calls import Call
from .steered import Steered


@dataclass(frozen=True)
class Said:
    """What a control said about some rows of a call, not yet weighed: residuals [len(rows),...]."""

    rows: list[int]
    answer: Answer


@dataclass
class Past:
    """What a control said at earlier steps of a run, and where the run's noise levels lie among its steps."""

    memory: Memory
    course: Course
    counts: dict[str, int] = field(default_factory=dict)

    def due(self, call: Call, rows: list[float]) -> list[float]:
        """The strengths of the rows that must be computed; 0 for those that can be predicted."""
        position = self.course.position(call.sigma)
        pairs = zip(rows, call.row_names, strict=True)
        return [row if row and self.memory.due(name, position) else 0.0 for row, name in pairs]

    def completed(self, call: Call, rows: list[float], due: list[float], new: Said | None) -> Said | None:
        """What was computed at this call, to be kept, or what is predicted for all rows that speak.

        due: the strengths of the rows that were to be computed; new: what was said about them, perhaps of
        more, or nothing.
        """
        position, names = self.course.position(call.sigma), call.row_names
        if new is not None:
            self.counts = counts_of(new.answer)
            kept = self.memory.keep([names[i] for i in new.rows], position, flat(new.answer))
            new = Said(new.rows, shaped(kept, self.counts))
        speaking = [i for i, row in enumerate(rows) if row]
        if not speaking or (new is not None and set(speaking) <= set(new.rows)):
            return new
        if new is None and any(due):
            # A host's control had nothing to say.
            return None
        residuals = self.memory.said([names[i] for i in speaking], position)
        return Said(speaking, shaped(residuals, self.counts))


class ResidualControl(Steered):
    """A control that answers with residuals. Subclasses compute them; when, follows from `reuse`."""

    @property
    def steady(self) -> bool:
        """Whether it says the same at every step, at next to no cost: then there is nothing to economise."""
        return False

    def compute(self, controls: Sequence[Any], call: Call, rows: Sequence[list[float]]) -> list[Said | None]:
        """What controls of one batch key, of which this is one, say about at least the rows above 0."""
        raise NotImplementedError

    def parts(self, call: Call, rows: list[float]) -> Parts | None:
        return self.parts_together([self], call, [rows])[0]

    def parts_together(
        self, controls: Sequence[Any], call: Call, rows: Sequence[list[float]]
    ) -> list[Parts | None]:
        pasts = [control.past(call) for control in controls]
        due = [own if past is None else past.due(call, own) for past, own in zip(pasts, rows, strict=True)]
        computed = self.compute(controls, call, due) if any(map(any, due)) else [None] * len(due)
        parts: list[Parts | None] = []
        for control, past, own, asked, new in zip(controls, pasts, rows, due, computed, strict=True):
            said = new if past is None else past.completed(call, own, asked, new)
            if said is None:
                parts.append(None)
                continue
            parts.append(control.weighed(at_rows(said.answer, said.rows, len(own)), call, own))
        return parts

    def past(self, call: Call) -> Past | None:
        """What is remembered of this run; None where every step is computed.

        That is so as well where the host does not tell the run's noise levels, and where the control acts at
        none of them.
        """
        run, sigmas = self.run, call.options.get("sample_sigmas")
        if run is None or self.reuse.exact or self.steady or sigmas is None:
            return None
        if run.past is None:
            start, end = self.timestep_range or (math.inf, 0.0)
            # At the last level sampling arrives.
            levels = [level for level in sigmas[:-1].tolist() if level > 0 and end <= level <= start]
            if not levels:
                return None
            course = Course(levels, run.clock().percent)
            run.past = Past(Memory(self.reuse, course.ways), course)
        return run.past

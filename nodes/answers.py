"""What controls answer the host with, and how answers are weighed, merged and added."""

from collections.abc import Callable, Sequence

from torch import Tensor

from ..cnet_core.control.merge import Part, Rule, merge
from ..cnet_core.control.residuals import Residuals
from ..cnet_core.control.weighting import Weighting

# What a control answers with: lists of residuals (or None) for the host's input, middle and output blocks.
Answer = dict[str, list[Tensor | None]]
# The same with each control's weights beside its residuals.
Parts = dict[str, list[Part | None]]
# From the outermost block to the deepest, which is the order of block weights.
PLACES = ("input", "output", "middle")


def answer_of(residuals: Residuals) -> Answer:
    """The host pops each list from its end: the encoder's additions are listed backwards."""
    return {
        "input": list(reversed(residuals.encoder)),
        "middle": [] if residuals.mid is None else [residuals.mid],
        "output": list(residuals.down),
    }


def weigh(
    answer: Answer, weighting: Weighting, rows: Sequence[float], mask_for: Callable[[Tensor], Tensor | None]
) -> Parts:
    """Put a control's weights beside its answer; arguments as in Weighting.weigh."""
    parts = weighting.weigh([entry for place in PLACES for entry in answer[place]], rows, mask_for)
    weighed: Parts = {}
    for place in PLACES:
        count = len(answer[place])
        weighed[place], parts = parts[:count], parts[count:]
    return weighed


def merge_parts(controls: Sequence[Parts], rule: Rule) -> Answer:
    """Merge what several controls say, block by block."""
    merged: Answer = {}
    for place in PLACES:
        merged[place] = []
        for i in range(max(len(parts[place]) for parts in controls)):
            present = [
                part for parts in controls if i < len(parts[place]) and (part := parts[place][i]) is not None
            ]
            merged[place].append(merge(present, rule) if present else None)
    return merged


def add(answer: Answer, previous: Answer | None) -> Answer:
    """Add an answer to that of the chain before it. Neither is changed: the host pops from what it gets.

    The host's adapters answer with one row for all latents; it is repeated for each.
    """
    if previous is None:
        return answer
    present = [t for one in (previous, answer) for ts in one.values() for t in ts if t is not None]
    rows = max((t.shape[0] for t in present), default=1)

    def part(residual: Tensor | None) -> Part | None:
        if residual is None:
            return None
        single = residual.shape[0] == 1 < rows
        return Part(residual.expand(rows, *residual.shape[1:]) if single else residual)

    chain = [{place: [part(t) for t in one[place]] for place in PLACES} for one in (previous, answer)]
    return merge_parts(chain, Rule())

"""What controls answer the host with, and how answers are weighed, merged and added."""

from collections.abc import Callable, Sequence

from torch import Tensor

from ..cnet_core.control.merge import Part, Rule, merge
from ..cnet_core.control.residuals import Residuals
from ..cnet_core.control.rows import placed
from ..cnet_core.control.weighting import Weighting

# What a control answers with: lists of residuals (or None) for the host's input, middle and output blocks.
Answer = dict[str, list[Tensor | None]]
# The same with each control's weights beside its residuals.
Parts = dict[str, list[Part | None]]
# From the outermost to the deepest.
PLACES = ("input", "output", "middle")


def answer_of(residuals: Residuals) -> Answer:
    """The host pops each list from its end: the encoder's additions are listed backwards.

    In a chain it adds lists from their beginnings. Those of its adapters for SDXL, which speak to the encoder
    and the middle, begin with a place more than the encoder has.
    """
    middle: list[Tensor | None] = [] if residuals.mid is None else [residuals.mid]
    beyond: list[Tensor | None] = [None] if residuals.encoder and middle else []
    return {
        "input": [*beyond, *reversed(residuals.encoder)],
        "middle": middle,
        "output": list(residuals.down),
    }


def at_rows(answer: Answer, rows: Sequence[int], total: int) -> Answer:
    """An answer for these rows as one for `total` rows, 0 in the others; itself where these are all."""
    if list(rows) == list(range(total)):
        return answer
    return {place: [None if t is None else placed(t, rows, total) for t in answer[place]] for place in PLACES}


def flat(answer: Answer) -> list[Tensor | None]:
    """All residuals in one list; `shaped` makes them an answer again."""
    return [residual for place in PLACES for residual in answer[place]]


def counts_of(answer: Answer) -> dict[str, int]:
    """How many residuals there are at each place."""
    return {place: len(answer[place]) for place in PLACES}


def shaped(residuals: Sequence[Tensor | None], counts: dict[str, int]) -> Answer:
    left = iter(residuals)
    return {place: [next(left) for _ in range(counts[place])] for place in PLACES}


def weigh(
    answer: Answer, weighting: Weighting, rows: Sequence[float], mask_for: Callable[[Tensor], Tensor | None]
) -> Parts:
    """Put a control's weights beside its answer, from the outermost block to the deepest; arguments as in
    Weighting.weigh."""
    inwards = {place: answer[place][::-1] if _backwards(answer, place) else answer[place] for place in PLACES}
    weighed = iter(weighting.weigh(flat(inwards), rows, mask_for))
    parts = {place: [next(weighed) for _ in inwards[place]] for place in PLACES}
    return {place: parts[place][::-1] if _backwards(answer, place) else parts[place] for place in PLACES}


def _backwards(answer: Answer, place: str) -> bool:
    """Whether a list begins with the deepest block: a UNet takes maps for its encoder from the list's end;
    transformers take tokens from its beginning."""
    return place == "input" and any(residual is not None and residual.ndim == 4 for residual in answer[place])


def spoken(parts: Parts) -> Answer:
    """What a control says by itself, weighed."""
    return {place: [None if part is None else part.value for part in parts[place]] for place in PLACES}


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

"""What controls answer the host with, and how answers are added and merged."""

from torch import Tensor

from ..cnet_core.control.merge import merge

# What a control answers with: lists of residuals (or None) for the host's input, middle and output blocks.
Answer = dict[str, list[Tensor | None]]
PLACES = ("input", "middle", "output")


def merge_answers(answers: list[tuple[Answer, float]], mode: str) -> Answer:
    """Merge the answers of several controls, each with its strength, block by block."""
    merged: Answer = {}
    for place in PLACES:
        count = max(len(answer[place]) for answer, _ in answers)
        merged[place] = []
        for i in range(count):
            parts = [
                (block, strength)
                for answer, strength in answers
                if i < len(answer[place]) and (block := answer[place][i]) is not None
            ]
            merged[place].append(merge(parts, mode) if parts else None)
    return merged


def add(answer: Answer, previous: Answer | None) -> Answer:
    """Add an answer to that of the chain before it. Neither is changed: the host pops from what it gets."""
    if previous is None:
        return answer
    return merge_answers([(previous, 1.0), (answer, 1.0)], "sum")

"""How several controls' residuals become one.

Every mode works block by block on tensors of one shape, each with its control's present strength; the tensors
are already multiplied by it. Laws: one control at strength 1 comes out bit for bit unchanged; sum and average
depend on the order of the controls only by rounding.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from ..errors import ControlError

Weighted = tuple[Tensor, float]


def _sum(parts: Sequence[Weighted]) -> Tensor:
    """Direct addition, as in the paper (arXiv 2302.05543, section 3.4: no extra weighting)."""
    total = parts[0][0]
    for tensor, _ in parts[1:]:
        total = total + tensor
    return total


def _average(parts: Sequence[Weighted]) -> Tensor:
    """The sum over the strengths that are present: strengths only weigh the controls against each other."""
    weight = sum(strength for _, strength in parts)
    total = _sum(parts)
    return total if weight == 1 else total / weight


MODES: dict[str, Callable[[Sequence[Weighted]], Tensor]] = {"sum": _sum, "average": _average}


def merge(parts: Sequence[Weighted], mode: str) -> Tensor:
    """One residual from those of several controls at one block.

    parts: (residual already multiplied by its strength, that strength > 0) of every active control, at least
    one; mode: a key of MODES. No tensor is changed; with one control the result may be that control's own
    tensor.
    Raises ControlError for an unknown mode and for residuals of different shapes.
    """
    if mode not in MODES:
        raise ControlError(f"merge mode {mode!r} is unknown; choose one of {', '.join(MODES)}.")
    shapes = {tuple(tensor.shape) for tensor, _ in parts}
    if len(shapes) > 1:
        raise ControlError(
            f"these controls cannot be merged: at one block their residuals have the shapes "
            f"{sorted(shapes)}. Merge only controls made for the same base model."
        )
    return MODES[mode](parts)

"""How several controls' residuals become one.

Every mode works block by block on parts of one shape. Laws: one control at strength 1 comes out bit for bit
unchanged in every mode; sum, average, normalised and strongest depend on the order of the controls only by
rounding; a part of weight 0 counts as absent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import ControlError


class Part(NamedTuple):
    """What one control says at one block.

    residual: [B,C,H,W], or [B,N,C] of a transformer; as the network gave it, never changed.
    weight: a number, or a tensor with one per row; block: the factor in it that is the weight of this block;
    mask: 0..1 over space. Weight and mask broadcast to the residual.
    """

    residual: Tensor
    weight: float | Tensor = 1.0
    mask: Tensor | None = None
    block: float = 1.0

    @property
    def value(self) -> Tensor:
        """The weighted residual; the residual itself at weight 1 without a mask."""
        value = self.residual
        if isinstance(self.weight, Tensor) or self.weight != 1:
            value = value * self.weight
        return value if self.mask is None else value * self.mask

    @property
    def presence(self) -> float | Tensor:
        """The weight at each place."""
        return self.weight if self.mask is None else self.weight * self.mask

    @property
    def speaks(self) -> float | Tensor:
        """1, or for each row whether it has a weight."""
        weight = self.weight
        return (weight != 0).to(weight.dtype) if isinstance(weight, Tensor) else float(weight != 0)


def _channels(value: Tensor) -> int:
    """The dimension of the channels: the last of tokens, the second of maps."""
    return -1 if value.ndim == 3 else 1


def _sum(parts: Sequence[Part]) -> Tensor:
    """Direct addition, as in the paper (arXiv 2302.05543, section 3.4: no extra weighting)."""
    return _added([part.value for part in parts])


def _average(parts: Sequence[Part]) -> Tensor:
    """The sum over the weights present at each place: strengths only weigh the controls against each other.

    Masks and block weights say how much is drawn, too: their own average, weighed alike, is a factor on it.
    """
    if len(parts) == 1:
        (part,) = parts
        return part._replace(weight=part.speaks * part.block).value
    present = [part.presence for part in parts]
    weight = _added(present)
    mean = _over(_sum(parts), weight)
    if all(part.mask is None and part.block == 1 for part in parts):
        return mean
    shares = [
        own * part.block if part.mask is None else own * (part.block * part.mask)
        for own, part in zip(present, parts, strict=True)
    ]
    return mean * _over(_added(shares), weight)


def _added(values: Sequence[Any]) -> Any:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def _over(value: Any, weight: float | Tensor) -> Any:
    """A quotient; where no control is present both are 0, and stay so."""
    if isinstance(weight, Tensor):
        return value / torch.where(weight > 0, weight, 1.0)
    return value if weight in (0, 1) else value / weight


def _normalised(parts: Sequence[Part]) -> Tensor:
    """The sum, scaled down so that its root mean square is at most that of the strongest contributor."""
    if len(parts) == 1:
        return parts[0].value
    values = [part.value for part in parts]
    total = _added(values)
    limit = torch.stack([_size(value) for value in values]).amax(0)
    size = _size(total)
    # Never 0 / 0: where the sum vanishes, there is nothing to scale.
    scale = torch.where(size > limit, limit / size.clamp_min(torch.finfo(size.dtype).tiny), 1.0)
    return total * scale.to(total.dtype)


def _size(value: Tensor) -> Tensor:
    """Root mean square of each row, in fp32, shaped to broadcast."""
    return value.float().pow(2).mean(dim=tuple(range(1, value.ndim)), keepdim=True).sqrt()


def _strongest(parts: Sequence[Part], softness: float) -> Tensor:
    """At each place the contributor of the largest channel norm; with softness s in shares ~ norm^(1/s)."""
    if len(parts) == 1:
        return parts[0].value
    values = [part.value for part in parts]
    channels = _channels(values[0])
    norms = torch.stack([value.float().norm(dim=channels, keepdim=True) for value in values])
    relative = norms / norms.amax(0).clamp_min(torch.finfo(norms.dtype).tiny)
    shares = relative.pow(1 / softness) if softness > 0 else (relative >= 1).float()
    shares = shares / shares.sum(0).clamp_min(torch.finfo(norms.dtype).tiny)
    return _added([value * share.to(value.dtype) for value, share in zip(values, shares, strict=True)])


def _priority(parts: Sequence[Part]) -> Tensor:
    """In order; from each later control the component that opposes an earlier one is taken away, then added.

    Only a negative projection is removed, at each place by itself: nothing that a later control says cancels
    an earlier one. Once against each is enough: the earlier ones do not oppose each other, so that what is
    added along one of them brings back no opposition to another.
    """
    earlier: list[Tensor] = []
    for part in parts:
        value = part.value
        for other in earlier:
            value = _without_opposition(value, other)
        earlier.append(value)
    return _added(earlier)


def _without_opposition(value: Tensor, other: Tensor) -> Tensor:
    channels = _channels(value)
    wide, against = value.float(), other.float()
    along = (wide * against).sum(channels, keepdim=True).clamp_max(0.0)
    square = against.pow(2).sum(channels, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return (wide - against * (along / square)).to(value.dtype)


def _regions(parts: Sequence[Part]) -> Tensor:
    """Masks as a partition of unity: where they overlap, each is divided by their sum.

    Where they do not add up to one, what is missing belongs to the picture without control, so that soft
    edges towards it stay soft.
    """
    if len(parts) == 1:
        return parts[0].value
    masks = [_covered(part) for part in parts]
    covered = _added(masks).clamp_min(1.0)
    return _sum([part._replace(mask=mask / covered) for part, mask in zip(parts, masks, strict=True)])


def _covered(part: Part) -> Tensor:
    """The mask, but 0 in the rows where the part says nothing."""
    mask = part.residual.new_ones(()) if part.mask is None else part.mask
    return mask * part.speaks if isinstance(part.weight, Tensor) else mask


MODES: dict[str, Callable[..., Tensor]] = {
    "sum": _sum,
    "average": _average,
    "normalised": _normalised,
    "strongest": _strongest,
    "priority": _priority,
    "regions": _regions,
}


@dataclass(frozen=True)
class Rule:
    """A merge mode, and how soft `strongest` chooses: 0 only the strongest, 1 in proportion to the norms.

    Raises ControlError for an unknown mode and for a softness outside 0..1.
    """

    mode: str = "sum"
    softness: float = 0.0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ControlError(f"merge mode {self.mode!r} is unknown; choose one of {', '.join(MODES)}.")
        if not 0 <= self.softness <= 1:
            raise ControlError(f"softness is {self.softness}; expected 0 (only the strongest) to 1.")


def merge(parts: Sequence[Part], rule: Rule = Rule()) -> Tensor:
    """One residual from those of several controls at one block, in order.

    parts: at least one. No tensor is changed; with one control the result may be that control's own tensor.
    Raises ControlError for residuals of different shapes.
    """
    shapes = {tuple(part.residual.shape) for part in parts}
    if len(shapes) > 1:
        raise ControlError(
            f"these controls cannot be merged: at one block their residuals have the shapes "
            f"{sorted(shapes)}. Merge only controls made for the same base model."
        )
    if rule.mode == "strongest":
        return _strongest(parts, rule.softness)
    return MODES[rule.mode](parts)

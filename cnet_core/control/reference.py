"""Reference-only: a UNet looks at another picture through its self-attention, without any network of its own.

At each step the reference, noised to the step's noise level, passes through the UNet once, and the keys and
values of its self-attentions are kept. In the picture's own pass they are put beside the picture's. The idea
is that of "reference_only" in the sd-webui-controlnet extension.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import ControlError
from .rows import index_of, pick

# Attention of q over k, v [B,N,C] within a layer that extra_options tell of, for these rows of the call.
Attend = Callable[[Tensor, Tensor, Tensor, dict[str, Any], Sequence[int]], Tensor]
# (kind of block, its number, transformer within it), as hosts name them.
Place = tuple[str, int, int]


def place_of(extra_options: Mapping[str, Any]) -> Place:
    kind, number = extra_options["block"]
    return kind, number, extra_options["block_index"]


@dataclass
class Recording:
    """An attention that keeps the keys and values [B,N,C] it was asked with, by place."""

    attend: Attend
    kept: dict[Place, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
        self.kept[place_of(extra_options)] = k, v
        return self.attend(q, k, v, extra_options, range(q.shape[0]))


@dataclass(frozen=True)
class Reading:
    """An attention over the picture's tokens and a reference's, for one call of the UNet.

    A row of weight w comes out as w * (with the reference) + (1 - w) * (without); a row of weight 0 as
    without, exactly.

    attend: what would run here otherwise; keys, values: of the reference [R,N,C]; sources: for each row of
    the call its row of the reference; weights: for each row, also as a tensor on the device; mask: from a
    layer's q to factors over its tokens [rows,N,1], or None.
    """

    attend: Attend
    keys: Tensor
    values: Tensor
    sources: Sequence[int]
    weights: Sequence[float]
    weight: Tensor
    mask: Callable[[Tensor], Tensor | None]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
        if q.shape[0] != len(self.weights):
            raise ControlError(
                f"the reference control was given {q.shape[0]} rows of tokens, expected {len(self.weights)}. "
                "Another patch of the model rearranges the tokens of its attention: remove it, or this "
                "control."
            )
        return self.over(q, k, v, extra_options, range(q.shape[0]))

    def over(
        self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any], rows: Sequence[int]
    ) -> Tensor:
        """The same for some rows of the call, which q, k and v are."""
        mask = self.mask(q)
        reading = [i for i, row in enumerate(rows) if self.weights[row] != 0]
        alone = [i for i, row in enumerate(rows) if mask is not None or self.weights[row] != 1]
        if not reading:
            return self.attend(q, k, v, extra_options, rows)
        sources = [self.sources[rows[i]] for i in reading]
        full = self.attend(
            pick(q, reading),
            torch.cat([pick(k, reading), pick(self.keys, sources)], dim=1),
            torch.cat([pick(v, reading), pick(self.values, sources)], dim=1),
            extra_options,
            [rows[i] for i in reading],
        )
        if not alone:
            return full
        plain = self.attend(
            pick(q, alone), pick(k, alone), pick(v, alone), extra_options, [rows[i] for i in alone]
        )
        weight = pick(self.weight, rows)[:, None, None]
        if mask is not None:
            weight = weight * pick(mask, rows)
        mixed = q.new_zeros(q.shape[0], *full.shape[1:])
        _add(mixed, reading, full * pick(weight, reading).to(full.dtype))
        _add(mixed, alone, plain * (1 - pick(weight, alone)).to(plain.dtype))
        return mixed


def _add(total: Tensor, rows: Sequence[int], value: Tensor) -> None:
    total[index_of(rows, total.device)] += value

"""Choosing rows of a batch without making the host wait for its device.

A list or a CPU tensor as an index is copied to the device, and torch waits for such a copy to end.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def constants(values: Sequence[float], device: torch.device, dtype: torch.dtype) -> Tensor:
    """A short list as a tensor [N], filled on the device."""
    return torch.stack([torch.full((), value, device=device, dtype=dtype) for value in values])


def index_of(rows: Sequence[int], device: torch.device) -> slice | Tensor:
    """An index of these rows, at least one: where they lie side by side, a slice."""
    if all(row == rows[0] + i for i, row in enumerate(rows)):
        return slice(rows[0], rows[0] + len(rows))
    return constants(rows, device, torch.long)


def pick(value: Tensor, rows: Sequence[int]) -> Tensor:
    """These rows [N,...] of a tensor; a view of it where they lie side by side, or are all the same one."""
    if len(set(rows)) == 1:
        return value[rows[0] : rows[0] + 1].expand(len(rows), *value.shape[1:])
    return value[index_of(rows, value.device)]


def placed(value: Tensor, rows: Sequence[int], total: int) -> Tensor:
    """A tensor [N,...] at these rows of one of `total` rows, 0 in the others."""
    full = value.new_zeros(total, *value.shape[1:])
    full[index_of(rows, full.device)] = value
    return full


def first_alike(value: Tensor, chunks: int) -> list[int]:
    """For each row of a batch [chunks*B,...] the first of its chunk, where all of a chunk are equal; else the
    row itself. Waits for the device once, where there is something to compare."""
    total = value.shape[0]
    size = total // chunks
    if size == 1:
        return list(range(total))
    parts = value.unflatten(0, (chunks, size))
    same = (parts == parts[:, :1]).flatten(1).all(1).tolist()
    return [row - row % size if same[row // size] else row for row in range(total)]

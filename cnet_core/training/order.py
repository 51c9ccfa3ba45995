"""Which pairs make up which step: a pure function of the seed, so that a resumed training sees the same."""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor


def batches_of_round(buckets: Sequence[Hashable], batch: int, seed: int, number: int) -> Tensor:
    """Batches [N,batch] of N examples, each of one bucket; seed and the round's number fix all.

    Every example comes `batch` times, so that none counts more than another, however small its bucket is. A
    bucket's passes through its examples follow one another without a break, and its batches are spread over
    the round. buckets: of each example.
    """
    generator = torch.Generator().manual_seed(mixed(seed, number))
    members: dict[Hashable, list[int]] = {}
    for index, bucket in enumerate(buckets):
        members.setdefault(bucket, []).append(index)
    made, times = [], []
    for own in members.values():
        passes = torch.cat([torch.randperm(len(own), generator=generator) for _ in range(batch)])
        made.append(torch.tensor(own)[passes].view(-1, batch))
        times.append((torch.arange(len(own)) + torch.rand(len(own), generator=generator)) / len(own))
    return torch.cat(made)[torch.cat(times).argsort(stable=True)]


def mixed(*numbers: int) -> int:
    """A seed of 63 bits from several numbers, other for other numbers or another order (splitmix64)."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return state >> 1

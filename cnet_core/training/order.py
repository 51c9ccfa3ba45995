"""Which pairs make up which step: a pure function of the seed, so that a resumed training sees the same."""

from collections.abc import Hashable, Sequence

import torch


def batches_of_epoch(buckets: Sequence[Hashable], batch: int, seed: int, epoch: int) -> list[list[int]]:
    """Every example once, in batches of one bucket each; all in an order that seed and epoch fix.

    buckets: of each example. A bucket's last batch is filled up from that bucket's beginning, so that all
    batches are of one size: a bucket of fewer examples than `batch` repeats them.
    """
    generator = torch.Generator().manual_seed(mixed(seed, epoch))
    members: dict[Hashable, list[int]] = {}
    for index, bucket in enumerate(buckets):
        members.setdefault(bucket, []).append(index)
    made = []
    for own in members.values():
        shuffled = [own[i] for i in torch.randperm(len(own), generator=generator).tolist()]
        count = -(-len(own) // batch) * batch
        filled = [shuffled[i % len(own)] for i in range(count)]
        made += [filled[i : i + batch] for i in range(0, count, batch)]
    return [made[i] for i in torch.randperm(len(made), generator=generator).tolist()]


def mixed(*numbers: int) -> int:
    """A seed of 63 bits from several numbers, other for other numbers or another order (splitmix64)."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return state >> 1

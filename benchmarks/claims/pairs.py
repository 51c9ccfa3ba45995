"""Pairs of a picture and its depth map, drawn once and kept: the data of the trainings."""

import json
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from cnet_core.checkpoints.load import write_tensors
from cnet_core.checkpoints.read import read_state_dict
from cnet_core.training.batches import Batch
from cnet_core.training.order import mixed
from demo.train import FIRST_TRAINING_SEED, HINTS

from .lab import Lab, scenes_of

SHARD = 1000


def batches_of_epoch(count: int, rows: int, seed: int) -> list[list[int]]:
    """Every one of `count` scenes, the last batch filled up from the first."""
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(count, generator=generator).tolist()
    made = [[shuffled[(i + row) % count] for row in range(rows)] for i in range(0, count, rows)]
    return [made[i] for i in torch.randperm(len(made), generator=generator).tolist()]


class Pairs:
    """The first `count` training scenes, as a Source of cnet_core.training. A larger set holds a smaller one.

    count: less than a thousand, or thousands.
    Latents and hints are kept in the lab's cache, a file for a thousand scenes, and drawn when first needed.
    """

    hint_channels = 3

    def __init__(self, lab: Lab, count: int):
        self.lab, self.count = lab, count
        self.data_hash = f"{count} scenes of {lab.budget.size} pixels"
        self.facts = {"hint_kind": "depth"}
        # At the most some 200 MB.
        self.shard = lru_cache(maxsize=None)(self.read_or_draw)
        self.order = lru_cache(maxsize=2)(batches_of_epoch)

    def __len__(self) -> int:
        return self.count

    def read_or_draw(self, number: int) -> tuple[Tensor, Tensor, list[str]]:
        """Latents fp32 [N,4,h,w], hints uint8 [N,8h,8w] and captions of some scenes."""
        size = self.lab.budget.size
        first = FIRST_TRAINING_SEED + number * SHARD
        count = min(SHARD, self.count)
        name = f"{first}-{count}-{self.lab.base_hash[:8]}.safetensors"
        path = self.lab.cache / f"pairs-{size}" / name
        if not path.exists():
            scenes = scenes_of(first, count, size)
            latents = torch.cat([self.lab.latents(scenes[i : i + 50]) for i in range(0, count, 50)])
            hints = torch.from_numpy(np.stack([HINTS["depth"](scene)[..., 0] for scene in scenes]))
            captions = json.dumps([scene.caption for scene in scenes])
            write_tensors(path, {"latents": latents, "hints": hints}, {"captions": captions})
        file = read_state_dict(path)
        return file.tensors["latents"], file.tensors["hints"], json.loads(file.metadata["captions"])

    def picked(self, index: int, rows: int, seed: int) -> list[int]:
        """The scenes of a batch: the files in mixed order, and each file's scenes.

        So a short training on many pairs needs few files. Every scene comes once in an epoch.
        """
        size = min(SHARD, self.count)
        epoch, place = divmod(index, len(self) // size * -(-size // rows))
        turn, place = divmod(place, -(-size // rows))
        generator = torch.Generator().manual_seed(mixed(seed, epoch, 6))
        number = int(torch.randperm(self.count // size, generator=generator)[turn])
        batches = self.order(size, rows, mixed(mixed(seed, number), epoch))
        return [number * size + one for one in batches[place]]

    def batch(self, index: int, rows: int, seed: int, drop: float) -> Batch:
        picked = self.picked(index, rows, seed)
        found = []
        for number in picked:
            latents, hints, captions = self.shard(number // SHARD)
            found.append((latents[number % SHARD], hints[number % SHARD], captions[number % SHARD]))
        generator = torch.Generator().manual_seed(mixed(seed, index, 5))
        dropped = (torch.rand(rows, generator=generator) < drop).tolist()
        kept = ["" if out else caption for out, (_, _, caption) in zip(dropped, found, strict=True)]
        hints = torch.stack([hint for _, hint, _ in found])[:, None].expand(-1, 3, -1, -1)
        names = tuple(f"scene {FIRST_TRAINING_SEED + number}" for number in picked)
        latents = torch.stack([one for one, _, _ in found])
        return Batch(latents, hints, self.lab.context(kept), None, names, tuple(dropped))

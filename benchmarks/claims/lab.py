"""What all claims share: the mini model, its budget, pairs of the scenes, and how pictures are scored."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnet_core.fidelity import limb_iou
from cnet_core.training.shards import checksum
from demo.make import HERE
from demo.report import MEASURES
from demo.sample import MiniSD
from demo.scenes import HAZE, PALETTE, Scene, draw_scene


@dataclass(frozen=True)
class Budget:
    """How much is computed. The defaults are what the README's figures were made with.

    scenes: held-out ones for each seed where nothing is trained, drawn at the mini model's own size.
    sampling: steps of the sampler. size, batch, rate, steps: of the trainings, in pixels, pairs, of AdamW.
    every: steps between measurements; dense: in the training whose convergence is looked at. probes: scenes
    drawn then, in probe_sampling steps; finals: at the end. stds: of gaussian convolutions. pairs: amounts of
    data, with data_batch and data_steps for the trainings that compare them, in which the most are all seen.
    """

    scenes: int = 12
    sampling: int = 12
    size: int = 64
    batch: int = 8
    rate: float = 6e-4
    steps: int = 240
    every: int = 40
    dense: int = 20
    probes: int = 24
    probe_sampling: int = 8
    finals: int = 48
    pairs: tuple[int, ...] = (1_000, 10_000, 40_000)
    data_batch: int = 64
    data_steps: int = 640
    stds: tuple[float, ...] = (0.01, 0.03, 0.1)


class Lab:
    """The mini model under a budget; cache: a folder for what may be used again."""

    def __init__(self, budget: Budget, cache: Path):
        self.budget, self.cache = budget, cache

    @cached_property
    def mini(self) -> MiniSD:
        return MiniSD.load(HERE / "weights")

    @cached_property
    def base_hash(self) -> str:
        return self.hash_now()

    def hash_now(self) -> str:
        """SHA-256 of the weights that no training may change, as they are in memory."""
        mini = self.mini
        parts = {"unet": mini.unet, "text": mini.text, "autoencoder": mini.autoencoder}
        return checksum({f"{n}.{k}": t for n, part in parts.items() for k, t in part.state_dict().items()})

    @cached_property
    def weights_hash(self) -> str:
        """Of the ControlNets as well."""
        controls = {k: checksum(net.state_dict()) for k, net in sorted(self.mini.controls.items())}
        return hashlib.sha256(json.dumps([self.base_hash, controls]).encode()).hexdigest()

    def settings(self, *names: str) -> dict[str, Any]:
        """What a cell depends on: the weights, and these of the budget."""
        return {"weights": self.weights_hash, **{name: asdict(self.budget)[name] for name in names}}

    def context(self, captions: Sequence[str]) -> Tensor:
        with torch.no_grad():
            return self.mini.text(self.mini.text.tokenize(list(captions)))

    def latents(self, scenes: Sequence[Scene]) -> Tensor:
        """Of the scenes' pictures, as the UNet sees them, [B,4,h,w]."""
        images = torch.from_numpy(np.stack([scene.image for scene in scenes])).float() / 255
        return self.encode(images)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Latents of pictures [B,H,W,3] in 0..1."""
        return self.mini.autoencoder.encode(images.movedim(-1, 1) * 2 - 1) * self.mini.latent_scale


def scenes_of(first: int, count: int, size: int) -> list[Scene]:
    return [draw_scene(seed, size) for seed in range(first, first + count)]


def scores(kind: str, images: Tensor, scenes: Sequence[Scene]) -> list[float]:
    """How well each picture [B,H,W,3] follows its own scene."""
    measure: Callable[[np.ndarray, Scene], float] = {**MEASURES, "figure": any_figure}[kind]
    return [float(measure(image, scene)) for image, scene in zip(images.numpy(), scenes, strict=True)]


def any_figure(image: np.ndarray, scene: Scene) -> float:
    """As the measure of poses, for a figure of whatever colour: where prompts do not name the scene's own."""
    colours = list(PALETTE.values())
    return max(limb_iou(image, scene.figure_mask, colour, colours, HAZE) for colour in colours)

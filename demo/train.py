"""The trainings of the mini checkpoints: autoencoder, base with its text encoder, ControlNets."""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from cnet_core.networks.autoencoder import TinyAutoencoder
from cnet_core.networks.controlnet import ControlNet
from cnet_core.networks.text_encoder import WordEncoder
from cnet_core.networks.unet import UNet
from cnet_core.training.diffusion import alpha_sigma
from demo.scenes import SIZE, Scene, draw_scene

HINTS: dict[str, Callable[[Scene], np.ndarray]] = {
    "pose": lambda scene: scene.pose,
    "depth": lambda scene: np.repeat(np.rint(255 * scene.depth)[..., None], 3, 2).astype(np.uint8),
    "canny": lambda scene: np.repeat(scene.edges[..., None], 3, 2),
}
# Scenes by seed: from 0 on those of the report, from here on those to choose settings on, then training's.
FIRST_VALIDATION_SEED = 10_000
FIRST_TRAINING_SEED = 1_000_000


@dataclass(frozen=True)
class Plan:
    """One training: its length, and the peak learning rate of its warm-up and cosine decay."""

    steps: int
    batch: int
    rate: float
    seed: int
    warm_up: int = 100

    def rate_at(self, step: int) -> float:
        if step < self.warm_up:
            return self.rate * (step + 1) / self.warm_up
        done = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


class Scenes(IterableDataset):
    """Endless batches of fresh scenes, deterministic from `start` on: "pictures" and "hints" uint8 [B,H,W,3],
    "captions"."""

    def __init__(self, batch: int, start: int, hint: str | None = None, size: int = SIZE):
        self.batch, self.start, self.hint, self.size = batch, start, hint, size

    def __iter__(self) -> Iterator[dict]:
        # Batches are read from the workers in turn, so their order does not depend on how many there are.
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        # One thread a worker: more would fight the training for the cores.
        if info is not None:
            cv2.setNumThreads(1)
        for i in itertools.count(first, step):
            seed = FIRST_TRAINING_SEED + self.start + i * self.batch
            scenes = [draw_scene(seed + k, self.size) for k in range(self.batch)]
            drawn = {"pictures": torch.from_numpy(np.stack([scene.image for scene in scenes]))}
            if self.hint is not None:
                drawn["hints"] = torch.from_numpy(np.stack([HINTS[self.hint](scene) for scene in scenes]))
            yield {"captions": [scene.caption for scene in scenes], **drawn}


def batches(
    scenes: Scenes,
    workers: int = 0,
    device: str = "cpu",
    encode: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[dict]:
    """Batches on a device: "images" [B,3,H,W] in -1..1, "hints" in 0..1, "captions".

    Each is given twice (the training noises it anew), so that drawing keeps pace with it. workers: processes
    that draw beside the training, or 0. encode: from images to "latents", which are then given instead.
    """
    # Not forked: what the training's threads hold would stay locked there.
    loader: DataLoader[dict] = DataLoader(
        scenes,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        multiprocessing_context="spawn" if workers else None,
    )
    for drawn in loader:
        batch = {"captions": drawn["captions"]}
        images = to_images(drawn["pictures"].to(device)) * 2 - 1
        if encode is None:
            batch["images"] = images
        else:
            with torch.no_grad():
                batch["latents"] = encode(images)
        if "hints" in drawn:
            batch["hints"] = to_images(drawn["hints"].to(device))
        yield batch
        yield batch


def to_images(pixels: Tensor) -> Tensor:
    """uint8 [B,H,W,C] to float [B,C,H,W] in 0..1, channels last in memory as they were."""
    return pixels.permute(0, 3, 1, 2).float() / 255


def train(
    name: str,
    modules: dict[str, nn.Module],
    plan: Plan,
    data: Callable[[int], Iterator[dict]],
    loss_of: Callable[[dict, torch.Generator], Tensor],
    state_file: Path,
    decay: float = 0.998,
) -> None:
    """Run one training, resumable from `state_file`; the modules end up with their averaged weights.

    data: batches from a number of scenes on. The averaged weights are an exponential moving average of the
    given decay, which starts as a plain mean.
    """
    module = nn.ModuleDict(modules)
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=plan.rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    average = [p.detach().clone() for p in parameters]
    first = 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True, map_location=parameters[0].device)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        average, first = state["average"], state["step"]
    stream, started, losses = data(first * plan.batch // 2), time.monotonic(), []
    for step in range(first, plan.steps):
        generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = plan.rate_at(step)
        loss = loss_of(next(stream), generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        torch._foreach_lerp_(
            average, [p.detach() for p in parameters], 1 - min(decay, (1 + step) / (10 + step))
        )
        losses.append(loss.detach())
        if (step + 1) % 100 == 0 or step + 1 == plan.steps:
            pace = (time.monotonic() - started) / (step + 1 - first)
            left = pace * (plan.steps - step - 1) / 60
            mean = float(torch.stack(losses).mean())
            print(
                f"{name}: step {step + 1}/{plan.steps} loss {mean:.4f} {pace:.2f} s/step, {left:.0f} min",
                flush=True,
            )
            losses = []
        if (step + 1) % 500 == 0 or step + 1 == plan.steps:
            torch.save(
                {
                    "module": module.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "average": average,
                    "step": step + 1,
                },
                state_file.with_suffix(".part"),
            )
            state_file.with_suffix(".part").replace(state_file)
    with torch.no_grad():
        for parameter, averaged in zip(parameters, average, strict=True):
            parameter.copy_(averaged)


def autoencoder_loss(autoencoder: TinyAutoencoder) -> Callable[[dict, torch.Generator], Tensor]:
    def loss_of(batch: dict, generator: torch.Generator) -> Tensor:
        # Quarters of the pictures: the network is convolutional, and small tensors stay in the cache.
        images = rearrange(batch["images"], "b c (y h) (x w) -> (b y x) c h w", y=2, x=2)
        b, _, h, w = images.shape
        noise = torch.randn(b, autoencoder.config.latent_channels, h // 8, w // 8, generator=generator)
        return autoencoder.loss(images.contiguous(memory_format=torch.channels_last), noise.to(images.device))

    return loss_of


def diffusion_loss(
    unet: UNet,
    text: WordEncoder,
    drop: float,
    control: ControlNet | None = None,
) -> Callable[[dict, torch.Generator], Tensor]:
    """Mean squared error of the v-prediction (arXiv 2202.00512) with captions dropped at the rate `drop`."""

    def loss_of(batch: dict, generator: torch.Generator) -> Tensor:
        clean = batch["latents"]
        b, device = clean.shape[0], clean.device
        dropped = torch.rand(b, generator=generator) < drop
        captions = ["" if d else c for c, d in zip(batch["captions"], dropped.tolist(), strict=True)]
        # Drawn on the CPU, so that they are the same for all devices.
        timesteps = torch.randint(0, 1000, (b,), generator=generator).to(device)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        alpha, sigma = alpha_sigma(timesteps)
        noisy = (alpha * clean + sigma * noise).contiguous(memory_format=torch.channels_last)
        context = text(text.tokenize(captions).to(device))
        residuals = None
        if control is not None:
            residuals = control(noisy, control.encode_hint(batch["hints"]), timesteps, context)
        predicted = unet(noisy, timesteps, context, residuals=residuals)
        return F.mse_loss(predicted, alpha * noise - sigma * clean)

    return loss_of

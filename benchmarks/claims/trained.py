"""Claims that need trainings: other networks than zero convolutions, less data, and how it converges.

All are of the depth control, because it is learned in the fewest steps, and on scenes a quarter as large as
the mini model's own, which its base draws too, less well. Learning rate and batch are the same for all.
"""

import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from cnet_core.networks.controlnet import ControlNet
from cnet_core.training.batches import Batch
from cnet_core.training.config import Settings
from cnet_core.training.learner import Learner
from cnet_core.training.step import Objective, draw, losses
from demo.make import HINT_WIDTHS
from demo.report import hint_of
from demo.train import FIRST_VALIDATION_SEED

from .lab import Budget, Lab, scenes_of, scores
from .pairs import Pairs

KINDS = ("depth", "pose")
# The training of a network with zero convolutions, which the others are compared with.
ZERO = "zero-convolutions"
# True pictures that each drawn one is compared with: of other scenes than those that are drawn.
REFERENCES = 4


@dataclass(frozen=True)
class Arm:
    """One training: of how many pairs, in steps of a batch, measured every so many steps."""

    pairs: int
    batch: int
    steps: int
    every: int


def arms(budget: Budget) -> dict[str, Arm]:
    """The trainings by name: those of networks, and those of amounts of data."""
    most, last = max(budget.pairs), budget.data_steps
    short = Arm(most, budget.batch, budget.steps, budget.every)
    made = {ZERO: replace(short, every=budget.dense)}
    made |= {name: short for name in ("lite", *(f"gaussian-{std:g}" for std in budget.stds))}
    return made | {
        f"data-{count}": Arm(count, budget.data_batch, last, max(1, last // 4)) for count in budget.pairs
    }


def network(lab: Lab, arm: str, seed: int) -> ControlNet:
    """A new control network: with zero convolutions, with gaussian ones in their place, or the lite one."""
    generator = torch.Generator().manual_seed(seed)
    net = ControlNet.from_unet(lab.mini.unet, 3, HINT_WIDTHS, generator)
    name, _, value = arm.partition("-")
    if name == "gaussian":
        for join in joins(net):
            nn.init.normal_(join.weight, std=float(value), generator=generator)
    if name == "lite":
        lighten(net, generator)
    return net.train().requires_grad_(True)


def joins(net: ControlNet) -> list[nn.Conv2d]:
    """The convolutions that begin at zero: those to the skips and the middle, and the hint's last one."""
    *_, last = net.input_hint_block
    found = [*(join for (join,) in map(nn.Module.children, net.zero_convs)), *net.middle_block_out, last]
    return [join for join in found if isinstance(join, nn.Conv2d)]


def lighten(net: ControlNet, generator: torch.Generator) -> None:
    """ControlNet-lite (section 4.2): one convolution in place of each copied block, and nothing copied.

    It reads neither text nor timestep. Followed by SiLU, as else all of it would be one linear map.
    """
    channels = net.config.residual_channels
    strides = [
        b // a for a, b in zip(net.config.residual_scales, net.config.residual_scales[1:], strict=False)
    ]

    def one(cin: int, cout: int, stride: int) -> nn.ModuleList:
        conv = nn.Conv2d(cin, cout, 3, stride, 1)
        bound = conv.weight[0].numel() ** -0.5
        for parameter in conv.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
        return nn.ModuleList([conv, nn.SiLU()])

    blocks = [one(*row) for row in zip(channels, channels[1:], strides, strict=False)]
    first = net.input_blocks[0]
    net.input_blocks = nn.ModuleList([first, *blocks[:-1]])
    net.middle_block = blocks[-1]
    net.time_embed = nn.Sequential(nn.Linear(net.config.model_channels, 1)).requires_grad_(False)


class Examiner:
    """Draws and measures held-out scenes, the same from the same noise whatever is examined."""

    def __init__(self, lab: Lab):
        self.lab, budget = lab, lab.budget
        self.scenes = scenes_of(0, budget.finals, budget.size)
        self.hints = hint_of("depth", self.scenes)
        self.latents = lab.latents(self.scenes)

    def drawn(self, net: ControlNet | None, count: int, empty: bool = False) -> Tensor:
        """Pictures of the first scenes, in batches of one size, so that more of them are the same ones."""
        budget, size = self.lab.budget, self.lab.budget.probes
        mini = replace(self.lab.mini, controls={} if net is None else {"depth": net})
        made = []
        for i in range(0, count, size):
            captions = ["" if empty else scene.caption for scene in self.scenes[i : i + size]]
            hints = {} if net is None else {"depth": self.hints[i : i + size]}
            made.append(mini.draw(captions, hints, budget.size, i, budget.probe_sampling))
        return torch.cat(made)

    def probe(self, learner: Learner) -> dict[str, Any]:
        """Scores of the first few scenes, and the loss of each."""
        count = self.lab.budget.probes
        images = self.drawn(learner.net, count)
        found: dict[str, Any] = {kind: scores(kind, images, self.scenes[:count]) for kind in KINDS}
        return {"step": learner.step, **found, "loss": self.losses(learner, count)}

    @torch.no_grad()
    def losses(self, learner: Learner, count: int) -> list[float]:
        captions = [scene.caption for scene in self.scenes[:count]]
        hints = self.hints[:count].movedim(-1, 1).contiguous()
        batch = Batch(self.latents[:count], hints, self.lab.context(captions), None, (), ())
        found = []
        for seed in range(2):
            noise, timesteps = draw(batch, torch.Generator().manual_seed(seed))
            args = (self.lab.mini.unet, learner.control, batch, noise, timesteps)
            found.append(losses(*args, Objective("v")))
        return torch.stack(found).mean(dim=0).tolist()

    def final(self, net: ControlNet | None) -> dict[str, Any]:
        """Scores of all scenes, with their prompts and without any, and the pictures' features."""
        images = self.drawn(net, len(self.scenes))
        bare = self.drawn(net, len(self.scenes), empty=True)
        found: dict[str, Any] = {kind: scores(kind, images, self.scenes) for kind in KINDS}
        empty = {f"{kind}, no prompt": scores(kind, bare, self.scenes) for kind in ("depth", "figure")}
        return {**found, **empty, "features": features(self.lab, images)}


def features(lab: Lab, images: Tensor) -> list[list[float]]:
    """Eight numbers of each picture: mean and standard deviation of each channel of its latents."""
    latents = lab.encode(images)
    return torch.cat([latents.mean(dim=(2, 3)), latents.std(dim=(2, 3))], dim=1).tolist()


def bare(lab: Lab) -> dict[str, Any]:
    """What the base draws without control, and the true pictures through the autoencoder."""
    examiner = Examiner(lab)
    true = lab.mini.decode(examiner.latents / lab.mini.latent_scale).detach()
    found: dict[str, Any] = {kind: scores(kind, true, examiner.scenes) for kind in KINDS}
    others = lab.latents(scenes_of(FIRST_VALIDATION_SEED, REFERENCES * lab.budget.finals, lab.budget.size))
    return {
        "base": examiner.final(None),
        "ceiling": {**found, "features": features(lab, true)},
        "true": features(lab, lab.mini.decode(others / lab.mini.latent_scale).detach()),
    }


def train(lab: Lab, arm: str, seed: int) -> dict[str, Any]:
    """One training, measured as it goes, and at its end."""
    plan = arms(lab.budget)[arm]
    settings = Settings(
        steps=plan.steps,
        batch=plan.batch,
        accumulation=1,
        rate=lab.budget.rate,
        warm_up=20,
        prediction="v",
        precision="fp32",
        seed=seed,
    )
    learner = Learner(lab.mini.unet, network(lab, arm, seed), settings)
    source, examiner = Pairs(lab, plan.pairs), Examiner(lab)
    curve, spent = [examiner.probe(learner)], 0.0
    while learner.step < plan.steps:
        started = time.process_time()
        learner.advance(source)
        spent += time.process_time() - started
        if learner.step % plan.every == 0 or learner.step == plan.steps:
            curve.append(examiner.probe(learner))
    return {
        "curve": curve,
        "final": examiner.final(learner.net),
        "base_unharmed": lab.hash_now() == lab.base_hash,
        "parameters": sum(p.numel() for p in learner.weights),
        "training_cpu_seconds": spent,
    }

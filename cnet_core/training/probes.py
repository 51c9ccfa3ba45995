"""Pictures drawn while a training runs, always from the same noise: does the network follow its hints yet?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..fidelity import canny_edges, edge_f1
from ..networks.unet import UNet
from .batches import Batch, Source
from .config import Settings
from .diffusion import TIMESTEPS, alpha_sigma
from .order import mixed
from .step import Control, moved, predict

STEPS, GUIDANCE = 12, 4.0

# From a drawn picture, its hint and the true picture, each float [H,W,3] in 0..1, to how well it follows.
Measure = Callable[[np.ndarray, np.ndarray, np.ndarray], float]


def follows_lines(drawn: np.ndarray, hint: np.ndarray, true: np.ndarray) -> float:
    """F1 of the drawn picture's edges against the hint's lines."""
    return edge_f1(drawn, hint.max(axis=2))


def follows_outlines(drawn: np.ndarray, hint: np.ndarray, true: np.ndarray) -> float:
    """F1 of the drawn picture's edges against the true picture's: of the outlines, whatever the hint is."""
    return edge_f1(drawn, canny_edges(true))


def measure_for(hint_kind: str) -> Measure:
    return follows_lines if hint_kind == "lines" else follows_outlines


@dataclass(frozen=True, eq=False)
class Probe:
    """pictures, hints: each [H,W,3] in 0..1; fidelity: mean over the pictures, 0..1."""

    pictures: Sequence[Tensor]
    hints: Sequence[Tensor]
    fidelity: float

    def sheet(self) -> Tensor:
        """The hints in one row, the pictures below them, [1,2H,B*W,3], in fields of the largest's sides."""
        height, width = (max(picture.shape[axis] for picture in self.pictures) for axis in (0, 1))

        def row(images: Sequence[Tensor]) -> Tensor:
            sides = [(width - image.shape[1], height - len(image)) for image in images]
            padded = [
                F.pad(image, (0, 0, 0, right, 0, below), value=1.0)
                for image, (right, below) in zip(images, sides, strict=True)
            ]
            return torch.cat(padded, dim=1)

        return torch.cat([row(self.hints), row(self.pictures)])[None]


class Prober:
    """Draws the same few examples of the data whenever it is asked, and measures what it drew.

    decode: from latents, scaled as the UNet's, to pictures [B,H,W,3] in 0..1. measure: see Measure; by
    default the one for the data's hint kind.
    """

    def __init__(
        self,
        base: UNet,
        source: Source,
        settings: Settings,
        decode: Callable[[Tensor], Tensor],
        measure: Measure | None = None,
    ):
        self.base, self.settings, self.decode = base, settings, decode
        self.measure = measure or measure_for(source.facts.get("hint_kind", ""))
        # One by one, for they may be of several sizes; so the first batches are of different examples.
        batches = [
            [source.batch(i, 1, settings.seed, drop) for drop in (0.0, 1.0)]
            for i in range(min(settings.probes, len(source)))
        ]
        self.examples = [(cond, uncond, self.decode(cond.latents)) for cond, uncond in batches]

    @torch.no_grad()
    def draw(self, control: Control) -> Probe:
        """Sampled by DDIM (arXiv 2010.02502) without noise, with guidance."""
        device = next(self.base.parameters()).device
        generator = torch.Generator().manual_seed(mixed(self.settings.seed, 3))
        times = torch.linspace(TIMESTEPS - 1, 0, STEPS).round().long().tolist()
        pictures, hints, found = [], [], []
        for *both, true in self.examples:
            cond, uncond = (moved(batch, device) for batch in both)
            x = torch.randn(cond.latents.shape, generator=generator).to(device)
            for time, later in zip(times, [*times[1:], None], strict=True):
                clean, noise = self._guided(control, x, cond, uncond, time)
                if later is None:
                    x = clean
                else:
                    alpha, sigma = alpha_sigma(torch.tensor([later], device=device))
                    x = alpha * clean + sigma * noise
            scale = 255 if cond.hints.dtype == torch.uint8 else 1
            hint = cond.hints[0].float().div(scale).cpu().movedim(0, -1)
            pictures.append(self.decode(x)[0].float().cpu())
            hints.append(hint.expand(*hint.shape[:2], 3))
            row = (pictures[-1], hints[-1], true[0].float().cpu())
            found.append(self.measure(*(image.numpy() for image in row)))
        return Probe(pictures, hints, float(np.mean(found)))

    def _guided(
        self, control: Control, x: Tensor, cond: Batch, uncond: Batch, time: int
    ) -> tuple[Tensor, Tensor]:
        """(clean latents, noise) that guided predictions at a timestep stand for."""
        timesteps = torch.full((len(x),), time, device=x.device)
        wanted, empty = (
            predict(self.base, control, x, batch, timesteps, self.settings.precision)
            for batch in (cond, uncond)
        )
        said = empty + GUIDANCE * (wanted - empty)
        alpha, sigma = alpha_sigma(timesteps)
        if self.settings.prediction == "v":
            return alpha * x - sigma * said, sigma * x + alpha * said
        return (x - sigma * said) / alpha, said

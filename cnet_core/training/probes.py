"""Pictures drawn while a training runs, always from the same noise: does the network follow its hints yet?"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
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
    """pictures, hints: [B,H,W,3] in 0..1; fidelity: mean over the pictures, 0..1."""

    pictures: Tensor
    hints: Tensor
    fidelity: float

    def sheet(self) -> Tensor:
        """The hints in one row, the pictures below them: [1,2H,B*W,3]."""
        rows = [torch.cat(list(images), dim=1) for images in (self.hints, self.pictures)]
        return torch.cat(rows)[None]


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
        rows, seed = min(settings.probes, len(source)), settings.seed
        self.cond, self.uncond = (source.batch(0, rows, seed, drop) for drop in (0.0, 1.0))
        self.true = self.decode(self.cond.latents)

    @torch.no_grad()
    def draw(self, control: Control) -> Probe:
        """Sampled by DDIM (arXiv 2010.02502) without noise, with guidance."""
        device = next(self.base.parameters()).device
        cond, uncond = moved(self.cond, device), moved(self.uncond, device)
        generator = torch.Generator().manual_seed(mixed(self.settings.seed, 3))
        x = torch.randn(cond.latents.shape, generator=generator).to(device)
        times = torch.linspace(TIMESTEPS - 1, 0, STEPS).round().long().tolist()
        for time, later in zip(times, [*times[1:], None], strict=True):
            clean, noise = self._guided(control, x, cond, uncond, time)
            if later is None:
                x = clean
            else:
                alpha, sigma = alpha_sigma(torch.tensor([later], device=device))
                x = alpha * clean + sigma * noise
        pictures = self.decode(x).float().cpu()
        hints = cond.hints.float().div(255 if cond.hints.dtype == torch.uint8 else 1).cpu().movedim(1, -1)
        hints = hints.expand(*hints.shape[:3], 3)
        rows = zip(pictures.numpy(), hints.numpy(), self.true.float().cpu().numpy(), strict=True)
        return Probe(pictures, hints, float(np.mean([self.measure(*row) for row in rows])))

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

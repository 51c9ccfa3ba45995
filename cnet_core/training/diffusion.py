"""What the base was trained to undo: Stable Diffusion's noise, its targets, and how timesteps are weighed."""

from typing import Literal

import torch
from torch import Tensor

Prediction = Literal["eps", "v"]
TIMESTEPS = 1000


def alpha_sigma(timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """Signal and noise scales, fp32 [B,1,1,1], at timesteps, int64 [B] in 0..999.

    The schedule of all Stable Diffusion models: betas whose roots rise evenly from 0.00085 to 0.012.
    """
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    # Read on the device of the timesteps: the other way round, the host would wait for it.
    table = torch.cumprod(1 - betas, 0).float().to(timesteps.device, non_blocking=True)
    kept = table[timesteps][:, None, None, None]
    return kept.sqrt(), (1 - kept).sqrt()


def noised(latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """x_t of latents [B,C,h,w]: arXiv 2006.11239, equation 4."""
    alpha, sigma = alpha_sigma(timesteps)
    return alpha * latents + sigma * noise


def target(latents: Tensor, noise: Tensor, timesteps: Tensor, prediction: Prediction) -> Tensor:
    """What the base should say of x_t: the noise, or v (arXiv 2202.00512, section 4)."""
    if prediction == "eps":
        return noise
    alpha, sigma = alpha_sigma(timesteps)
    return alpha * noise - sigma * latents


def min_snr_weights(timesteps: Tensor, prediction: Prediction, gamma: float) -> Tensor:
    """Weights [B] of the losses that keep the easy timesteps of little noise from ruling the others.

    arXiv 2303.09556: min(SNR, gamma) for a prediction of the latents, so for eps divided by SNR and for v by
    SNR + 1, since their squared errors are as many times larger.
    """
    alpha, sigma = alpha_sigma(timesteps)
    snr = ((alpha / sigma) ** 2)[:, 0, 0, 0]
    return snr.clamp(max=gamma) / (snr if prediction == "eps" else snr + 1)

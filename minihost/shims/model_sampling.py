"""`comfy.model_sampling`: noise levels (sigma), timesteps, and what the network's output means.

Notation of Karras et al. (arXiv 2206.00364): the sampler's x is data + sigma * noise; the network of a
discrete (DDPM) model takes x / sqrt(sigma^2 + 1) and one of 1000 timesteps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def betas(settings: dict[str, Any]) -> Tensor:
    """Noise variances [timesteps] of the forward process in float64.

    "linear" is Stable Diffusion's, linear in the square root (LDM, arXiv 2112.10752); "sqrt_linear" is
    plainly linear.
    """
    first, last = settings.get("linear_start", 0.00085), settings.get("linear_end", 0.012)
    steps, kind = settings.get("timesteps", 1000), settings.get("beta_schedule", "linear")
    if kind == "linear":
        return torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64) ** 2
    if kind == "sqrt_linear":
        return torch.linspace(first, last, steps, dtype=torch.float64)
    raise ValueError(f"minihost knows the beta schedules 'linear' and 'sqrt_linear', got '{kind}'")


class ModelSamplingDiscrete(nn.Module):
    """The table of noise levels; between its entries log sigma is linear in the timestep."""

    sigmas: Tensor
    log_sigmas: Tensor
    sigma_data = 1.0

    def __init__(self, model_config: Any = None):
        super().__init__()
        settings = model_config.sampling_settings if model_config is not None else {}
        if settings.get("zsnr"):
            raise ValueError(
                "minihost has no zero terminal SNR schedule; leave 'zsnr' out of sampling_settings"
            )
        alphas_bar = torch.cumprod(1 - betas(settings), dim=0)
        sigmas = ((1 - alphas_bar) / alphas_bar).sqrt()
        self.register_buffer("sigmas", sigmas.float())
        self.register_buffer("log_sigmas", sigmas.log().float())
        self.num_timesteps = len(sigmas)

    @property
    def sigma_min(self) -> Tensor:
        return self.sigmas[0]

    @property
    def sigma_max(self) -> Tensor:
        return self.sigmas[-1]

    def timestep(self, sigma: Tensor) -> Tensor:
        """The timestep 0..999 whose log sigma is nearest."""
        distance = (sigma.log().to(self.log_sigmas.device) - self.log_sigmas[:, None]).abs()
        return distance.argmin(dim=0).view(sigma.shape).to(sigma.device)

    def sigma(self, timestep: Tensor) -> Tensor:
        """The noise level at a timestep, fractions allowed, ends held."""
        t = timestep.float().to(self.log_sigmas.device).clamp(0, len(self.sigmas) - 1)
        low, high, weight = t.floor().long(), t.ceil().long(), t.frac()
        between = (1 - weight) * self.log_sigmas[low] + weight * self.log_sigmas[high]
        return between.exp().to(timestep.device)

    def percent_to_sigma(self, percent: float) -> float:
        """The noise level where this part (0..1) of the sampling is done; beyond all levels at 0, 0 at 1."""
        if percent <= 0.0:
            return 999999999.9
        if percent >= 1.0:
            return 0.0
        return self.sigma(torch.tensor((1.0 - percent) * (self.num_timesteps - 1))).item()


def per_sample(sigma: Tensor, ndim: int) -> Tensor:
    """sigma [B] or one value, shaped to multiply [B,...]."""
    return sigma.view(()) if sigma.nelement() == 1 else sigma.view(-1, *[1] * (ndim - 1))


class EPS:
    """The network predicts the noise."""

    sigma_data: float

    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        return noise / (per_sample(sigma, noise.ndim) ** 2 + self.sigma_data**2) ** 0.5

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        """x0 = x - sigma * output."""
        return model_input - model_output * per_sample(sigma, model_output.ndim)

    def noise_scaling(
        self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False
    ) -> Tensor:
        """The first x. From pure noise (`max_denoise`) the network must see variance 1 at the start."""
        level = per_sample(sigma, noise.ndim)
        return noise * ((1.0 + level**2.0).sqrt() if max_denoise else level) + latent_image

    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
        return latent


class V_PREDICTION(EPS):
    """The network predicts v (Salimans and Ho, arXiv 2202.00512)."""

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        """x0 = x / (sigma^2 + 1) - output * sigma / sqrt(sigma^2 + 1), for sigma_data 1."""
        level = per_sample(sigma, model_output.ndim)
        total = level**2 + self.sigma_data**2
        return model_input * self.sigma_data**2 / total - model_output * level * self.sigma_data / total**0.5

"""`comfy.latent_formats`: how latents are scaled between the autoencoder and the diffusion model."""

from __future__ import annotations

from torch import Tensor


class LatentFormat:
    """A latent with one scale for all channels."""

    scale_factor = 1.0
    latent_channels = 4
    latent_dimensions = 2
    latent_rgb_factors: list[list[float]] | None = None
    latent_rgb_factors_bias: list[float] | None = None
    taesd_decoder_name: str | None = None
    spacial_downscale_ratio = 8
    temporal_downscale_ratio = 1

    def process_in(self, latent: Tensor) -> Tensor:
        return latent * self.scale_factor

    def process_out(self, latent: Tensor) -> Tensor:
        return latent / self.scale_factor

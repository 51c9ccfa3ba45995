"""A light autoencoder for the mini Stable Diffusion: 8 times smaller sides, 4 latent channels.

Not the KL autoencoder of the release: almost all of its arithmetic is at full resolution, which two CPU cores
cannot train. This one folds 4x4 pixels into channels first (space to depth) and convolves at a quarter and an
eighth of the picture's size only. The encoder's output is softly bounded and noised while training, which
stands in for a KL term.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class AutoencoderConfig:
    """`width`: channels of every hidden layer; `blocks`: residual blocks per resolution, on each side."""

    width: int = 64
    blocks: int = 3
    latent_channels: int = 4


class Residual(nn.Module):
    """x + conv(SiLU(conv(SiLU(x))))."""

    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class TinyAutoencoder(nn.Module):
    """Pictures [B,3,8H,8W] in -1..1 to latents [B,4,H,W] within -3..3, and back."""

    def __init__(self, config: AutoencoderConfig = AutoencoderConfig()):
        super().__init__()
        self.config = config
        width, blocks = config.width, config.blocks

        def residuals() -> list[nn.Module]:
            return [Residual(width) for _ in range(blocks)]

        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, width, 3, padding=1),
            *residuals(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            *residuals(),
            nn.Conv2d(width, config.latent_channels, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(config.latent_channels, width, 3, padding=1),
            *residuals(),
            nn.Conv2d(width, 4 * width, 3, padding=1),
            nn.PixelShuffle(2),
            *residuals(),
            nn.Conv2d(width, 48, 3, padding=1),
            nn.PixelShuffle(4),
        )

    def encode(self, image: Tensor) -> Tensor:
        """Latent [B,4,H/8,W/8] of a picture in -1..1 whose sides are multiples of 8."""
        if image.shape[-1] % 8 or image.shape[-2] % 8:
            raise ValueError(f"picture sides must be multiples of 8, got {tuple(image.shape[-2:])}")
        return 3.0 * torch.tanh(self.encoder(image) / 3.0)

    def decode(self, latent: Tensor) -> Tensor:
        """Picture about -1..1 (not clamped) of a latent."""
        return self.decoder(latent)

    def loss(self, image: Tensor, noise: Tensor) -> Tensor:
        """Mean of L1 and gradient L1 between the picture and its reconstruction from a noised latent.

        noise: standard normal, shaped as the latent. A little of it teaches the decoder to forgive a
        sampler's errors, and keeps the latent's scale from collapsing.
        """
        out = self.decode(self.encode(image) + 0.1 * noise)
        edges = sum(F.l1_loss(out.diff(dim=d), image.diff(dim=d)) for d in (-1, -2))
        return F.l1_loss(out, image) + edges

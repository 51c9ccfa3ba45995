"""The mini Stable Diffusion as MODEL, CLIP and VAE of a host.

The MODEL is the host's own. CLIP and VAE are small objects with the methods that the host's nodes call: the
mini networks are of none of the kinds that a host's classes are made for.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from ..cnet_core.checkpoints import (
    mini_autoencoder,
    mini_text_encoder,
    mini_unet_config,
    read_state_dict,
)
from ..cnet_core.errors import CNetError
from . import host

FILES = ("unet.safetensors", "autoencoder.safetensors", "text_encoder.safetensors")


def fingerprint(folder: Path) -> list[tuple[int, int] | None]:
    """Time of change in nanoseconds and size of each file that `load` reads; None for a missing one."""
    paths = [folder / name for name in FILES]
    return [(p.stat().st_mtime_ns, p.stat().st_size) if p.is_file() else None for p in paths]


def load(folder: Path) -> tuple[Any, "MiniCLIP", "MiniVAE"]:
    """(MODEL, CLIP, VAE) of the mini checkpoints in a folder.

    Raises CheckpointError for one that is missing, damaged or another.
    """
    unet, autoencoder, text = (read_state_dict(folder / name) for name in FILES)
    net, scale, preview = mini_autoencoder(autoencoder)
    model = host.diffusion_model(mini_unet_config(unet), unet.tensors, scale, preview)
    return model, MiniCLIP(mini_text_encoder(text)), MiniVAE(net)


class MiniVAE:
    """Pictures [B,H,W,3] in 0..1 to latents [B,4,H/8,W/8], and back."""

    latent_channels = 4

    def __init__(self, net: Any):
        self.resident = host.Resident.vae(net)
        self.patcher = self.resident.patcher

    def encode(self, pixels: Tensor) -> Tensor:
        net = self.resident.ready()
        height, width = (side // 8 * 8 for side in pixels.shape[1:3])
        if not height or not width:
            raise CNetError(
                f"the picture is {pixels.shape[2]}x{pixels.shape[1]}; at least 8x8 pixels are needed."
            )
        top, left = (pixels.shape[1] - height) // 2, (pixels.shape[2] - width) // 2
        images = pixels[:, top : top + height, left : left + width, :3].movedim(-1, 1).float() * 2 - 1
        return net.encode(images.to(self.resident.load_device)).to(host.result_device())

    def decode(self, latent: Tensor) -> Tensor:
        net = self.resident.ready()
        images = net.decode(latent.float().to(self.resident.load_device))
        return ((images + 1) / 2).clamp(0, 1).movedim(1, -1).to(host.result_device())

    def encode_tiled(self, pixels: Tensor, **tiles: Any) -> Tensor:
        """As encode: the network is small enough for any picture."""
        return self.encode(pixels)

    def decode_tiled(self, latent: Tensor, **tiles: Any) -> Tensor:
        """As decode: the network is small enough for any picture."""
        return self.decode(latent)

    def spacial_compression_encode(self) -> int:
        return 8

    def spacial_compression_decode(self) -> int:
        return 8

    def temporal_compression_decode(self) -> None:
        return None


class MiniCLIP:
    """Texts to CONDITIONING of width 64."""

    def __init__(self, net: Any):
        self.resident = host.Resident.text(net)
        self.patcher = self.resident.patcher

    def clone(self) -> "MiniCLIP":
        return self

    def tokenize(self, text: str, **options: Any) -> Tensor:
        """Token ids [1,length]; weights in brackets, as in (red:1.2), do not count."""
        return self.resident.net.tokenize([text])

    def encode_from_tokens_scheduled(
        self, tokens: Tensor, add_dict: dict | None = None, **options: Any
    ) -> list:
        """CONDITIONING: one entry of (context [1,length,64], options)."""
        net = self.resident.ready()
        context = net(tokens.to(self.resident.load_device)).to(host.result_device())
        return [[context, {"pooled_output": None, **(add_dict or {})}]]

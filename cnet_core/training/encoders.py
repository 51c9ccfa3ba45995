"""What turns pictures and captions into what the base model reads; and that of the mini checkpoints."""

import hashlib
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..checkpoints.mini import mini_autoencoder, mini_text_encoder
from ..checkpoints.read import StateFile, read_state_dict
from ..errors import CheckpointError


class Encoders(Protocol):
    """An autoencoder and a text encoder. The identities change when their weights do.

    latent_scale: the factor from these latents to the UNet's; None where the MODEL tells it.
    """

    latent_id: str
    text_id: str
    latent_scale: float | None

    def latent(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean and standard deviation, [C,h,w] each, of the unscaled latents of a picture [H,W,3] in 0..1.

        None for the second where the autoencoder gives no distribution.
        """
        ...

    def text(self, caption: str) -> tuple[Tensor, Tensor | None]:
        """Context [N,width] of a caption, and the pooled vector [D] where the text encoder has one."""
        ...


class MiniEncoders:
    """The autoencoder and the text encoder in a folder of mini checkpoints (demo/weights).

    Raises CheckpointError for a file that is missing, damaged or another.
    """

    def __init__(self, folder: str | Path):
        autoencoder = read_state_dict(Path(folder) / "autoencoder.safetensors")
        text = read_state_dict(Path(folder) / "text_encoder.safetensors")
        self.latent_id, self.text_id = identity(autoencoder), identity(text)
        try:
            self.autoencoder, scale, _ = mini_autoencoder(autoencoder)
            self.words = mini_text_encoder(text)
        except CheckpointError as error:
            raise CheckpointError(
                f"{error} The shell caches with the mini checkpoints only; for other models cache in "
                "ComfyUI, with the Cache Training Data node."
            ) from error
        self.latent_scale: float | None = scale
        for net in (self.autoencoder, self.words):
            net.float()

    def latent(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.autoencoder.encode(image.movedim(-1, 0)[None] * 2 - 1)[0], None

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures [B,H,W,3] in 0..1 of latents [B,C,h,w] scaled as the UNet's."""
        assert self.latent_scale is not None
        pictures = self.autoencoder.decode(latents.float().cpu() / self.latent_scale)
        return ((pictures + 1) / 2).clamp(0, 1).movedim(1, -1)

    def text(self, caption: str) -> tuple[Tensor, Tensor | None]:
        return self.words(self.words.tokenize([caption]))[0], None


def identity(file: StateFile) -> str:
    """A hash of the weights in a file, whatever its name."""
    digest = hashlib.sha256()
    for name in sorted(file.tensors):
        digest.update(name.encode())
        digest.update(file.tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]

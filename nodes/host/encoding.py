"""The host's VAE and CLIP as training data is encoded with them, and its VAE as probes are decoded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ...cnet_core.errors import DataError
from ...cnet_core.training.shards import checksum
from .models import patched_tensors


class HostEncoders:
    """A VAE and a CLIP of the host, as `cnet_core.training.encoders.Encoders`.

    Raises DataError for one of another pack that keeps no weights in the host's way.
    """

    # The MODEL tells it.
    latent_scale: float | None = None

    def __init__(self, vae: Any, clip: Any):
        self.vae, self.clip = vae, clip
        self.latent_id = _identity("vae", vae)
        # What CLIP Set Last Layer and its like set.
        settings = getattr(clip, "layer_idx", None), getattr(clip, "tokenizer_options", None) or {}
        self.text_id = _identity("clip", clip, repr(settings))

    def latent(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        with _moments(self.vae) as seen:
            mean = self.vae.encode(image[None])[0].float().cpu()
        if len(seen) != 1 or seen[0].shape[1] != 2 * mean.shape[0] or seen[0].shape[2:] != mean.shape[1:]:
            # Another kind of autoencoder, or encoded in tiles.
            return mean, None
        # As in LDM's autoencoder.
        log_variance = seen[0][0].float().chunk(2)[1].clamp(-30, 20)
        return mean, (0.5 * log_variance).exp().cpu()

    def text(self, caption: str) -> tuple[Tensor, Tensor | None]:
        context, options = self.clip.encode_from_tokens_scheduled(self.clip.tokenize(caption))[0]
        pooled = options.get("pooled_output")
        return context[0].cpu(), None if pooled is None else pooled[0].cpu()


@contextmanager
def _moments(vae: Any) -> Iterator[list[Tensor]]:
    """Within, what the host's autoencoder makes its latents of: mean and log variance, [B,2C,h,w] each time.

    Its own way out gives the mean alone.
    """
    seen: list[Tensor] = []
    last = getattr(getattr(vae, "first_stage_model", None), "regularization", None)
    if not isinstance(last, torch.nn.Module):
        yield seen
        return
    handle = last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        handle.remove()


def _identity(what: str, holder: Any, settings: str = "") -> str:
    patcher = getattr(holder, "patcher", None)
    if patcher is None:
        raise DataError(
            f"the {what} is a {type(holder).__name__}, whose weights the host does not know; connect the "
            "one that belongs to the model."
        )
    return f"{checksum(patched_tensors(patcher))[:16]}{settings}"


def picture_decoder(model: Any, vae: Any) -> Callable[[Tensor], Tensor]:
    """From latents [B,C,h,w], scaled as the MODEL's UNet takes them, to pictures [B,H,W,3] in 0..1."""
    latent_format = model.get_model_object("latent_format")

    def decode(latents: Tensor) -> Tensor:
        with torch.inference_mode():
            pictures = vae.decode(latent_format.process_out(latents))
        # Outside, so that it is a tensor like any other.
        return pictures.clone()

    return decode

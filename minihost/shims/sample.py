"""`comfy.sample`: noise and a whole run of sampling, as a sampler node asks for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from .. import sampling
from .utils import repeat_to_batch_size


def prepare_noise(latent_image: Tensor, seed: int, noise_inds: Sequence[int] | None = None) -> Tensor:
    """Noise for a latent [B,C,H,W]; noise_inds: the latents' places in the batch that they come from."""
    return sampling.prepare_noise(latent_image.shape, seed, noise_inds)


def fix_empty_latent_channels(
    model: Any,
    latent_image: Tensor,
    downscale_ratio_spacial: int | None = None,
    downscale_ratio_temporal: int | None = None,
) -> Tensor:
    """A latent with as many channels as the model has, which matters for empty ones only.

    The ratios say what the latent was made for; all of minihost's models take an eighth of the picture.
    """
    channels = model.get_model_object("latent_format").latent_channels
    if latent_image.shape[1] == channels or latent_image.any():
        return latent_image
    return repeat_to_batch_size(latent_image, channels, dim=1)


def sample(
    model: Any,
    noise: Tensor,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    positive: list,
    negative: list,
    latent_image: Tensor,
    denoise: float = 1.0,
    disable_noise: bool = False,
    start_step: int | None = None,
    last_step: int | None = None,
    force_full_denoise: bool = False,
    noise_mask: Tensor | None = None,
    sigmas: Tensor | None = None,
    callback: Callable[[int, Tensor, Tensor, int], None] | None = None,
    disable_pbar: bool = False,
    seed: int | None = None,
) -> Tensor:
    """Denoise a latent [B,C,H,W] with the given noise, from step `start_step` up to step `last_step`.

    denoise: below 1, the last `steps` of a longer schedule. force_full_denoise: the last of fewer steps ends
    without noise. sigmas: noise levels instead of the schedule's. callback: called in each step with its
    number, the data, x, and the number of steps. disable_noise and seed say nothing that the noise does not.
    Raises ValueError for what minihost cannot do.
    """
    if noise_mask is not None:
        raise ValueError("minihost cannot sample with a noise mask; run this workflow in ComfyUI")
    for name, known in ((sampler_name, sampling.SAMPLERS), (scheduler, sampling.SCHEDULERS)):
        if name not in known:
            raise ValueError(f"minihost has no '{name}'; use one of {list(known)}")
    if sigmas is None:
        levels = model.get_model_object("model_sampling")
        sigmas = sampling.make_sigmas(levels, scheduler, steps, denoise)
    if last_step is not None and last_step < len(sigmas) - 1:
        sigmas = sigmas[: last_step + 1].clone()
        if force_full_denoise:
            sigmas[-1] = 0
    if start_step is not None:
        if start_step >= len(sigmas) - 1:
            return latent_image
        sigmas = sigmas[start_step:]
    total = len(sigmas) - 1

    def on_step(i: int, data: Tensor, x: Tensor) -> None:
        if callback is not None:
            callback(i, data, x, total)

    return sampling.sample(
        model,
        noise,
        latent_image,
        positive,
        negative,
        sigmas=sigmas,
        cfg=cfg,
        sampler=sampler_name,
        on_step=on_step,
        progress=not disable_pbar,
    )

"""The host's samplers: noise levels, and a run that ends early."""

from collections.abc import Callable
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils

SCHEDULERS: list[str] = comfy.samplers.KSampler.SCHEDULERS
SAMPLERS: list[str] = comfy.samplers.KSampler.SAMPLERS


def noise_levels(
    model: Any, scheduler: str, steps: int, denoise: float = 1.0, sampler: str = ""
) -> list[float]:
    """The noise level of each step; with denoise below 1 the last steps of a longer run, at 0 none.

    sampler: some are given a schedule of a step more, without its last noise level but one.
    """
    if denoise <= 0:
        return []
    total = steps if denoise > 0.9999 else int(steps / denoise)
    sampling = model.get_model_object("model_sampling")
    shorter = sampler in getattr(comfy.samplers.KSampler, "DISCARD_PENULTIMATE_SIGMA_SAMPLERS", ())
    levels = comfy.samplers.calculate_sigmas(sampling, scheduler, total + shorter)[:-1].tolist()
    return (levels[:-1] if shorter else levels)[-steps:]


def sigma_at(model: Any) -> Callable[[float], float]:
    """From a share of sampling, 0 the first step, to the noise level there."""
    return model.get_model_object("model_sampling").percent_to_sigma


def sample_first(
    model: Any,
    positive: list,
    negative: list,
    latent: dict,
    seed: int,
    steps: int,
    cfg: float,
    sampler: str,
    scheduler: str,
    last: int,
    sigmas: Any = None,
) -> None:
    """Run the first `last` of `steps` steps of sampling, for what the controls see of it.

    latent: as nodes have it; sigmas: a SIGMAS in place of scheduler and steps. Shows progress; raises what
    the host raises when it is interrupted.
    """
    shape = {k: latent[k] for k in ("downscale_ratio_spacial", "downscale_ratio_temporal") if k in latent}
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"], **shape)
    noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
    progress = comfy.utils.ProgressBar(last)
    comfy.sample.sample(
        model,
        noise,
        steps,
        cfg,
        sampler,
        scheduler,
        positive,
        negative,
        samples,
        last_step=last,
        noise_mask=latent.get("noise_mask"),
        sigmas=sigmas,
        callback=lambda step, data, x, total: progress.update_absolute(step + 1, total),
        seed=seed,
    )

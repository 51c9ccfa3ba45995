"""Sampling as the host does it: the same seed gives the same noise, noise levels and picture.

Schedules and samplers follow Karras et al. (arXiv 2206.00364) and DPM-Solver++ (arXiv 2211.01095). x is
data + sigma * noise, [B,C,H,W]; a denoiser maps (x, sigma) to the data it expects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .guidance import Guider
from .shims import model_management

Denoiser = Callable[[Tensor, Tensor], Tensor]
# Called in each step, when the data is known, with the number of the step, the data, and x.
OnStep = Callable[[int, Tensor, Tensor], None]


def prepare_noise(shape: torch.Size, seed: int, places: Sequence[int] | None = None) -> Tensor:
    """The noise of a seed: torch's CPU generator in float32; the global one is left alone.

    places: for each latent of the batch its place in the batch that it was taken from: it gets the noise of
    that place, and latents of one place the same.
    """
    generator = torch.Generator().manual_seed(seed)
    if places is None:
        return torch.randn(shape, generator=generator, dtype=torch.float32)
    each = [torch.randn((1, *shape[1:]), generator=generator) for _ in range(max(places) + 1)]
    return torch.cat([each[place] for place in places])


def _timesteps_between(levels: Any, count: int, drop_last: bool) -> Tensor:
    """Noise levels at evenly spaced timesteps from the highest to the lowest, then 0."""
    first, last = float(levels.timestep(levels.sigma_max)), float(levels.timestep(levels.sigma_min))
    points = torch.linspace(first, last, count + 1)[:-1] if drop_last else torch.linspace(first, last, count)
    return torch.cat([levels.sigma(points).cpu(), torch.zeros(1)])


def normal_schedule(levels: Any, steps: int) -> Tensor:
    """Even timesteps, both ends included."""
    return _timesteps_between(levels, steps, drop_last=False)


def sgm_uniform_schedule(levels: Any, steps: int) -> Tensor:
    """Even timesteps, without the lowest."""
    return _timesteps_between(levels, steps, drop_last=True)


def simple_schedule(levels: Any, steps: int) -> Tensor:
    """Entries of the table at even distances, counted from its noisy end, rounded as the host rounds."""
    table = levels.sigmas.cpu()
    picked = [len(table) - 1 - int(i * (len(table) / steps)) for i in range(steps)]
    return torch.cat([table[picked], torch.zeros(1)])


def karras_schedule(levels: Any, steps: int, rho: float = 7.0) -> Tensor:
    """Equation 5 of arXiv 2206.00364: even steps in sigma^(1/rho), then 0."""
    low, high = float(levels.sigma_min) ** (1 / rho), float(levels.sigma_max) ** (1 / rho)
    ramp = torch.linspace(0, 1, steps)
    return torch.cat([(high + ramp * (low - high)) ** rho, torch.zeros(1)])


def exponential_schedule(levels: Any, steps: int) -> Tensor:
    """Even steps in log sigma, then 0."""
    low, high = math.log(float(levels.sigma_min)), math.log(float(levels.sigma_max))
    return torch.cat([torch.linspace(high, low, steps).exp(), torch.zeros(1)])


SCHEDULERS: dict[str, Callable[[Any, int], Tensor]] = {
    "simple": simple_schedule,
    "sgm_uniform": sgm_uniform_schedule,
    "karras": karras_schedule,
    "exponential": exponential_schedule,
    "normal": normal_schedule,
}


def make_sigmas(levels: Any, scheduler: str, steps: int, denoise: float = 1.0) -> Tensor:
    """Noise levels [steps + 1], falling to 0: with `denoise` < 1 the last of a longer schedule, at 0 none."""
    if denoise <= 0.0:
        return torch.zeros(0)
    if denoise > 0.9999:
        return SCHEDULERS[scheduler](levels, steps)
    return SCHEDULERS[scheduler](levels, int(steps / denoise))[-(steps + 1) :]


def sample_euler(denoise: Denoiser, x: Tensor, sigmas: Tensor, on_step: OnStep) -> Tensor:
    """Algorithm 2 of arXiv 2206.00364 without churn or second order correction: a straight line per step."""
    for i, (sigma, following) in enumerate(pairwise(sigmas)):
        data = denoise(x, sigma)
        on_step(i, data, x)
        x = x + (x - data) / sigma * (following - sigma)
    return x


def sample_dpmpp_2m(denoise: Denoiser, x: Tensor, sigmas: Tensor, on_step: OnStep) -> Tensor:
    """DPM-Solver++(2M), algorithm 2 of arXiv 2211.01095, in x = data + sigma * noise.

    With lambda = -log sigma and h its step, exp(-h) is the ratio of noise levels. The data is extrapolated
    from this step's and the last one's prediction, except in the first step and in the one that ends at 0.
    """
    before: Tensor | None = None
    for i, (sigma, following) in enumerate(pairwise(sigmas)):
        data = denoise(x, sigma)
        on_step(i, data, x)
        ratio = following / sigma
        expected = data
        if before is not None and following > 0:
            r = (sigmas[i - 1].log() - sigma.log()) / (sigma.log() - following.log())
            expected = (1 + 1 / (2 * r)) * data - 1 / (2 * r) * before
        x = ratio * x + (1 - ratio) * expected
        before = data
    return x


SAMPLERS = {"euler": sample_euler, "dpmpp_2m": sample_dpmpp_2m}


def sample(
    patcher: Any,
    noise: Tensor,
    latent: Tensor,
    positive: list,
    negative: list,
    *,
    sigmas: Tensor,
    cfg: float,
    sampler: str,
    on_step: OnStep = lambda i, data, x: None,
    progress: bool = True,
    title: str = "Sampling",
) -> Tensor:
    """Denoise a latent [B,C,H,W] with noise of its shape from the first noise level to the last, as the host.

    Raises InterruptProcessingException at the next step after a request to stop; as in the host, only a run
    that finishes calls the controls' cleanup.
    """
    guider = Guider(patcher, positive, negative, cfg)
    levels = patcher.get_model_object("model_sampling")
    if len(sigmas) == 0:
        return latent
    device = patcher.load_device
    sigmas, noise, latent = sigmas.to(device), noise.to(device), latent.to(device, torch.float32)
    with guider.run(noise) as denoiser:
        if torch.count_nonzero(latent) > 0:  # an empty latent stays empty, whatever the format's shift
            latent = guider.model.process_latent_in(latent)
        highest = float(levels.sigma_max)
        from_noise = math.isclose(float(sigmas[0]), highest, rel_tol=1e-5) or float(sigmas[0]) > highest
        x = levels.noise_scaling(sigmas[0], noise, latent, from_noise)
        guider.sample_sigmas = sigmas
        with tqdm(total=len(sigmas) - 1, desc=title, unit="step", disable=not progress) as bar:

            def each_step(i: int, data: Tensor, x: Tensor) -> None:
                bar.update()
                on_step(i, data, x)
                model_management.throw_exception_if_processing_interrupted()

            model_management.throw_exception_if_processing_interrupted()
            x = SAMPLERS[sampler](denoiser, x, sigmas, each_step)
        x = levels.inverse_noise_scaling(sigmas[-1], x)
    return guider.model.process_latent_out(x.float()).to(model_management.intermediate_device())

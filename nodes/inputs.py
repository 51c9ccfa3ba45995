"""Inputs that several nodes share, so that they look and read the same everywhere."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..cnet_core.control.blocks import BlockWeights
from ..cnet_core.control.mask import prepare_mask
from ..cnet_core.control.reuse import ECONOMIES, Reuse
from ..cnet_core.control.schedule import Schedule
from ..cnet_core.control.timing import Timing
from ..cnet_core.control.weighting import BALANCES, Weighting
from ..cnet_core.errors import ControlError
from . import host

ScheduleType = io.Custom("CNET_SCHEDULE")
BlocksType = io.Custom("CNET_BLOCKS")
ReuseType = io.Custom("CNET_REUSE")


def chosen(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a DynamicCombo holds, without what was left out, for which the host gives None."""
    return {name: value for name, value in values.items() if value is not None}


def strength_input(name: str, tooltip: str, default: float = 1.0, **options: Any) -> io.Input:
    """A strength, or a factor on one: 0 not at all, 1 as trained."""
    return io.Float.Input(name, default=default, min=0.0, max=10.0, step=0.01, tooltip=tooltip, **options)


def conditioning_inputs() -> list[io.Input]:
    return [
        io.Conditioning.Input("positive", tooltip="The prompt: what the picture should show."),
        io.Conditioning.Input("negative", tooltip="The negative prompt: what it should not show."),
    ]


def conditioning_outputs() -> list[io.Output]:
    return [
        io.Conditioning.Output(display_name="positive", tooltip="The prompt, with the control."),
        io.Conditioning.Output(
            display_name="negative", tooltip="The negative prompt, with the same control."
        ),
    ]


def control_inputs() -> list[io.Input]:
    """A ControlNet with its hint."""
    return [
        io.ControlNet.Input(
            "control_net", tooltip="The ControlNet, made for the base model that draws the picture."
        ),
        io.Image.Input(
            "image",
            optional=True,
            tooltip=(
                "The hint: edges, a pose, a depth map, ... as this ControlNet was trained on. It is fitted "
                "to the picture's size by cropping to its shape from the centre. Only a ControlNet that "
                "comes from Union Hints needs none."
            ),
        ),
    ]


def timing_inputs() -> list[io.Input]:
    """Strength and range, as `cnet_core.control.timing.Timing` takes them."""
    return [
        strength_input(
            "strength",
            tooltip="How strongly the hint steers: 0 not at all (and at no cost), 1 as trained.",
        ),
        io.Float.Input(
            "start_percent",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.001,
            tooltip=(
                "Where in sampling the control sets in; 0 is the first step. The layout is decided early."
            ),
        ),
        io.Float.Input(
            "end_percent",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.001,
            tooltip=(
                "Where in sampling the control ends; 1 is the last step. Ending early leaves details to the "
                "prompt."
            ),
        ),
    ]


def steps_input() -> io.Input:
    return io.Int.Input("steps", default=20, min=1, max=10000, tooltip="As in the sampler.")


def scheduler_input() -> io.Input:
    return io.Combo.Input(
        "scheduler", options=host.SCHEDULERS, tooltip="As in the sampler: how the noise levels are spaced."
    )


def sigmas_input(instead_of: str) -> io.Input:
    return io.Sigmas.Input(
        "sigmas",
        optional=True,
        tooltip=f"The noise levels that SamplerCustom is given, in place of {instead_of}.",
    )


def noise_levels(
    model: Any,
    scheduler: str,
    steps: int,
    denoise: float = 1.0,
    sigmas: Tensor | None = None,
    sampler: str = "",
) -> list[float]:
    """The noise level of each step: of `sigmas`, a SIGMAS, if there is one; else of the host's schedule."""
    if sigmas is None:
        return host.noise_levels(model, scheduler, steps, denoise, sampler)
    if sigmas.ndim != 1 or len(sigmas) < 2 or not torch.isfinite(sigmas).all():
        raise ControlError(
            f"sigmas holds {sigmas.tolist()}; expected the noise levels of at least one step and the one at "
            "its end. Connect the output of a scheduler, such as BasicScheduler, with a denoise above 0."
        )
    return sigmas[:-1].tolist()


def vae_input() -> io.Input:
    return io.Vae.Input(
        "vae",
        optional=True,
        tooltip=(
            "Only for controls that read their image as a latent (Reference Control, Flux, SD3, ...): the "
            "base model's VAE."
        ),
    )


def weighting_inputs() -> list[io.Input]:
    """What `weighting` makes a Weighting of, beside strength and range: all optional."""
    return [
        ScheduleType.Input(
            "schedule",
            optional=True,
            tooltip=(
                "How the strength changes over sampling or over a batch, from Strength Keyframe, Strength "
                "Curve or Frame Strengths."
            ),
        ),
        BlocksType.Input(
            "blocks", optional=True, tooltip="How strongly each block is steered, from Block Weights."
        ),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip=(
                "Where the control acts: white fully, black not at all. It is fitted to the picture as the "
                "hint is; one mask for all pictures of a batch, or one for each."
            ),
        ),
        io.Float.Input(
            "feather",
            default=0.0,
            min=0.0,
            max=512.0,
            step=1.0,
            optional=True,
            advanced=True,
            tooltip="Softens the mask's edges, this many pixels of the mask to either side.",
        ),
        io.Combo.Input(
            "balance",
            options=list(BALANCES),
            default="balanced",
            optional=True,
            advanced=True,
            tooltip=(
                "balanced: as trained. prompt first: details follow the prompt. control first: the hint "
                "counts more than the prompt, at half the cost. promptless: the hint alone tells what to "
                "draw (guess mode); leave the prompt empty."
            ),
        ),
        strength_input(
            "cond_gain",
            optional=True,
            advanced=True,
            tooltip="A factor on the strength for the prompt's side.",
        ),
        strength_input(
            "uncond_gain",
            optional=True,
            advanced=True,
            tooltip="A factor on the strength for the negative prompt's side; 0 saves half of the cost.",
        ),
    ]


def reuse_inputs(whose: str) -> list[io.Input]:
    """What `reuse_of` takes, all optional; `whose` controls they are about, for the tooltip."""
    return [
        io.Combo.Input(
            "economy",
            options=list(ECONOMIES),
            default="exact",
            optional=True,
            tooltip=(
                f"How often {whose} computed. exact: at every step. light: at three tenths of the steps, and "
                "predicted from these at the others; the picture hardly changes. strong: at a fifth of them."
            ),
        ),
        ReuseType.Input(
            "reuse",
            optional=True,
            advanced=True,
            tooltip="Settings of one's own instead of the economy, from Residual Reuse.",
        ),
    ]


def reuse_of(economy: str = "exact", reuse: Any = None) -> Reuse:
    """What `reuse_inputs` ask for. Raises ControlError."""
    if not isinstance(reuse, Reuse | None):
        raise ControlError("reuse holds no settings of reuse; connect the output of a Residual Reuse node.")
    if economy not in ECONOMIES:
        raise ControlError(f"economy {economy!r} is unknown; choose one of {', '.join(ECONOMIES)}.")
    return ECONOMIES[economy] if reuse is None else reuse


def weighting(
    strength: float,
    start_percent: float,
    end_percent: float,
    schedule: Any = None,
    blocks: Any = None,
    mask: Any = None,
    feather: float = 0.0,
    balance: str = "balanced",
    cond_gain: float = 1.0,
    uncond_gain: float = 1.0,
) -> Weighting:
    """The weights that `timing_inputs` and `weighting_inputs` ask for. Raises ControlError."""
    if not isinstance(schedule, Schedule | None):
        raise ControlError(
            "schedule is no schedule; connect a Strength Keyframe, Strength Curve or Frame Strengths."
        )
    if not isinstance(blocks, BlockWeights | None):
        raise ControlError("blocks are no block weights; connect the output of a Block Weights node.")
    if mask is not None and not mask.any():
        logging.warning(
            "A mask is black everywhere, so that its control does nothing; Load Image gives such a mask for "
            "a picture without transparency."
        )
    return Weighting(
        Timing(strength, start_percent, end_percent),
        schedule or Schedule(),
        blocks or BlockWeights(),
        None if mask is None else prepare_mask(mask, feather),
        cond_gain,
        uncond_gain,
    ).led_by(balance)

"""What all controls have in common: they are weighed over time, frames, sides, blocks and space.

The contract is that of `comfy.controlnet.ControlBase`, of which ours are subclasses, so that whatever a newer
host adds to it arrives here too.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, ref

import comfy.controlnet
import comfy.model_management
import comfy.patcher_extension
import comfy.utils
import torch
from torch import Tensor

from ...cnet_core.control.hint import stacked, unstacked
from ...cnet_core.control.mask import fit_mask, leaves_some, token_grid
from ...cnet_core.control.reuse import Reuse
from ...cnet_core.control.schedule import Clock
from ...cnet_core.control.timing import Timing
from ...cnet_core.control.weighting import Weighting
from ..answers import Answer, Parts, add, spoken, weigh
from .calls import Call, Run, window_of
from .models import UNET, load_amid_sampling, size_of
from .overlap import Awaited, beside
from .tiles import Tiles


class Steered(comfy.controlnet.ControlBase):
    """A control that is weighed over time, frames, sides, blocks and space."""

    # The hint as it was given, [B,C,H,W].
    hint: Tensor | None = None
    run: Run | None = None
    tiles: Tiles | None = None
    # Whether it acts inside the UNet's own layers, and answers with no residuals.
    within = False

    def __init__(self) -> None:
        super().__init__()
        self.weighting = Weighting()
        # Only controls that answer with residuals can follow it.
        self.reuse = Reuse()
        # Whether it runs beside the UNet's encoder, where the device can.
        self.overlap = False

    @property
    def cond_hint_original(self) -> Tensor | None:
        """All that lies over the picture, as one tensor: the hints, and the mask.

        Tiled upscalers take it from a copy of a control, cut a tile out of it, and assign that to the copy.
        """
        pictures = self.pictures
        return stacked(pictures) if pictures else None

    @cond_hint_original.setter
    def cond_hint_original(self, value: Tensor | None) -> None:
        if value is None:
            self.hint = None
        elif self.hint is not None and (parts := unstacked(value, self.pictures)) is not None:
            self.take_pictures(parts)
        else:
            self.take_hints([value])
        if self.run is not None:
            self.run.forget()

    @property
    def hints(self) -> list[Tensor]:
        return [] if self.hint is None else [self.hint]

    def take_hints(self, hints: list[Tensor]) -> None:
        """Others in place of `hints`, or a first one."""
        self.hint = hints[0]

    @property
    def pictures(self) -> list[Tensor]:
        """The hints and the masks [B,C,H,W]; none where there is no hint yet."""
        hints, mask = self.hints, self.weighting.mask
        return hints if mask is None or not hints else [*hints, mask[:, None]]

    def take_pictures(self, pictures: list[Tensor]) -> None:
        """Others in place of `pictures`."""
        count = len(self.hints)
        self.take_hints(pictures[:count])
        for mask in pictures[count:]:
            self.weighting = replace(self.weighting, mask=mask[:, 0])

    @property
    def kind_of_base(self) -> str | None:
        """The kind of base model that it was made for, as users call it; None where that is not known."""
        return UNET

    @property
    def config(self) -> Any:
        """The sizes of its network, UNetConfig or AdapterConfig; None where it has others or none."""
        return None

    def copy_to(self, other: "Steered") -> None:
        # As if without a hint: the host's own would stack it with the mask.
        bare = copy.copy(self)
        bare.hint = None
        super(Steered, bare).copy_to(other)
        other.hint = self.hint
        other.weighting, other.reuse, other.overlap = self.weighting, self.reuse, self.overlap

    def set_cond_hint(
        self,
        cond_hint: Tensor,
        strength: float = 1.0,
        timestep_percent_range: tuple[float, float] = (0.0, 1.0),
        vae: Any = None,
        extra_concat: list[Tensor] = [],  # noqa: B006 (the host's signature)
    ) -> "Steered":
        """Take a hint [B,C,H,W]. Called by the host's apply nodes as well as by ours."""
        self.weighting = replace(self.weighting, timing=Timing(strength, *timestep_percent_range))
        return super().set_cond_hint(
            cond_hint, strength, timestep_percent_range, vae=vae, extra_concat=extra_concat
        )

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        """Before each run, once per conditioning that holds this control."""
        super().pre_run(model, percent_to_timestep_function)
        clock = partial(_clock_of, model.model_sampling, percent_to_timestep_function)
        self.run = Run(model.model_sampling, clock, ref(model))
        self.cond_hint, self.tiles = None, Tiles(model, percent_to_timestep_function)
        _forget_at_the_end(self.run, getattr(model, "current_patcher", None))

    def cleanup(self) -> None:
        super().cleanup()
        self.run = self.tiles = None

    @property
    def networks(self) -> list[Any]:
        """The model patchers of its own networks."""
        return []

    def get_models(self) -> list[Any]:
        """What the host loads before a run, of the whole chain.

        The steps of a run are not told before it begins, and a range may miss them all. So the networks of a
        control that depends on the time are loaded when it first speaks.
        """
        return [*super().get_models(), *(() if self.weighting.timed else self.networks)]

    @property
    def late(self) -> list[Any]:
        """The networks that get_models leaves out."""
        return self.networks if self.weighting.timed else []

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        """Bytes that the host keeps free: for the networks that are loaded later, of the whole chain."""
        return size_of(self.late) + int(super().inference_memory_requirements(dtype))

    def load(self, call: Call) -> None:
        """Have the host load the networks that get_models left out, if the control speaks at this step."""
        if self.run is None or self.run.loaded or not self.late or not any(self.rows(call)):
            return
        model = self.run.model()
        assert model is not None, "a control is only asked while its model runs"
        load_amid_sampling(self.late, model.memory_required(list(call.x.shape)))
        self.run.loaded = True

    def get_control(
        self, x_noisy: Tensor, t: Tensor, cond: dict, batched_number: int, transformer_options: dict
    ) -> Answer | None:
        """Residuals for a chunk of cond and uncond latents x_noisy [n*B,C,H,W] at noise levels t [n*B]."""
        call = Call(x_noisy, t, cond, batched_number, transformer_options)
        self.load(call)
        assert self.tiles is not None
        return chained(self, call, partial(self.tiles.answer, self, call), self.overlap)

    def answer(self, call: Call) -> Answer | None:
        """What this control says by itself, weighed."""
        parts = self.parts(call, self.rows(call))
        return None if parts is None else spoken(parts)

    @property
    def acting(self) -> Weighting:
        """The weights by which it acts: those that it was given, and what its kind makes of them."""
        return self.weighting

    def rows(self, call: Call) -> list[float]:
        """The strength of each row of the batch at this step; all 0 outside the range."""
        weighting = self.acting
        strength = weighting.timing.strength
        # Asked only where it matters: reading a noise level makes the host wait for its device.
        if weighting.timed:
            strength = weighting.strength_when(call.sigma, self.timestep_range, self._percent)
        if strength == 0 or weighting.mask is None:
            return weighting.rows(strength, call.sides, call.frames)
        return weighting.rows(strength, call.sides, call.frames, self._seen(weighting.mask, call))

    def _seen(self, mask: Tensor, call: Call) -> list[bool]:
        """For each mask whether it leaves anything of the picture; looked at once per run."""
        assert self.run is not None
        size = tuple(call.x.shape[-2:])
        key = (size, call.window if call.window and call.window[0] >= 2 else None)
        if key not in self.run.seen:
            self.run.seen[key] = leaves_some(window_of(mask, call), *size)
        return self.run.seen[key]

    def _percent(self, sigma: float) -> float:
        """The share of sampling done at a noise level."""
        assert self.run is not None
        return self.run.clock().percent(sigma)

    def parts(self, call: Call, rows: list[float]) -> Parts | None:
        """Residuals with their weights, given the strength of each row; None where every row is silent."""
        raise NotImplementedError

    def batch_key(self, call: Call) -> Any:
        """Controls with equal keys can be asked as one batch."""
        return self

    def parts_together(
        self, controls: Sequence["Steered"], call: Call, rows: Sequence[list[float]]
    ) -> list[Parts | None]:
        """What controls of one key say; this is one of them."""
        return [control.parts(call, own) for control, own in zip(controls, rows, strict=True)]

    def weighed(self, answer: Answer, call: Call, rows: list[float]) -> Parts:
        return weigh(answer, self.weighting, rows, lambda residual: self.mask_for(residual, call))

    def mask_for(self, residual: Tensor, call: Call) -> Tensor | None:
        """The mask at a residual's size, for every row."""
        mask = self.weighting.mask
        if mask is None:
            return None
        assert self.run is not None
        key = (residual.shape, residual.dtype, residual.device, call.window, call.chunks)
        if key not in self.run.masks:
            self.run.masks[key] = self._mask(mask, residual, call)
        return self.run.masks[key]

    def _mask(self, mask: Tensor, residual: Tensor, call: Call) -> Tensor:
        mask = mask[[frame % mask.shape[0] for frame in call.frames]]
        rows, columns = call.x.shape[-2:]
        height, width = residual.shape[-2:]
        if residual.ndim == 3:
            height, width = token_grid(residual.shape[1], rows, columns)
        fitted = fit_mask(window_of(mask, call), rows, columns, (height, width))
        fitted = fitted.repeat(call.chunks, 1, 1).to(residual.device, residual.dtype)
        if residual.ndim == 3:
            return fitted.flatten(1)[..., None]
        return fitted.view(fitted.shape[0], *[1] * (residual.ndim - 3), height, width)


def chained(
    control: comfy.controlnet.ControlBase, call: Call, own: Callable[[], Answer | None], overlap: bool
) -> Answer | None:
    """What a control answers by itself on top of what the chain before it does.

    overlap: while the UNet's encoder runs. Not so the chain before, which may change the encoder.
    """
    before = control.previous_controlnet
    previous = None
    if before is not None:
        previous = before.get_control(call.x, call.t, call.cond, call.chunks, call.options)

    def ask() -> Answer | None:
        answer = own()
        return previous if answer is None else add(answer, previous)

    if not overlap:
        return ask()
    given = [call.x, call.t, *call.cond.values()]
    for residuals in (previous or {}).values():
        # Those of the same stream are waited for where they are read.
        given += [] if isinstance(residuals, Awaited) else residuals
    return beside(ask, (value for value in given if isinstance(value, Tensor)), call.x.device)


# Hosts answer for one share of sampling at a time, from the device: a clock takes 30 ms on a GPU.
_clocks: WeakKeyDictionary[Any, Clock] = WeakKeyDictionary()


def _clock_of(sampling: Any, sigma_at: Callable[[float], float]) -> Clock:
    """The clock of a host's model_sampling, which hosts exchange and do not change."""
    if sampling not in _clocks:
        _clocks[sampling] = Clock.of(sigma_at)
    return _clocks[sampling]


def _forget_at_the_end(run: Run, patcher: Any) -> None:
    """Empty a run when the host is done with the model that it samples with.

    The host cleans models up after success, error and cancel; controls only after success.
    """
    if patcher is None:
        return
    event, key = comfy.patcher_extension.CallbacksMP.ON_CLEANUP, f"cnet run {id(run)}"

    def forget(_patcher: Any) -> None:
        run.forget()
        patcher.remove_callbacks_with_key(event, key)

    patcher.add_callback_with_key(event, key, forget)

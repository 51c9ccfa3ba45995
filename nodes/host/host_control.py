"""A control that the host made, weighed as the pack's own are."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any
from weakref import WeakMethod

import comfy.controlnet
import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ...cnet_core.control.hint import prepare_hint
from ...cnet_core.control.rows import pick
from ..answers import Answer, Parts
from . import foreign
from .calls import Call, window_of
from .reusing import ResidualControl, Said

# Context windows and sizes whose prepared hints are kept, by order of their first use.
_PREPARED_KEPT = 64


class HostControl(ResidualControl):
    """A control that the host made, of whatever family, weighed as ours are."""

    def __init__(self, inner: Any):
        super().__init__()
        self.inner = inner
        # Hints as the inner control prepared them (some through a VAE), by frames; kept across runs.
        self.prepared: dict[Any, foreign.Prepared] = {}

    @property
    def kind_of_base(self) -> str | None:
        return foreign.kind_of_base(self.inner)

    @cached_property
    def config(self) -> Any:
        return foreign.config_of(self.inner)

    def copy(self) -> "HostControl":
        other = HostControl(self.inner.copy())
        self.copy_to(other)
        other.prepared = self.prepared
        return other

    @property
    def hints(self) -> list[Tensor]:
        """The hint, and what the inner control reads beside it: a mask of what is to be painted."""
        hints = super().hints
        return [*hints, *self.extra_concat_orig] if hints else []

    def take_hints(self, hints: list[Tensor]) -> None:
        super().take_hints(hints)
        if len(hints) > 1:
            self.extra_concat_orig, self.inner.extra_concat_orig = hints[1:], hints[1:]
        self.prepared = foreign.kept_hints(self.inner, hints[0], self.inner.vae, self.extra_concat_orig)

    def set_cond_hint(
        self,
        cond_hint: Tensor,
        strength: float = 1.0,
        timestep_percent_range: tuple[float, float] = (0.0, 1.0),
        vae: Any = None,
        extra_concat: list[Tensor] = [],  # noqa: B006 (the host's signature)
    ) -> "HostControl":
        # What a VAE encodes is a picture; other hints may hold -1, as inpaint ControlNets read it.
        lowest = -1.0 if self.inner.latent_format is None else 0.0
        cond_hint = prepare_hint(cond_hint, foreign.hint_channels(self.inner), lowest)
        super().set_cond_hint(cond_hint, strength, timestep_percent_range, vae, extra_concat)
        self.prepared = foreign.kept_hints(self.inner, cond_hint, vae, extra_concat)
        # The strength and the range are applied here, so the inner control acts always and in full.
        self.inner.set_cond_hint(cond_hint, 1.0, (0.0, 1.0), vae=vae, extra_concat=extra_concat)
        return self

    def set_extra_arg(self, argument: str, value: Any = None) -> None:
        self.inner.set_extra_arg(argument, value)

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        super().pre_run(model, percent_to_timestep_function)
        foreign.check_base(self.inner, model)
        self.inner.pre_run(model, percent_to_timestep_function)
        assert self.run is not None
        # The run must not keep the control.
        offload = WeakMethod(self._offload)

        def let_go() -> None:
            method = offload()
            if method is not None:
                method()

        self.run.also = let_go

    def _offload(self) -> None:
        """Take what is kept off the device: encoding a hint again for every picture would cost a pass of
        the VAE."""
        for key, prepared in self.prepared.items():
            self.prepared[key] = _off(prepared)

    def cleanup(self) -> None:
        self._offload()
        # Some of the host's controls cannot be cleaned up before they have run.
        if self.run is not None:
            self.inner.cleanup()
        super().cleanup()

    @property
    def networks(self) -> list[Any]:
        return self.inner.get_models()

    def get_extra_hooks(self) -> list[Any]:
        return super().get_extra_hooks() + self.inner.get_extra_hooks()

    def deepclone_multigpu(self, load_device: torch.device, autoregister: bool = False) -> "HostControl":
        other = self.copy()
        other.inner = self.inner.deepclone_multigpu(load_device)
        if autoregister:
            self.multigpu_clones[load_device] = other
        return other

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        own = self.inner.inference_memory_requirements(dtype)
        hint, kept = self.hint, 0 if self.steady else self.reuse.kept
        if hint is not None and kept:
            # As Control counts: for cond and uncond, of at most 1024x1024 pixels.
            area = min(hint.shape[-1] * hint.shape[-2], 1024**2) / 64
            values = 2 * hint.shape[0] * area * foreign.residual_values(self.inner)
            own += kept * values * comfy.model_management.dtype_size(dtype)
        return int(own + super().inference_memory_requirements(dtype))

    def rows(self, call: Call) -> list[float]:
        return foreign.responses(self.inner, super().rows(call))

    @property
    def steady(self) -> bool:
        return foreign.steady(self.inner)

    def compute(
        self, controls: Sequence["HostControl"], call: Call, rows: Sequence[list[float]]
    ) -> list[Said | None]:
        """Of each chunk the same frames, or none: an inner control takes equally many for all."""
        ((batch, strengths),) = [(call.batch, own) for own in rows]
        chunks = [c for c in range(call.chunks) if any(strengths[c * batch : (c + 1) * batch])]
        frames = [i for i in range(batch) if any(strengths[c * batch + i] for c in chunks)]
        asked = [c * batch + i for c in chunks for i in frames]
        answer = self._ask(call.at_rows(asked, chunks))
        return [None if answer is None else Said(asked, answer)]

    def _ask(self, call: Call) -> Answer | None:
        """The inner control's answer, with the hints of the frames that are being sampled.

        It cuts its hint to the batch for good, so each choice of frames gets its own.
        """
        inner, whole = self.inner, self.hint
        key = foreign.prepared_key(inner, call.frames, call.x.shape[-2:], call.window, call.chunks)
        foreign.put_prepared(inner, self.prepared.get(key), call.x.device)
        if whole is not None:
            hint = window_of(whole, call)
            if hint.shape[0] > 1:
                hint = pick(hint, [frame % hint.shape[0] for frame in call.frames])
            inner.cond_hint_original = hint
        try:
            answer = inner.get_control(call.x, call.t, call.cond, call.chunks, call.options)
        finally:
            inner.cond_hint_original = whole
        prepared = foreign.take_prepared(inner)
        # Windows come by the dozen.
        self.prepared[key] = prepared if call.window is None else _off(prepared)
        if len(self.prepared) > _PREPARED_KEPT:
            del self.prepared[next(iter(self.prepared))]
        return None if answer is None else foreign.for_rows(answer, call.x.shape[0])

    def weighed(self, answer: Answer, call: Call, rows: list[float]) -> Parts:
        return foreign.as_the_base_reads(super().weighed(answer, call, rows), answer, self.inner)


def _off(prepared: foreign.Prepared) -> foreign.Prepared:
    return foreign.offloaded(prepared, comfy.model_management.unet_offload_device())

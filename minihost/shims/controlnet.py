"""`comfy.controlnet`: the base class of everything that sits in a conditioning's `control`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import torch
from torch import Tensor

CONTROL_KEYS = ("input", "middle", "output")


class StrengthType(Enum):
    """Whether the strength is the same for all blocks or grows towards the middle."""

    CONSTANT = 1
    LINEAR_UP = 2


class ControlBase:
    """A control: what it adds to the UNet at a step, and to what it is chained (`previous_controlnet`)."""

    def __init__(self) -> None:
        self.cond_hint_original: Tensor | None = None
        self.cond_hint: Tensor | None = None
        self.strength = 1.0
        self.timestep_percent_range: tuple[float, float] = (0.0, 1.0)
        self.timestep_range: tuple[float, float] | None = None
        self.latent_format: Any = None
        self.vae: Any = None
        self.global_average_pooling = False
        self.compression_ratio = 8
        self.upscale_algorithm = "nearest-exact"
        self.extra_args: dict[str, Any] = {}
        self.previous_controlnet: ControlBase | None = None
        self.extra_conds: list[str] = []
        self.strength_type = StrengthType.CONSTANT
        self.concat_mask = False
        self.extra_concat_orig: list[Tensor] = []
        self.extra_concat: Any = None
        self.extra_hooks: Any = None
        self.preprocess_image: Callable[[Tensor], Tensor] = lambda image: image
        self.multigpu_clones: dict[Any, ControlBase] = {}

    def set_cond_hint(
        self,
        cond_hint: Tensor,
        strength: float = 1.0,
        timestep_percent_range: tuple[float, float] = (0.0, 1.0),
        vae: Any = None,
        extra_concat: Sequence[Tensor] = (),
    ) -> ControlBase:
        """Give the hint [B,C,H,W], its strength and the part of the sampling (0..1) where it acts."""
        self.cond_hint_original = cond_hint
        self.strength = strength
        self.timestep_percent_range = timestep_percent_range
        if self.latent_format is not None:
            self.vae = vae
        self.extra_concat_orig = list(extra_concat)
        if self.concat_mask and not self.extra_concat_orig:
            self.extra_concat_orig.append(torch.ones(1, 1, 1, 1))
        return self

    def set_previous_controlnet(self, controlnet: ControlBase | None) -> ControlBase:
        self.previous_controlnet = controlnet
        return self

    def set_extra_arg(self, argument: str, value: Any = None) -> None:
        self.extra_args[argument] = value

    def pre_run(self, model: Any, percent_to_timestep_function: Callable[[float], float]) -> None:
        """Called before sampling, once for each conditioning entry that holds this control."""
        start, end = self.timestep_percent_range
        self.timestep_range = (percent_to_timestep_function(start), percent_to_timestep_function(end))
        if self.previous_controlnet is not None:
            self.previous_controlnet.pre_run(model, percent_to_timestep_function)

    def get_control(
        self,
        x_noisy: Tensor,
        t: Tensor,
        cond: dict[str, Any],
        batched_number: int,
        transformer_options: dict[str, Any],
    ) -> dict[str, list] | None:
        """What to add to the UNet at this step: lists `input`, `middle` and `output`, or None."""
        raise NotImplementedError(f"{type(self).__name__} has no get_control")

    def cleanup(self) -> None:
        """Called after sampling: forget what belongs to one run. Only the chain's head is called."""
        if self.previous_controlnet is not None:
            self.previous_controlnet.cleanup()
        for clone in self.multigpu_clones.values():
            clone._alone(clone.cleanup)
        self.cond_hint = None
        self.extra_concat = None
        self.timestep_range = None

    def _alone(self, call: Callable[[], Any]) -> Any:
        """Call with the chain cut off before this control."""
        previous, self.previous_controlnet = self.previous_controlnet, None
        try:
            return call()
        finally:
            self.previous_controlnet = previous

    def copy(self) -> ControlBase:
        raise NotImplementedError(f"{type(self).__name__} has no copy")

    def copy_to(self, c: ControlBase) -> None:
        """Give another control these settings; the chain and what belongs to one run stay behind."""
        shared = (
            *("cond_hint_original", "strength", "timestep_percent_range", "global_average_pooling", "vae"),
            *("compression_ratio", "upscale_algorithm", "latent_format", "strength_type", "concat_mask"),
            "preprocess_image",
        )
        for name in shared:
            setattr(c, name, getattr(self, name))
        c.extra_args = dict(self.extra_args)
        c.extra_conds = list(self.extra_conds)
        c.extra_concat_orig = list(self.extra_concat_orig)
        if self.extra_hooks is not None:
            c.extra_hooks = self.extra_hooks.clone()

    def get_models(self) -> list[Any]:
        """Model patchers of the whole chain, to be loaded before sampling."""
        models = [m for clone in self.multigpu_clones.values() for m in clone.get_models_only_self()]
        if self.previous_controlnet is not None:
            models += self.previous_controlnet.get_models()
        return models

    def get_models_only_self(self) -> list[Any]:
        return self._alone(self.get_models)

    def get_instance_for_device(self, device: Any) -> ControlBase:
        return self.multigpu_clones.get(device, self)

    def deepclone_multigpu(self, load_device: Any, autoregister: bool = False) -> ControlBase:
        raise NotImplementedError(f"{type(self).__name__} has no deepclone_multigpu")

    def get_extra_hooks(self) -> list[Any]:
        own = [self.extra_hooks] if self.extra_hooks is not None else []
        return own + (
            self.previous_controlnet.get_extra_hooks() if self.previous_controlnet is not None else []
        )

    def inference_memory_requirements(self, dtype: torch.dtype) -> float:
        """Bytes that the chain needs beside its weights."""
        if self.previous_controlnet is not None:
            return self.previous_controlnet.inference_memory_requirements(dtype)
        return 0

    def control_merge(
        self,
        control: dict[str, list],
        control_prev: dict[str, list] | None,
        output_dtype: torch.dtype | None,
    ) -> dict[str, list]:
        """Apply the strength to a control's lists and add those of the chain before it, index by index.

        The strength is multiplied in place, as the host does: hand over tensors that nobody else holds.
        """
        merged: dict[str, list] = {key: [] for key in CONTROL_KEYS}
        scaled: set[int] = set()
        for key, entries in control.items():
            for i, entry in enumerate(entries):
                if entry is not None:
                    if self.global_average_pooling:
                        entry = entry.mean(dim=(2, 3), keepdim=True).expand_as(entry).clone()
                    if id(entry) not in scaled:
                        scaled.add(id(entry))
                        linear = self.strength_type is StrengthType.LINEAR_UP
                        entry *= self.strength ** (len(entries) - i) if linear else self.strength
                    if output_dtype is not None:
                        entry = entry.to(output_dtype)
                merged[key].append(entry)
        for key in CONTROL_KEYS if control_prev is not None else ():
            mine, before = merged[key], (control_prev or {})[key]
            mine += [None] * (len(before) - len(mine))
            for i, entry in enumerate(before):
                if entry is not None:
                    mine[i] = entry if mine[i] is None else entry + mine[i]
        return merged

"""Several controls that act as one."""

import copy
from collections.abc import Iterable
from functools import partial
from typing import Any

import comfy.controlnet
import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ...cnet_core.control.hint import stacked, unstacked
from ...cnet_core.control.merge import Rule
from ...cnet_core.errors import ControlError
from ..answers import Answer, Parts, merge_parts
from .calls import Call
from .models import size_of
from .steered import Steered, chained
from .tiles import Tiles


class MergedControl(comfy.controlnet.ControlBase):
    """Several controls that act as one; each keeps its weights. Those of one network run as one batch."""

    tiles: Tiles | None = None

    def __init__(self, controls: Iterable[Steered], rule: Rule):
        super().__init__()
        self.controls = list(controls)
        self.rule = rule

    @property
    def cond_hint_original(self) -> Tensor | None:
        """All that lies over the picture, as one tensor: the hints and masks of all units; see Steered."""
        pictures = self._pictures
        return stacked(pictures) if pictures else None

    @cond_hint_original.setter
    def cond_hint_original(self, value: Tensor | None) -> None:
        if value is None:
            return
        pictures = self._pictures
        parts = unstacked(value, pictures)
        if parts is None:
            raise ControlError(
                f"a tensor of shape {tuple(value.shape)} cannot be the hints of this merge, which have "
                f"the shapes {[tuple(picture.shape) for picture in pictures]}: connect the node that gives "
                "controls new hints before Merge Controls, or apply the controls one after the other."
            )
        left = iter(parts)
        # Copies, because other merges hold these units too.
        self.controls = [control.copy() for control in self.controls]
        for control in self.controls:
            control.take_pictures([next(left) for _ in control.pictures])

    @property
    def _pictures(self) -> list[Tensor]:
        return [picture for control in self.controls for picture in control.pictures]

    def copy(self) -> "MergedControl":
        other = MergedControl(self.controls, self.rule)
        self.copy_to(other)
        return other

    def copy_to(self, other: "MergedControl") -> None:
        # As if without units: the host's own would stack their hints.
        bare = copy.copy(self)
        bare.controls = []
        super(MergedControl, bare).copy_to(other)

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        super().pre_run(model, percent_to_timestep_function)
        self.cond_hint, self.tiles = None, Tiles(model, percent_to_timestep_function)
        for control in self.controls:
            control.pre_run(model, percent_to_timestep_function)

    def cleanup(self) -> None:
        super().cleanup()
        self.tiles = None
        for control in self.controls:
            control.cleanup()

    def get_models(self) -> list[Any]:
        models = super().get_models()
        for control in self.controls:
            models += [model for model in control.get_models() if model not in models]
        return models

    def get_extra_hooks(self) -> list[Any]:
        return super().get_extra_hooks() + [h for control in self.controls for h in control.get_extra_hooks()]

    def deepclone_multigpu(self, load_device: torch.device, autoregister: bool = False) -> "MergedControl":
        other = self.copy()
        other.controls = [control.deepclone_multigpu(load_device) for control in self.controls]
        if autoregister:
            self.multigpu_clones[load_device] = other
        return other

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        own = sum(control.inference_memory_requirements(dtype) for control in self.controls)
        # Controls of one network share it, and one that always acts has it loaded for all.
        late = [patcher for control in self.controls for patcher in control.late]
        loaded = self.get_models()
        own -= size_of(late) - size_of([patcher for patcher in dict.fromkeys(late) if patcher not in loaded])
        return own + super().inference_memory_requirements(dtype)

    def get_control(
        self, x_noisy: Tensor, t: Tensor, cond: dict, batched_number: int, transformer_options: dict
    ) -> Answer | None:
        call = Call(x_noisy, t, cond, batched_number, transformer_options)
        for control in self.controls:
            control.load(call)
        # One that changes the UNet's own layers must be through before these run.
        overlap = all(control.overlap for control in self.controls)
        assert self.tiles is not None
        return chained(self, call, partial(self.tiles.answer, self, call), overlap)

    def answer(self, call: Call) -> Answer | None:
        """What the controls say together."""
        present = [parts for parts in self.parts(call) if parts is not None]
        return merge_parts(present, self.rule) if present else None

    def parts(self, call: Call) -> list[Parts | None]:
        """What each control says, in the controls' order; None for the silent ones."""
        rows = [control.rows(call) for control in self.controls]
        spoken: list[Parts | None] = [None] * len(self.controls)
        groups: dict[Any, list[int]] = {}
        for i, control in enumerate(self.controls):
            if any(rows[i]):
                groups.setdefault(control.batch_key(call), []).append(i)
        for members in groups.values():
            controls = [self.controls[i] for i in members]
            answers = controls[0].parts_together(controls, call, [rows[i] for i in members])
            for i, answer in zip(members, answers, strict=True):
                spoken[i] = answer
        return spoken

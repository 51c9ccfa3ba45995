"""From conditioning to one prediction per step: batches of cond and uncond, controls, guidance (CFG)."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .errors import MinihostError
from .shims import model_management, model_patcher
from .shims.utils import repeat_to_batch_size

COND, UNCOND = 0, 1
UNSUPPORTED = ("area", "mask", "gligen", "hooks", "control_apply_to_uncond", "default")
UNSUPPORTED_OPTIONS = (
    *(
        "model_function_wrapper",
        "sampler_cfg_function",
        "sampler_post_cfg_function",
        "sampler_pre_cfg_function",
    ),
    *("sampler_calc_cond_batch_function", "denoise_mask_function", "context_handler"),
)


@dataclass
class Entry:
    """One conditioning entry, ready for a run."""

    which: int
    values: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    start: float = math.inf
    end: float = 0.0
    id: uuid.UUID = field(default_factory=uuid.uuid4)

    @property
    def control(self) -> Any:
        return self.values.get("control")

    @property
    def weight(self) -> float:
        return self.values.get("strength", 1.0)

    def active(self, sigma: float) -> bool:
        return self.end <= sigma <= self.start

    def joins(self, other: Entry) -> bool:
        """Whether both can be rows of one batch: the same control object and tensors of the same shapes."""
        if self.control is not other.control or self.tensors.keys() != other.tensors.keys():
            return False
        return all(tensor.shape == other.tensors[name].shape for name, tensor in self.tensors.items())


def entries(which: int, conditioning: list) -> list[Entry]:
    """Entries of a CONDITIONING, [[cond, {..}], ..]. MinihostError on what would be left out silently."""
    made = []
    for cond, values in conditioning:
        found = [key for key in UNSUPPORTED if values.get(key) is not None and values[key] is not False]
        if found:
            raise MinihostError(
                f"minihost cannot sample with '{found[0]}' in the conditioning; run this workflow in ComfyUI"
            )
        made.append(Entry(which, {**values, **({"cross_attn": cond} if cond is not None else {})}))
    return made


class Guider:
    """cond and uncond, evaluated together and combined: uncond + (cond - uncond) * cfg."""

    def __init__(self, patcher: Any, positive: list, negative: list, cfg: float):
        found = [key for key in UNSUPPORTED_OPTIONS if patcher.model_options.get(key)]
        if found:
            raise MinihostError(f"minihost cannot sample with the model option '{found[0]}'")
        self.patcher = patcher
        self.model = patcher.model
        self.cfg = cfg
        self.entries = entries(COND, positive) + entries(UNCOND, negative)
        self.options = model_patcher.deep_copy_containers(patcher.model_options)
        self.sample_sigmas: Tensor | None = None

    @contextmanager
    def run(self, noise: Tensor) -> Iterator[Callable[[Tensor, Tensor], Tensor]]:
        """Load the networks, start the controls, and give the denoiser (x, sigma) -> data.

        The patcher is cleaned up in any case, the controls only after success: the host leaves them
        alone when a run fails, and a pack must live with that.
        """
        controls = list(dict.fromkeys(entry.control for entry in self.entries if entry.control is not None))
        if any(control.get_extra_hooks() for control in controls):
            raise MinihostError(
                "minihost cannot sample with hooks on a control; run this workflow in ComfyUI"
            )
        loaded = [model for control in controls for model in control.get_models()]
        memory = self.model.memory_required([2 * noise.shape[0], *noise.shape[1:]])
        memory += sum(
            control.inference_memory_requirements(self.patcher.model_dtype()) for control in controls
        )
        model_management.load_models_gpu([self.patcher, *loaded], memory_required=memory)
        self.model.current_patcher = self.patcher
        self.patcher.pre_run()
        try:
            self._prepare(noise)
            yield self.denoise
        finally:
            self.patcher.cleanup()
        for thing in (*loaded, *controls):
            if hasattr(thing, "cleanup"):
                thing.cleanup()

    def _prepare(self, noise: Tensor) -> None:
        """Ranges as noise levels, tensors for the batch, and the controls told of the run."""
        to_sigma = self.model.model_sampling.percent_to_sigma
        height, width = noise.shape[2] * 8, noise.shape[3] * 8
        for entry in self.entries:
            if "start_percent" in entry.values:
                entry.start = to_sigma(entry.values["start_percent"])
            if "end_percent" in entry.values:
                entry.end = to_sigma(entry.values["end_percent"])
            size = {"width": width, "height": height, "noise": noise, "device": noise.device}
            found = self.model.extra_conds(**{**size, **entry.values})
            entry.tensors = {
                k: repeat_to_batch_size(v.to(noise.device), len(noise)) for k, v in found.items()
            }
        for entry in self.entries:
            if entry.control is not None:
                entry.control.pre_run(self.model, lambda percent: to_sigma(percent))

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The guided prediction of the data for x [B,C,H,W] at a noise level; at cfg 1 without uncond."""
        if math.isclose(self.cfg, 1.0):
            return self.predict(x, sigma, (COND,))[COND]
        found = self.predict(x, sigma, (COND, UNCOND))
        return found[UNCOND] + (found[COND] - found[UNCOND]) * self.cfg

    def predict(self, x: Tensor, sigma: Tensor, wanted: tuple[int, ...]) -> dict[int, Tensor]:
        """Predictions of cond and uncond, each the weighted mean of its active entries.

        Entries that share their control go through the network as one batch, the last first, as in the host.
        """
        sigmas = sigma.expand(x.shape[0])
        sums = {which: torch.zeros_like(x) for which in wanted}
        weights = {which: torch.full_like(x, 1e-37) for which in wanted}
        waiting = [entry for entry in self.entries if entry.which in wanted and entry.active(float(sigma))]
        while waiting:
            batch = [entry for entry in waiting if entry.joins(waiting[0])][::-1]
            waiting = [entry for entry in waiting if entry not in batch]
            chunks = self._apply(batch, x, sigmas).chunk(len(batch))
            for entry, chunk in zip(batch, chunks, strict=True):
                sums[entry.which] += chunk * entry.weight
                weights[entry.which] += entry.weight
        return {which: sums[which] / weights[which] for which in wanted}

    def _apply(self, batch: list[Entry], x: Tensor, sigmas: Tensor) -> Tensor:
        """One pass of the network over all entries of a batch, with what their control adds."""
        options = model_patcher.deep_copy_containers(self.options["transformer_options"])
        options["sample_sigmas"] = self.sample_sigmas
        options["cond_or_uncond"] = [entry.which for entry in batch]
        options["uuids"] = [entry.id for entry in batch]
        options["sigmas"] = sigmas
        given: dict[str, Any] = {
            name: torch.cat([entry.tensors[name] for entry in batch]) for name in batch[0].tensors
        }
        given["transformer_options"] = options
        x_all, sigmas_all = torch.cat([x] * len(batch)), torch.cat([sigmas] * len(batch))
        control = batch[0].control
        if control is not None:
            given["control"] = control.get_control(x_all, sigmas_all, given, len(batch), options)
        return self.model.apply_model(x_all, sigmas_all, **given)

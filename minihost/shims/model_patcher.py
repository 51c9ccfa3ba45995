"""`comfy.model_patcher`: a network with where it computes and what the user hung onto it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch

from . import model_management
from .patcher_extension import CallbacksMP


def deep_copy_containers(value: Any) -> Any:
    """Copy dicts and lists within one another; what they hold is shared."""
    if isinstance(value, dict):
        return {key: deep_copy_containers(one) for key, one in value.items()}
    if isinstance(value, list):
        return [deep_copy_containers(one) for one in value]
    return value


class ModelPatcher:
    """A network, shared between clones, and options, each clone's own.

    minihost changes no weights: what adds patches to them is not there, and asking for it is an
    AttributeError.
    """

    def __init__(
        self,
        model: Any,
        load_device: torch.device,
        offload_device: torch.device,
        size: int = 0,
        weight_inplace_update: bool = False,
    ):
        self.model = model
        self.load_device = load_device
        self.offload_device = offload_device
        self.size = size
        self.weight_inplace_update = weight_inplace_update
        self.model_options: dict[str, Any] = {"transformer_options": {}}
        # Of weights there are none, ever.
        self.patches: dict[str, list] = {}
        self.backup: dict[str, Any] = {}
        self.hook_backup: dict[str, Any] = {}
        self.object_patches: dict[str, Any] = {}
        self.additional_models: dict[str, list[ModelPatcher]] = {}
        self.attachments: dict[str, Any] = {}
        self.callbacks: dict[str, dict[str, list[Callable]]] = {}
        self.parent: ModelPatcher | None = None
        if getattr(model, "device", None) is None:
            model.device = offload_device

    def clone(self) -> ModelPatcher:
        made = copy.copy(self)
        made.model_options = deep_copy_containers(self.model_options)
        made.object_patches = dict(self.object_patches)
        made.attachments = dict(self.attachments)
        made.callbacks = deep_copy_containers(self.callbacks)
        made.additional_models = {
            key: [m.clone() for m in models] for key, models in self.additional_models.items()
        }
        made.parent = self
        return made

    def is_clone(self, other: Any) -> bool:
        return getattr(other, "model", None) is self.model

    def is_dynamic(self) -> bool:
        return False

    def model_size(self) -> int:
        """Bytes of the network."""
        self.size = self.size or model_management.module_size(self.model)
        return self.size

    def loaded_size(self) -> int:
        return self.model_size()

    def current_loaded_device(self) -> torch.device:
        return self.load_device

    def memory_required(self, input_shape: Any) -> float:
        return self.model.memory_required(input_shape=input_shape)

    def model_dtype(self) -> torch.dtype | None:
        return self.model.get_dtype() if hasattr(self.model, "get_dtype") else None

    def add_object_patch(self, name: str, obj: Any) -> None:
        """Stand `obj` in for the model's attribute `name` (dots allowed) in this clone."""
        self.object_patches[name] = obj

    def get_model_object(self, name: str) -> Any:
        """The model's attribute `name` (dots allowed), or what stands in for it."""
        if name in self.object_patches:
            return self.object_patches[name]
        found = self.model
        for part in name.split("."):
            found = getattr(found, part)
        return found

    def set_additional_models(self, key: str, models: list[ModelPatcher]) -> None:
        self.additional_models[key] = models

    def get_additional_models_with_key(self, key: str) -> list[ModelPatcher]:
        return self.additional_models.get(key, [])

    def get_additional_models(self) -> list[ModelPatcher]:
        return [model for models in self.additional_models.values() for model in models]

    def set_attachments(self, key: str, attachment: Any) -> None:
        self.attachments[key] = attachment

    def get_attachment(self, key: str) -> Any:
        return self.attachments.get(key)

    def model_state_dict(self, filter_prefix: str | None = None) -> dict[str, torch.Tensor]:
        state = self.model.state_dict()
        return {k: v for k, v in state.items() if filter_prefix is None or k.startswith(filter_prefix)}

    def pre_run(self) -> None:
        """Called before sampling."""

    def add_callback_with_key(self, call_type: str, key: str, callback: Callable) -> None:
        """Have `callback(patcher)` called at a moment of a run, until its key is removed."""
        self.callbacks.setdefault(call_type, {}).setdefault(key, []).append(callback)

    def remove_callbacks_with_key(self, call_type: str, key: str) -> None:
        self.callbacks.get(call_type, {}).pop(key, None)

    def get_all_callbacks(self, call_type: str) -> list[Callable]:
        return [one for keyed in self.callbacks.get(call_type, {}).values() for one in keyed]

    def cleanup(self) -> None:
        """Called after sampling, also when it failed."""
        for callback in self.get_all_callbacks(CallbacksMP.ON_CLEANUP):
            callback(self)


CoreModelPatcher = ModelPatcher

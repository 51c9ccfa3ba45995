"""`comfy.model_management`: devices, number formats, loading, interrupts. All on the CPU in float32."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch

CPU = torch.device("cpu")
_interrupt = threading.Event()


class InterruptProcessingException(BaseException):
    """The user cancelled. No Exception: a node that handles errors does not swallow it."""


def interrupt_current_processing(value: bool = True) -> None:
    """Ask the run to stop at its next check."""
    if value:
        _interrupt.set()
    else:
        _interrupt.clear()


def processing_interrupted() -> bool:
    return _interrupt.is_set()


def throw_exception_if_processing_interrupted() -> None:
    """Raise InterruptProcessingException once after each request to stop."""
    if _interrupt.is_set():
        _interrupt.clear()
        raise InterruptProcessingException


def get_torch_device() -> torch.device:
    return CPU


def intermediate_device() -> torch.device:
    return CPU


def unet_offload_device() -> torch.device:
    return CPU


def text_encoder_device() -> torch.device:
    return CPU


def text_encoder_offload_device() -> torch.device:
    return CPU


def vae_device() -> torch.device:
    return CPU


def vae_offload_device() -> torch.device:
    return CPU


def intermediate_dtype() -> torch.dtype:
    return torch.float32


def should_use_fp16(
    device: Any = None, model_params: int = 0, prioritize_performance: bool = True, manual_cast: bool = False
) -> bool:
    """False: half floats are slow on CPUs."""
    return False


def should_use_bf16(
    device: Any = None, model_params: int = 0, prioritize_performance: bool = True, manual_cast: bool = False
) -> bool:
    return False


def unet_dtype(
    device: Any = None,
    model_params: int = 0,
    supported_dtypes: Sequence[torch.dtype] = (torch.float16, torch.bfloat16, torch.float32),
    weight_dtype: torch.dtype | None = None,
) -> torch.dtype:
    """The format to keep weights in."""
    return torch.float32


def unet_manual_cast(
    weight_dtype: torch.dtype | None,
    inference_device: Any,
    supported_dtypes: Sequence[torch.dtype] = (torch.float16, torch.bfloat16, torch.float32),
) -> torch.dtype | None:
    """The format to compute in, where it is another than the weights'; None where it is the same."""
    return None if weight_dtype in (torch.float32, torch.float64) else torch.float32


def dtype_size(dtype: torch.dtype) -> int:
    """Bytes per value."""
    return dtype.itemsize


def module_size(module: torch.nn.Module) -> int:
    """Bytes of a module's parameters and buffers."""
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def loaded_models(only_currently_used: bool = False) -> list[Any]:
    """Models in use: minihost moves none, so none need to come back."""
    return []


def load_models_gpu(
    models: Sequence[Any],
    memory_required: float = 0,
    force_patch_weights: bool = False,
    minimum_memory_required: float | None = None,
    force_full_load: bool = False,
) -> None:
    """Bring these model patchers' networks to where they compute."""
    for patcher in models:
        patcher.model.to(patcher.load_device)


def soft_empty_cache(force: bool = False) -> None:
    """Give freed memory back to the device: a CPU has taken none."""


def load_model_gpu(model: Any) -> None:
    load_models_gpu([model])

"""`comfy.supported_models_base`: what a family of models has in common."""

from __future__ import annotations

from typing import Any

import torch

from . import latent_formats


class BASE:
    """A family's defaults as class attributes; an instance holds one model's own copy."""

    unet_config: dict[str, Any] = {}
    unet_extra_config: dict[str, Any] = {"num_heads": -1, "num_head_channels": 64}
    sampling_settings: dict[str, Any] = {}
    latent_format: Any = latent_formats.LatentFormat
    supported_inference_dtypes = [torch.float16, torch.bfloat16, torch.float32]
    memory_usage_factor = 2.0
    manual_cast_dtype: torch.dtype | None = None
    custom_operations: Any = None
    optimizations: dict[str, Any] = {"fp8": False}

    def __init__(self, unet_config: dict[str, Any]):
        self.unet_config = {**unet_config, **self.unet_extra_config}
        self.sampling_settings = dict(self.sampling_settings)
        self.latent_format = self.latent_format()
        self.optimizations = dict(self.optimizations)

    def process_unet_state_dict(self, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return state_dict

    def set_inference_dtype(
        self, dtype: torch.dtype, manual_cast_dtype: torch.dtype | None, device: Any = None
    ) -> None:
        """Keep weights in `dtype`, compute in `manual_cast_dtype` (None: the same)."""
        self.unet_config["dtype"] = dtype
        self.manual_cast_dtype = manual_cast_dtype

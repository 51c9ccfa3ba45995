"""`comfy.ops`: layers without initialisation, and layers that compute in their input's number format."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def cast(layer: Any, x: Tensor) -> tuple[Any, Any]:
    """The layer's weight and bias in the input's format and place."""
    weight, bias = layer.weight, layer.bias
    return (
        None if weight is None else weight.to(device=x.device, dtype=x.dtype),
        None if bias is None else bias.to(device=x.device, dtype=x.dtype),
    )


class disable_weight_init:
    """torch.nn's layers without random initial weights: a checkpoint fills them."""

    class Linear(nn.Linear):
        comfy_cast_weights = False

        def reset_parameters(self) -> None:
            """Leave the memory as it is."""

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, *cast(self, x)) if self.comfy_cast_weights else super().forward(x)

    class Conv2d(nn.Conv2d):
        comfy_cast_weights = False

        def reset_parameters(self) -> None:
            """Leave the memory as it is."""

        def forward(self, x: Tensor) -> Tensor:
            return self._conv_forward(x, *cast(self, x)) if self.comfy_cast_weights else super().forward(x)

    class GroupNorm(nn.GroupNorm):
        comfy_cast_weights = False

        def reset_parameters(self) -> None:
            """Leave the memory as it is."""

        def forward(self, x: Tensor) -> Tensor:
            if not self.comfy_cast_weights:
                return super().forward(x)
            return F.group_norm(x, self.num_groups, *cast(self, x), self.eps)

    class LayerNorm(nn.LayerNorm):
        comfy_cast_weights = False

        def reset_parameters(self) -> None:
            """Leave the memory as it is."""

        def forward(self, x: Tensor) -> Tensor:
            if not self.comfy_cast_weights:
                return super().forward(x)
            return F.layer_norm(x, self.normalized_shape, *cast(self, x), self.eps)

    class Embedding(nn.Embedding):
        comfy_cast_weights = False

        def reset_parameters(self) -> None:
            """Leave the memory as it is."""

        def forward(self, input: Tensor, out_dtype: torch.dtype | None = None) -> Tensor:
            found = super().forward(input)
            return found if out_dtype is None else found.to(out_dtype)


class manual_cast(disable_weight_init):
    """The same layers, each casting its weights to its input's format as it computes."""

    class Linear(disable_weight_init.Linear):
        comfy_cast_weights = True

    class Conv2d(disable_weight_init.Conv2d):
        comfy_cast_weights = True

    class GroupNorm(disable_weight_init.GroupNorm):
        comfy_cast_weights = True

    class LayerNorm(disable_weight_init.LayerNorm):
        comfy_cast_weights = True

    class Embedding(disable_weight_init.Embedding):
        comfy_cast_weights = True


def pick_operations(
    weight_dtype: torch.dtype | None,
    compute_dtype: torch.dtype | None,
    load_device: Any = None,
    disable_fast_fp8: bool = False,
    fp8_optimizations: bool = False,
    model_config: Any = None,
) -> type[disable_weight_init]:
    """The layers for weights kept in one format and computed in another (None: the same)."""
    return disable_weight_init if compute_dtype in (None, weight_dtype) else manual_cast

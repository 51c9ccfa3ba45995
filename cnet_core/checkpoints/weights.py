"""Weights of a network that are partly in its file and partly in the base that it was made for."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..errors import CheckpointError
from .text import printable

# The names under which a base UNet's weights are found in checkpoints and hosts, longest first.
UNET_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")
CONTROL_PREFIXES = ("control_model.", "")

# Beside a weight with one of these names it is no number by itself: a host or a tool quantised it.
_SCALES = (
    "weight_scale",
    "weight_scale_2",
    "scale_weight",
    "comfy_quant",
    "scaled_fp8",
    "absmax",
    "quant_map",
)


class Weight(Protocol):
    """What ControlFile needs of a weight: a Tensor has it, and a BaseWeight."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def numel(self) -> int: ...

    def to(self, dtype: torch.dtype) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class BaseWeight:
    """A weight of the base, with or without a change, computed when it is asked for by `to`.

    tensor: the base's, only ever read, on any device and in any precision, fp8 or one that dequantises itself
    included. shape: the weight's here, a 1x1 convolution's where the base has a linear layer or the reverse.
    change: gives, on a device and in fp32, what is added, of as many values.
    """

    tensor: Tensor
    shape: tuple[int, ...]
    change: Callable[[torch.device], Tensor] | None = None

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    def numel(self) -> int:
        return self.tensor.numel()

    def to(self, dtype: torch.dtype) -> Tensor:
        """On the CPU. A sum is taken in fp32 on the base's device; a weight without change is the base's own
        memory, as far as dtype and device allow it."""
        # Without its graph, and never the base's own Parameter object.
        weight = self.tensor.detach()
        plain = weight if type(weight) is Tensor else weight.dequantize()
        if self.change is None:
            return plain.to("cpu", dtype).view(self.shape)
        whole = plain.float()
        whole = whole + self.change(whole.device).view_as(whole)
        return whole.to("cpu", dtype).view(self.shape)


def scale_among(names: Iterable[str]) -> str | None:
    """The first name of a scale, by which weights are quantised; None where all are plain numbers."""
    return next((name for name in names if name.rpartition(".")[2] in _SCALES), None)


def refuse_quantised(path: Path, tensors: Mapping[str, Weight]) -> None:
    """Raise CheckpointError for weights that are no numbers by themselves."""
    scale = scale_among(tensors)
    if scale is not None:
        raise CheckpointError(
            f"{path} holds quantised weights, with their scales beside them ({printable(scale, 200)}), and "
            "ControlNets are loaded without these. Choose the file in fp16, bf16 or plain fp8, and the "
            "loader's precision for less memory."
        )


def low_rank(up: Tensor, down: Tensor) -> Callable[[torch.device], Tensor]:
    """The change up @ down of a linear layer or convolution: up [out,r] or [out,r,1,1], down [r,in] or
    [r,in,k,k]; the product [out,in*k*k]."""

    def change(device: torch.device) -> Tensor:
        a, b = (factor.detach().to(device, torch.float32).flatten(1) for factor in (up, down))
        return a @ b

    return change


def difference(weight: Weight) -> Callable[[torch.device], Tensor]:
    """The change that a file holds as a whole."""
    return lambda device: weight.to(torch.float32).to(device)


def base_weights(base: Mapping[str, Tensor] | None, prefixes: Sequence[str]) -> dict[str, Tensor] | None:
    """A base's tensors by LDM name without prefix; None if it has no UNet encoder in LDM names.

    Raises CheckpointError for weights whose scales are kept beside them: they are no numbers by themselves.
    """
    prefix = next((p for p in prefixes if base and f"{p}input_blocks.0.0.weight" in base), None)
    if base is None or prefix is None:
        return None
    scaled = scale_among(name for name in base if name.startswith(prefix))
    if scaled is not None:
        raise CheckpointError(
            f"the base's weights are quantised, with their scales beside them ({scaled}), and cannot be "
            "added to. Give the weights dequantised, or load the model in fp16, bf16 or plain fp8."
        )
    return {name.removeprefix(prefix): tensor for name, tensor in base.items() if name.startswith(prefix)}

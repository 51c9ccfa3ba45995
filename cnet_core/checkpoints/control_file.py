"""An opened ControlNet file: everything but the network, which is built from it on request."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..networks.blocks import Attention, sdpa
from ..networks.config import UNetConfig
from ..networks.controlnet import ControlNet
from .bases import base_name, check_base
from .family import Family
from .shapes import MissingTensorError, controlnet_config

_PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}

# The names under which a base UNet's weights are found in checkpoints and hosts, longest first.
UNET_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")


@dataclass(frozen=True, eq=False)
class ControlFile:
    """A ControlNet in a file, sizes known, weights still on disk.

    tensors: by LDM name without prefix. needs_base: the weights are differences to a base UNet's, which
    `build` must then be given. name_in_file: from LDM name to the file's own, for messages.
    """

    path: Path
    family: Family
    config: UNetConfig
    hint_channels: int
    hint_widths: tuple[int, ...]
    tensors: Mapping[str, Tensor] = field(repr=False)
    needs_base: bool = False
    name_in_file: Callable[[str], str] = field(default=str, repr=False)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights; one that holds them all where the file mixes them."""
        return file_dtype(self.tensors)

    @property
    def label(self) -> str:
        """One line for people: family, base model, precision and size."""
        return f"{self.family.name} for {base_name(self.config)}, {size_label(self.tensors)}"

    def check_base(self, base: UNetConfig, name: str) -> None:
        """Raise BaseMismatchError, naming both, if the network was made for another base."""
        check_base(self.config, base, name)

    def build(
        self,
        base: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype | None = None,
        operations: Any = nn,
        attention: Attention = sdpa,
    ) -> ControlNet:
        """The network with the file's weights, ready for inference, on the CPU.

        base: state dict of the base UNet (with or without the usual prefix), for files that need it; its
        tensors are read, never kept or changed. dtype: cast to it; without, weights keep the file's precision
        and are not copied but mapped from the file.
        Raises CheckpointError for missing or unexpected keys and wrong shapes.
        """
        dtype = dtype or self.dtype
        try:
            net = ControlNet(
                self.config,
                self.hint_channels,
                self.hint_widths,
                operations,
                attention,
                dtype,
                torch.device("meta"),
            )
        except ValueError as error:
            raise CheckpointError(
                f"{self.path} describes an impossible network: {error}. Download it again."
            ) from error
        check_tensors(self.path, self.tensors, net, self.name_in_file)
        tensors = self._with_base(base) if self.needs_base else self.tensors
        net.load_state_dict({name: tensor.to(dtype) for name, tensor in tensors.items()}, assign=True)
        return net.eval().requires_grad_(False)

    def _with_base(self, base: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """Weights with names of the base UNet are differences to it; joins and hint encoder are whole."""
        if base is None:
            raise CheckpointError(
                f"{self.path} is a difference ControlNet: its weights are differences to the base model's, "
                "which were not given. Load it with the model that it is applied to."
            )
        prefix = next((p for p in UNET_PREFIXES if f"{p}input_blocks.0.0.weight" in base), None)
        if prefix is None:
            raise CheckpointError(
                f"{self.path} is a difference ControlNet, and the model given as its base is no Stable "
                "Diffusion UNet (it has no input_blocks.0.0.weight). Apply it to an SD1.5, SD2.x or SDXL "
                "model."
            )
        tensors = dict(self.tensors)
        for name, difference in self.tensors.items():
            weight = base.get(prefix + name)
            if weight is None:
                continue
            if weight.numel() != difference.numel():
                raise CheckpointError(
                    f"{self.path} is a difference ControlNet for {base_name(self.config)}, and the model is "
                    f"another: {name} is {tuple(difference.shape)} in the file, {tuple(weight.shape)} in the "
                    f"model. Apply it to a model of the {base_name(self.config)} family."
                )
            # A 1x1 convolution in one may be a linear layer in the other.
            whole = weight.detach().to("cpu", torch.float32).view_as(difference) + difference.float()
            tensors[name] = whole.to(difference.dtype)
        return tensors


def control_file(
    path: Path,
    family: Family,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    needs_base: bool = False,
    name_in_file: Callable[[str], str] = str,
) -> ControlFile:
    """A ControlFile of LDM-named tensors, its sizes read from their shapes."""
    try:
        config, hint_channels, hint_widths = controlnet_config(tensors, metadata)
    except MissingTensorError as error:
        problem = f"it has no {name_in_file(error.name)}, which gives the size of the network"
        raise CheckpointError(
            f"{path} is a damaged or incomplete {family.name}: {problem}. Download it again."
        ) from None
    except (ValueError, IndexError) as error:
        raise CheckpointError(
            f"{path} is a damaged or incomplete {family.name}: {error}. Download it again."
        ) from error
    return ControlFile(path, family, config, hint_channels, hint_widths, tensors, needs_base, name_in_file)


def check_tensors(
    path: Path, tensors: Mapping[str, Tensor], net: nn.Module, name_in_file: Callable[[str], str] = str
) -> None:
    """Raise CheckpointError unless the tensors are exactly the network's, by name and shape."""
    expected = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    problems = []
    if missing := [name_in_file(name) for name in expected if name not in tensors]:
        problems.append(f"{len(missing)} missing: {_some(missing)}")
    if unexpected := [name_in_file(name) for name in tensors if name not in expected]:
        problems.append(f"{len(unexpected)} unexpected: {_some(unexpected)}")
    wrong = [
        f"{name_in_file(name)} is {tuple(tensors[name].shape)}, expected {shape}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    if wrong:
        problems.append(f"{len(wrong)} of another shape: {_some(wrong)}")
    if problems:
        raise CheckpointError(
            f"{path} does not hold the tensors of a {type(net).__name__} ({'; '.join(problems)}). Download "
            "it again, and if it is complete, it is a variant that this pack does not know."
        )


def file_dtype(tensors: Mapping[str, Tensor]) -> torch.dtype:
    """The precision of the tensors; one that holds them all where they differ."""
    dtypes = {tensor.dtype for tensor in tensors.values()}
    return dtypes.pop() if len(dtypes) == 1 else torch.float32


def size_label(tensors: Mapping[str, Tensor]) -> str:
    """Precision and number of parameters, like "fp16, 361.3 M parameters"."""
    names = {_PRECISIONS.get(t.dtype, str(t.dtype).removeprefix("torch.")) for t in tensors.values()}
    return f"{'/'.join(sorted(names))}, {sum(t.numel() for t in tensors.values()) / 1e6:.1f} M parameters"


def _some(items: list[str], count: int = 3) -> str:
    return ", ".join(items[:count]) + (", ..." if len(items) > count else "")

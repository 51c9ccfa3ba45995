"""ControlNet-LLLite files for SDXL, as sd-scripts trains them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..networks.blocks import Attention, sdpa
from ..networks.config import UNetConfig
from ..networks.lllite import STRIDES, LayerSizes, LLLite, differences, place_of
from .bases import bases_fitting, check_fit
from .control_file import VARIANT, check_tensors, file_dtype, filled, size_label
from .family import Family
from .read import StateFile

# The network holds all layers of a file under one name.
_PREFIX = "layers."


@dataclass(frozen=True, eq=False)
class LLLiteFile:
    """A ControlNet-LLLite in a file, sizes known, weights still on disk. sizes: of each hooked layer."""

    path: Path
    family: Family
    sizes: Mapping[str, LayerSizes] = field(repr=False)
    tensors: Mapping[str, Tensor] = field(repr=False)
    needs: None = None

    @property
    def hint_channels(self) -> int:
        return next(iter(self.sizes.values())).hint_channels

    @property
    def dtype(self) -> torch.dtype:
        return file_dtype(self.tensors)

    @property
    def base(self) -> str:
        """The kinds of base that it fits."""
        return bases_fitting(self.differences)

    @property
    def label(self) -> str:
        return f"{self.family.name} for {self.base}, {size_label(self.tensors)}"

    def differences(self, base: UNetConfig) -> list[str]:
        return differences(self.sizes, base)

    def check_base(self, base: UNetConfig, name: str) -> None:
        """Raise BaseMismatchError unless the base has every hooked layer, in its width."""
        check_fit(self.differences, base, name)

    def build(
        self,
        base: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype | None = None,
        operations: Any = nn,
        attention: Attention = sdpa,
    ) -> LLLite:
        """The network, as ControlFile.build makes it; `base` and `attention` are not used."""
        return filled(
            self.path, self._named, self._network, dtype or self.dtype, operations, self._name_in_file
        )

    def check(self) -> None:
        """As ControlFile.check does."""
        check_tensors(self.path, self._named, self._network(nn, None), self._name_in_file)

    def _network(self, layers: Any, dtype: torch.dtype | None) -> LLLite:
        return LLLite(self.sizes, layers, dtype, torch.device("meta"))

    @property
    def _named(self) -> dict[str, Tensor]:
        return {_PREFIX + name: tensor for name, tensor in self.tensors.items()}

    def _name_in_file(self, name: str) -> str:
        return name.removeprefix(_PREFIX)


def open_lllite(file: StateFile, family: Family) -> LLLiteFile:
    """Each hooked layer's sizes are read from its own shapes.

    Raises CheckpointError for files that hook other layers than those of the spatial transformers.
    """
    names = dict.fromkeys(name.partition(".")[0] for name in file.tensors)
    if others := [name for name in names if place_of(name) is None]:
        examples = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise CheckpointError(
            f"{file.path} is a {family.name} that corrects {len(others)} layers outside the transformers, or "
            f"of unknown names ({examples}). Use one that was trained on transformer layers, as sd-scripts "
            "trains them."
        )
    try:
        sizes = {name: _sizes(name, file.tensors) for name in names}
    except (KeyError, ValueError, IndexError, ArithmeticError) as error:
        problem = f"it has no {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(
            f"{file.path} is a damaged or incomplete {family.name}: {problem}. {VARIANT}"
        ) from None
    return LLLiteFile(file.path, family, sizes, file.tensors)


def _sizes(name: str, tensors: Mapping[str, Tensor]) -> LayerSizes:
    hidden, channels = tensors[f"{name}.down.0.weight"].shape[:2]
    half, hint_channels = tensors[f"{name}.conditioning1.0.weight"].shape[:2]
    convs = (tensors.get(f"{name}.conditioning1.{number}.weight") for number in (0, 2, 4))
    strides = tuple(conv.shape[-1] for conv in convs if conv is not None)
    depth = next((depth for depth, known in STRIDES.items() if known == strides), None)
    if depth is None:
        raise ValueError(f"{name} embeds the hint by strides {strides}, known are {list(STRIDES.values())}")
    return LayerSizes(channels, depth, 2 * half, hidden, hint_channels)

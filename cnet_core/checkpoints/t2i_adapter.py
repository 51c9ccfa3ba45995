"""T2I-Adapters of every kind, in the original release's layout or in diffusers'."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..networks.blocks import Attention, sdpa
from ..networks.config import UNetConfig
from ..networks.t2i_adapter import LAYOUTS, LEVELS, AdapterConfig, Kind, T2IAdapter
from .bases import bases_fitting, check_fit
from .control_file import VARIANT, check_tensors, file_dtype, filled, reading, size_label
from .convert import rename
from .family import Family
from .read import StateFile
from .shapes import block_number

_PREFIX = "adapter."


@dataclass(frozen=True, eq=False)
class AdapterFile:
    """A T2I-Adapter in a file, sizes known, weights still on disk.

    tensors: by the original release's names. name_in_file: from those to the file's own, for messages.
    """

    path: Path
    family: Family
    config: AdapterConfig
    tensors: Mapping[str, Tensor] = field(repr=False)
    name_in_file: Callable[[str], str] = field(default=str, repr=False)
    needs: None = None

    @property
    def hint_channels(self) -> int:
        return self.config.hint_channels

    @property
    def dtype(self) -> torch.dtype:
        return file_dtype(self.tensors)

    @property
    def base(self) -> str:
        """The kinds of base that it fits."""
        return bases_fitting(self.config.differences)

    @property
    def label(self) -> str:
        return f"{self.family.name} ({self.config.kind}) for {self.base}, {size_label(self.tensors)}"

    def check_base(self, base: UNetConfig, name: str) -> None:
        """Raise BaseMismatchError unless every feature fits the state that it is added to."""
        check_fit(self.config.differences, base, name)

    def build(
        self,
        base: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype | None = None,
        operations: Any = nn,
        attention: Attention = sdpa,
    ) -> T2IAdapter:
        """The network, as ControlFile.build makes it; `base` and `attention` are not used."""
        dtype = dtype or self.dtype
        return filled(self.path, self.tensors, self._network, dtype, operations, self.name_in_file)

    def check(self) -> None:
        """As ControlFile.check does."""
        check_tensors(self.path, self.tensors, self._network(nn, None), self.name_in_file)

    def _network(self, layers: Any, dtype: torch.dtype | None) -> T2IAdapter:
        return T2IAdapter(self.config, layers, dtype, torch.device("meta"))


def open_adapter(file: StateFile, family: Family) -> AdapterFile:
    """Sizes come from shapes: the number of input channels tells SDXL's (256 or 768) from the others."""
    with reading(file.path, family, str):
        blocks = _count(r"resnets\.(\d+)\.", file.tensors)
    light = any(name.endswith("body.0.out_conv.weight") for name in file.tensors)
    prefix = _PREFIX if any(name.startswith(_PREFIX) for name in file.tensors) else ""
    pairs = {ours: prefix + theirs for ours, theirs in _modules(light, blocks)}
    back = {theirs: ours for ours, theirs in pairs.items()}
    tensors = {rename(name, back).removeprefix(prefix): tensor for name, tensor in file.tensors.items()}

    def name_in_file(name: str) -> str:
        renamed = rename(name, pairs)
        return prefix + name if renamed == name else renamed

    try:
        config = _light(tensors) if light else _full(tensors)
    except (KeyError, ValueError, IndexError, ArithmeticError) as error:
        problem = f"it has no {name_in_file(error.args[0])}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(
            f"{file.path} is a damaged or incomplete {family.name}: {problem}. {VARIANT}"
        ) from None
    return AdapterFile(file.path, family, config, tensors, name_in_file)


def _modules(light: bool, blocks: int) -> Iterator[tuple[str, str]]:
    """(release, diffusers) names of the modules that are called differently there."""
    for level in range(LEVELS):
        for block in range(blocks):
            ours = f"body.{level}.body.{block}" if light else f"body.{level * blocks + block}"
            for part in ("block1", "block2"):
                yield f"{ours}.{part}", f"body.{level}.resnets.{block}.{part}"
        if not light and blocks:
            yield f"body.{level * blocks}.in_conv", f"body.{level}.in_conv"


def _light(tensors: Mapping[str, Tensor]) -> AdapterConfig:
    pixels = tensors["body.0.in_conv.weight"].shape[1]
    channels = tuple(tensors[f"body.{i}.out_conv.weight"].shape[0] for i in range(LEVELS))
    blocks = _count(r"body\.0\.body\.(\d+)\.", tensors)
    return AdapterConfig("light", _hint_channels(pixels, "light"), channels, blocks)


def _full(tensors: Mapping[str, Tensor]) -> AdapterConfig:
    pixels = tensors["conv_in.weight"].shape[1]
    kind: Kind = "xl" if pixels in (256, 768) else "full"
    count = _count(r"body\.(\d+)\.", tensors)
    if count % LEVELS:
        raise ValueError(f"its {count} residual blocks are no multiple of {LEVELS} levels")
    blocks = count // LEVELS
    return AdapterConfig(
        kind,
        _hint_channels(pixels, kind),
        tuple(tensors[f"body.{i * blocks}.block1.weight"].shape[0] for i in range(LEVELS)),
        blocks,
        tensors["body.0.block2.weight"].shape[2],
        pooled=not any(".down_opt." in name for name in tensors),
    )


def _hint_channels(pixels: int, kind: Kind) -> int:
    channels, rest = divmod(pixels, LAYOUTS[kind].unshuffle ** 2)
    if rest:
        raise ValueError(f"its {pixels} input channels are no whole number of pixels' channels")
    return channels


def _count(pattern: str, names: Iterable[str]) -> int:
    """One more than the highest number that the pattern finds in a name."""
    found = (match for name in names if (match := re.search(pattern, name)))
    return 1 + max((block_number(match[1]) for match in found), default=-1)

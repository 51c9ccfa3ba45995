"""One kind of checkpoint: how its keys tell it, and what becomes of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn

from ..networks.blocks import Attention, sdpa
from ..networks.config import UNetConfig

if TYPE_CHECKING:
    from .read import StateFile

Condition = Callable[[Mapping[str, Tensor]], bool]


class OpenedFile(Protocol):
    """A control network in a file, whatever its family: sizes known, weights still on disk."""

    @property
    def path(self) -> Path: ...

    @property
    def family(self) -> "Family": ...

    @property
    def label(self) -> str:
        """One line for people: family, base model, precision and size."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        ...

    @property
    def hint_channels(self) -> int: ...

    @property
    def needs(self) -> Literal["unet", "controlnet"] | None:
        """Whose weights `build` wants as its base: the base UNet's, another ControlNet's, or none."""
        ...

    def check_base(self, base: UNetConfig, name: str) -> None:
        """Raise BaseMismatchError if it was made for another base; name: what the message calls it."""
        ...

    def check(self) -> None:
        """Raise CheckpointError for what is wrong in the file itself, as `build` does, without building."""
        ...

    def build(
        self,
        base: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype | None = None,
        operations: Any = nn,
        attention: Attention = sdpa,
    ) -> nn.Module:
        """The network, ready for inference, on the CPU; arguments as in ControlFile.build."""
        ...


@dataclass(frozen=True)
class Family:
    """A kind of checkpoint.

    id: short and stable; name: what messages call it.
    matches: true for a state dict of this family, provided that no earlier family of the table matches.
    open: opens a file of it, for the families that this pack runs itself; None for the others.
    host: true where the host's own ControlNet loader takes the file.
    mend: for families without `open`, where the file belongs and which node loads it.
    """

    id: str
    name: str
    matches: Condition
    open: "Callable[[StateFile, Family], OpenedFile] | None" = None
    host: bool = False
    mend: str = ""

    @property
    def kind(self) -> Literal["native", "host", "other"]:
        """Who loads it: this pack, the host's own ControlNet loader, or neither."""
        if self.open is not None:
            return "native"
        return "host" if self.host else "other"


def has_all(*names: str) -> Condition:
    return lambda state: all(name in state for name in names)


def has_any(*names: str) -> Condition:
    return lambda state: any(name in state for name in names)


def starts_any(*prefixes: str) -> Condition:
    """Some name begins with one of these."""
    return lambda state: any(name.startswith(prefixes) for name in state)


def starts_none(*prefixes: str) -> Condition:
    """No name begins with one of these."""
    return lambda state: not any(name.startswith(prefixes) for name in state)


def contains_any(*parts: str) -> Condition:
    """Some name contains one of these."""
    return lambda state: any(part in name for name in state for part in parts)


def both(*conditions: Condition) -> Condition:
    return lambda state: all(condition(state) for condition in conditions)


def either(*conditions: Condition) -> Condition:
    return lambda state: any(condition(state) for condition in conditions)

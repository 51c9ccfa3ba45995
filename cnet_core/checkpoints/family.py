"""One kind of checkpoint: how its keys tell it, and what becomes of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

if TYPE_CHECKING:
    from .control_file import ControlFile
    from .read import StateFile

Condition = Callable[[Mapping[str, Tensor]], bool]


@dataclass(frozen=True)
class Family:
    """A kind of checkpoint.

    id: short and stable; name: what messages call it.
    matches: true for a state dict of this family, provided that no earlier family of the table matches.
    open: makes a ControlFile of it, for the families that this pack runs itself; None for the others.
    host: true where the host's own ControlNet loader takes the file.
    mend: for families without `open`, where the file belongs and which node loads it.
    """

    id: str
    name: str
    matches: Condition
    open: "Callable[[StateFile, Family], ControlFile] | None" = None
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

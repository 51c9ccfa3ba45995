"""The typed parameters of annotators: what nodes, shell and tests read ranges and defaults from.

advanced: nodes fold it away until the user asks for it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .errors import ParameterError


@dataclass(frozen=True)
class Int:
    """A whole number from minimum to maximum."""

    name: str
    default: int
    minimum: int
    maximum: int
    tooltip: str
    advanced: bool = False

    def check(self, value: Any) -> int:
        """The value as an int. Raises ParameterError if it is none, or outside the range."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not float(value).is_integer():
            raise ParameterError(f"{self.name} is {value!r}; expected a whole number.")
        return int(_within(self, value))

    def parse(self, text: str) -> int:
        """The value that a shell's word means."""
        try:
            value = int(text)
        except ValueError as error:
            raise ParameterError(f"{self.name} is {text!r}; expected a whole number.") from error
        return self.check(value)


@dataclass(frozen=True)
class Float:
    """A number from minimum to maximum."""

    name: str
    default: float
    minimum: float
    maximum: float
    tooltip: str
    step: float = 0.01
    advanced: bool = False

    def check(self, value: Any) -> float:
        """The value as a float. Raises ParameterError if it is none, or outside the range."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ParameterError(f"{self.name} is {value!r}; expected a number.")
        return float(_within(self, value))

    def parse(self, text: str) -> float:
        """The value that a shell's word means."""
        try:
            value = float(text)
        except ValueError as error:
            raise ParameterError(f"{self.name} is {text!r}; expected a number.") from error
        return self.check(value)


@dataclass(frozen=True)
class Bool:
    """Yes or no."""

    name: str
    default: bool
    tooltip: str
    advanced: bool = False

    def check(self, value: Any) -> bool:
        """The value. Raises ParameterError if it is no bool."""
        if not isinstance(value, bool):
            raise ParameterError(f"{self.name} is {value!r}; expected true or false.")
        return value

    def parse(self, text: str) -> bool:
        """The value that a shell's word means."""
        meanings = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        return self.check(meanings.get(text.lower(), text))


@dataclass(frozen=True)
class Choice:
    """One of several words."""

    name: str
    default: str
    options: Sequence[str]
    tooltip: str
    advanced: bool = False

    def check(self, value: Any) -> str:
        """The value. Raises ParameterError if it is none of the options."""
        if value not in self.options:
            raise ParameterError(f"{self.name} is {value!r}; choose one of {', '.join(self.options)}.")
        return value

    def parse(self, text: str) -> str:
        """The value that a shell's word means."""
        return self.check(text)


Parameter = Int | Float | Bool | Choice


def _within(parameter: Int | Float, value: float) -> float:
    if not parameter.minimum <= value <= parameter.maximum:
        raise ParameterError(
            f"{parameter.name} is {value}; expected a number from {parameter.minimum} to {parameter.maximum}."
        )
    return value

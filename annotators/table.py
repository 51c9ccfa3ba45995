"""All annotators, by id. An annotator comes in by being there: every module of the packages beside this one
(`classical`, `neural`, ...) that has an `ANNOTATOR`, or several in `ANNOTATORS`.
"""

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from .errors import ParameterError
from .registry import CONDITIONS, Annotator


def _found() -> Iterator[Annotator]:
    here, package = str(Path(__file__).parent), __package__
    for room in pkgutil.iter_modules([here]):
        if not room.ispkg:
            continue
        for module in pkgutil.iter_modules([f"{here}/{room.name}"]):
            loaded = import_module(f".{room.name}.{module.name}", package)
            if one := getattr(loaded, "ANNOTATOR", None):
                yield one
            yield from getattr(loaded, "ANNOTATORS", ())


def _table() -> dict[str, Annotator]:
    # Stable: within a condition the classical ones come before the neural ones.
    table: dict[str, Annotator] = {}
    for annotator in sorted(_found(), key=lambda one: CONDITIONS.index(one.condition)):
        if annotator.id in table:
            raise ValueError(f"two annotators have the id {annotator.id}")
        table[annotator.id] = annotator
    return table


ANNOTATORS = _table()


def find(name: str) -> Annotator:
    """The annotator of an id. Raises ParameterError if there is none."""
    if name not in ANNOTATORS:
        raise ParameterError(f"there is no annotator {name!r}; choose one of {', '.join(ANNOTATORS)}.")
    return ANNOTATORS[name]

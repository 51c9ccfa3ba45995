"""`comfy.patcher_extension`: what a pack can have called in a run: one wrapper, one callback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class CallbacksMP:
    """Moments of a run."""

    ON_CLEANUP = "on_cleanup"


class WrappersMP:
    """Where wrappers may be put."""

    DIFFUSION_MODEL = "diffusion_model"


class WrapperExecutor:
    """What a wrapper calls to go on: the next wrapper, and in the end the original."""

    def __init__(self, original: Callable, class_obj: Any, wrappers: list[Callable]):
        self.original, self.class_obj, self.wrappers = original, class_obj, wrappers

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.wrappers:
            return self.original(*args, **kwargs)
        inner = WrapperExecutor(self.original, self.class_obj, self.wrappers[1:])
        return self.wrappers[0](inner, *args, **kwargs)


def wrapped(
    original: Callable, class_obj: Any, kind: str, transformer_options: dict[str, Any] | None
) -> WrapperExecutor:
    """The original inside the wrappers of a kind that the options hold, the first one outermost."""
    found = ((transformer_options or {}).get("wrappers") or {}).get(kind, {})
    return WrapperExecutor(original, class_obj, [one for wrappers in found.values() for one in wrappers])

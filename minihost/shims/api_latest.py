"""`comfy_api.latest`: the extension class and the modules `io` and `ui`."""

from __future__ import annotations

import types
from abc import ABC, abstractmethod
from typing import Any

from . import api_dynamic, api_io, api_node
from . import api_ui as ui


class ComfyExtension(ABC):
    """What a pack's `comfy_entrypoint` returns."""

    async def on_load(self) -> None:  # noqa: B027 (packs need not override it)
        """Called once, before the nodes are listed."""

    @abstractmethod
    async def get_node_list(self) -> list[type[api_node.ComfyNode]]:
        """The pack's node classes."""


def _merge(*parts: types.ModuleType) -> Any:
    """One module with the public names of several."""
    merged = types.ModuleType("comfy_api.latest.io")
    for part in parts:
        vars(merged).update({n: v for n, v in vars(part).items() if n[0].isupper() and not n.isupper()})
    return merged


io = _merge(api_io, api_dynamic, api_node)
IO, UI = io, ui
__all__ = ["IO", "UI", "ComfyExtension", "io", "ui"]

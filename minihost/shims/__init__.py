"""The host's modules as far as the pack uses them, and `install`, which puts them where imports find them.

Names, signatures and meaning are the host's, the text is minihost's own.
"""

from __future__ import annotations

import sys
import types

from ..errors import PackError
from . import (
    api_input,
    api_latest,
    api_node,
    attention,
    controlnet,
    execution,
    folder_paths,
    latent_formats,
    model_base,
    model_management,
    model_patcher,
    model_sampling,
    ops,
    patcher_extension,
    sample,
    samplers,
    server,
    supported_models_base,
    utils,
)

SHIMS: dict[str, types.ModuleType] = {
    "folder_paths": folder_paths,
    "comfy_api.input": api_input,
    "comfy_api.latest": api_latest,
    "comfy.controlnet": controlnet,
    "comfy.latent_formats": latent_formats,
    "comfy.ldm.modules.attention": attention,
    "comfy.model_base": model_base,
    "comfy.model_management": model_management,
    "comfy.model_patcher": model_patcher,
    "comfy.model_sampling": model_sampling,
    "comfy.ops": ops,
    "comfy.patcher_extension": patcher_extension,
    "comfy.sample": sample,
    "comfy.samplers": samplers,
    "comfy.supported_models_base": supported_models_base,
    "comfy.utils": utils,
    "comfy_execution.graph_utils": execution,
    "server": server,
}


def package(name: str) -> types.ModuleType:
    """An empty package: importing a part that minihost lacks is a ModuleNotFoundError that names it."""
    made = types.ModuleType(name, "Part of minihost.")
    made.__path__ = []
    return made


def install() -> None:
    """Register the shims in sys.modules. PackError when a real ComfyUI is already loaded in this process."""
    parents = {name.rsplit(".", depth)[0] for name in SHIMS for depth in range(1, name.count(".") + 1)}
    modules = {**{name: package(name) for name in sorted(parents)}, **SHIMS}
    for name, module in modules.items():
        present = sys.modules.get(name)
        if present is not None and present is not module and getattr(present, "__path__", None) != []:
            where = getattr(present, "__file__", None) or "elsewhere"
            raise PackError(f"'{name}' is already loaded from {where}; run minihost in its own process")
    for name, module in modules.items():
        if name in SHIMS or name not in sys.modules:
            sys.modules[name] = module
        if "." in name:
            parent, child = name.rsplit(".", 1)
            setattr(sys.modules[parent], child, sys.modules[name])


__all__ = ["SHIMS", "api_latest", "api_node", "folder_paths", "install", "model_management"]

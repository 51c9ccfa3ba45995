"""Loading the pack as ComfyUI does: its directory, by path, through `comfy_entrypoint`."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import sys
from pathlib import Path
from typing import Any

from . import shims
from .errors import PackError
from .shims.api_latest import ComfyExtension
from .shims.api_node import ComfyNode

Nodes = dict[str, type[ComfyNode]]
PACK = Path(__file__).resolve().parent.parent


def load_pack(path: Path | str = PACK) -> Nodes:
    """The node classes of the pack in a directory, by node id. PackError when it cannot be loaded."""
    shims.install()
    directory = Path(path).absolute()
    start = directory / "__init__.py"
    if not start.is_file():
        raise PackError(f"{directory} is no node pack: it has no __init__.py")
    name = str(directory).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, start)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        raise PackError(f"cannot load the pack {directory}: {error}") from error
    entrypoint = getattr(module, "comfy_entrypoint", None)
    if not callable(entrypoint):
        raise PackError(f"{start} has no comfy_entrypoint(); a V3 pack returns its ComfyExtension from there")
    return asyncio.run(_nodes(entrypoint, directory))


async def _nodes(entrypoint: Any, directory: Path) -> Nodes:
    extension = entrypoint()
    if inspect.isawaitable(extension):
        extension = await extension
    if not isinstance(extension, ComfyExtension):
        raise PackError(
            f"comfy_entrypoint of {directory} returned {type(extension).__name__}, not a ComfyExtension"
        )
    await extension.on_load()
    found: Nodes = {}
    for node in await extension.get_node_list():
        node_id = node.GET_SCHEMA().node_id
        if node_id in found:
            raise PackError(f"{directory} has two nodes with the id '{node_id}'")
        node.RELATIVE_PYTHON_MODULE = f"custom_nodes.{directory.name}"
        found[node_id] = node
    return found


def load_nodes(path: Path | str = PACK) -> Nodes:
    """minihost's core nodes and those of the pack."""
    shims.install()
    from .nodes_core import CORE_NODES

    core = {node.GET_SCHEMA().node_id: node for node in CORE_NODES}
    pack = load_pack(path)
    both = core.keys() & pack.keys()
    if both:
        raise PackError(f"the pack's node id '{sorted(both)[0]}' is the host's own; give the node another id")
    return {**core, **pack}


def object_info(nodes: Nodes) -> dict[str, Any]:
    """Descriptions of nodes by id, as the host's /object_info gives them (JSON values)."""
    return json.loads(json.dumps({node_id: node.GET_NODE_INFO_V1() for node_id, node in nodes.items()}))

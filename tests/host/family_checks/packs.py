"""The pack, loaded without a running host."""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any


def load_pack(path: Path) -> dict[str, Any]:
    """The pack's node classes by id; its modules are then importable below `cnet_pack`."""
    spec = importlib.util.spec_from_file_location(
        "cnet_pack", path / "__init__.py", submodule_search_locations=[str(path)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["cnet_pack"] = module
    spec.loader.exec_module(module)
    return {node.define_schema().node_id: node for node in importlib.import_module("cnet_pack.nodes").NODES}

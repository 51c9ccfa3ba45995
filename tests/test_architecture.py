"""The rooms' one-way imports, as far as import-linter cannot see them.

A host makes the whole directory one package, so nodes reach the other rooms by relative imports beyond
`nodes`.
"""

import ast
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
NODES = sorted((REPO / "nodes").rglob("*.py"))
# What a host loads; minihost, demo and benchmarks are run from the repository instead.
LOADED = [
    *NODES,
    *sorted(path for room in ("cnet_core", "annotators") for path in (REPO / room).rglob("*.py")),
]


def name_of(path: Path) -> str:
    return str(path.relative_to(REPO))


def rooms_reached(path: Path, source: str) -> set[str]:
    """Top-level rooms of the repository that a file imports; absolute imports keep their first name."""
    package = path.relative_to(REPO).parent.parts
    reached = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            reached |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            reached |= {module[0]} if module else {alias.name for alias in node.names}
    return reached


def rooms() -> set[str]:
    return {path.parent.name for path in REPO.glob("*/__init__.py")}


def test_the_reader_of_imports_follows_every_form():
    path = REPO / "nodes" / "deep" / "x.py"
    source = """
import torch.nn
from ...cnet_core.control import merge
from ... import demo
from .. import host
from . import y
"""
    assert rooms_reached(path, source) == {"torch", "cnet_core", "demo", "nodes"}


@pytest.mark.parametrize("path", NODES, ids=name_of)
def test_nodes_import_only_the_kernels_and_the_annotators(path):
    assert rooms_reached(path, path.read_text("utf-8")) & rooms() <= {"nodes", "cnet_core", "annotators"}


@pytest.mark.parametrize("path", LOADED, ids=name_of)
def test_what_a_host_loads_reaches_the_rooms_relatively(path):
    """An absolute import would find another pack's folder of that name, or nothing, in a host."""
    absolute = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            absolute |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            absolute.add(node.module.split(".")[0])
    assert not absolute & rooms()

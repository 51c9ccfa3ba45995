"""Fixtures: every ComfyUI that is found, each started once with a temporary base directory."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .hosting import HOW_TO_GET_A_HOST, Host, find_hosts, host_label, minihost, workflow_file
from .random_weights import write_weights

HOSTS = find_hosts()
NONE: Any = pytest.param(None, marks=pytest.mark.skip(reason=HOW_TO_GET_A_HOST))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.host)


@pytest.fixture(
    scope="session",
    params=HOSTS or [NONE],
    ids=[f"ComfyUI-{host_label(root)}" for root in HOSTS] or ["no-ComfyUI"],
)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A running ComfyUI with this pack and the test probes as its only custom nodes."""
    root: Path = request.param
    running = Host(root, tmp_path_factory.mktemp("comfyui"))
    try:
        yield running.start()
    finally:
        running.stop()


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the random networks of `random_weights`."""
    folder = tmp_path_factory.mktemp("weights")
    write_weights(folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def minihost_pictures(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Path]]:
    """The PNGs that minihost saves of a shipped workflow, in the order of their names: without previews, and
    without what a training keeps in its own folder."""
    folder = tmp_path_factory.mktemp("minihost")

    def pictures(name: str) -> list[Path]:
        minihost("run", workflow_file(name), "--output", folder / name)
        return sorted((folder / name).glob("*.png"))

    return pictures

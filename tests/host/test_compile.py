"""The host's TorchCompileModel with two of our controls: the same result, and no graph compiled per step."""

import json
import shutil
from pathlib import Path

import pytest

from .hosting import HOW_TO_GET_A_HOST, REPO, find_hosts, host_label
from .test_families import CHECKS, in_host

pytestmark = pytest.mark.slow

HOSTS = find_hosts()


@pytest.mark.parametrize(
    "root",
    HOSTS or [pytest.param(None, marks=pytest.mark.skip(reason=HOW_TO_GET_A_HOST))],
    ids=[f"ComfyUI-{host_label(root)}" for root in HOSTS] or ["no-ComfyUI"],
)
@pytest.mark.parametrize(("backend", "tolerance"), [("eager", 0.0), ("inductor", 1e-4)])
def test_a_compiled_model_draws_the_same(root: Path, backend: str, tolerance: float, tmp_path: Path) -> None:
    if backend == "inductor" and not shutil.which("g++"):
        pytest.skip("inductor needs a C++ compiler")
    results = tmp_path / "results.json"
    in_host(root, CHECKS / "compiled.py", REPO, results, backend)
    found = json.loads(results.read_text())
    print(f"{backend}: {found}")
    assert found["effect"] > 1e-2
    assert found["difference"] <= tolerance * max(1.0, found["effect"])
    assert found["graphs_after_10"] == found["graphs_after_2"] > 0

"""The host's TorchCompileModel with our controls, and these compiled: same result, no graph a step."""

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
@pytest.mark.parametrize(
    ("what", "how", "tolerance"),
    [
        ("eager", "pair", 0.0),
        ("inductor", "pair", 1e-4),
        ("controls", "pair", 1e-4),
        # One of each family: ControlNet, union, T2I-Adapter, Control-LoRA.
        ("eager", "merged", 0.0),
        ("eager", "chained", 0.0),
        ("controls", "merged", 1e-4),
    ],
)
def test_what_is_compiled_draws_the_same(
    root: Path, what: str, how: str, tolerance: float, tmp_path: Path
) -> None:
    if what != "eager" and not shutil.which("g++"):
        pytest.skip("inductor needs a C++ compiler")
    results = tmp_path / "results.json"
    in_host(root, CHECKS / "compiled.py", REPO, results, what, how)
    found = json.loads(results.read_text())
    print(f"{what}, {how}: {found}")
    assert found["effect"] > 1e-2
    assert found["difference"] <= tolerance * max(1.0, found["effect"])
    assert found["graphs_after_10"] == found["graphs_after_2"] > 0

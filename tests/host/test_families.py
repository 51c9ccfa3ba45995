"""Controls that the host loads, wrapped by ours: every schedule, weight, mask and merge, in real hosts.

The checks themselves are in family_checks, run once per host by its own interpreter.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from .hosting import HOW_TO_GET_A_HOST, REPO, find_hosts, host_label, host_python

pytestmark = pytest.mark.slow

CHECKS = Path(__file__).parent / "family_checks"
HOSTS = find_hosts()
FAMILIES = [
    "flux_xlabs",
    "flux_mistoline",
    "flux_instantx",
    "flux_union",
    "sd3",
    "sd35",
    "qwen_instantx",
    "qwen_fun",
    "hunyuan_dit",
    "cascade",
    "sd15_controlnet",
    "sd15_control_lora",
    "sd15_t2i_adapter",
]


def in_host(root: Path, script: Path, *arguments: str | Path) -> None:
    """Run a script by a host's own interpreter in the host's folder; fails the test with its error output."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(host_python(root)), str(script), *map(str, arguments)],
        check=False,
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(
    scope="module",
    params=HOSTS or [pytest.param(None, marks=pytest.mark.skip(reason=HOW_TO_GET_A_HOST))],
    ids=[f"ComfyUI-{host_label(root)}" for root in HOSTS] or ["no-ComfyUI"],
)
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, str]]:
    """For each family and check "ok", "-" where the check means nothing, or what went wrong."""
    root: Path = request.param
    results = tmp_path_factory.mktemp("families") / "results.json"
    in_host(root, CHECKS, REPO, results)
    return json.loads(results.read_text())


@pytest.mark.parametrize("family", FAMILIES)
def test_family(outcomes: dict[str, dict[str, str]], family: str) -> None:
    found = outcomes[family]
    assert {check: what for check, what in found.items() if what not in ("ok", "-")} == {}
    assert sum(what == "ok" for what in found.values()) >= 10, found


def test_every_family_was_checked(outcomes: dict[str, dict[str, str]]) -> None:
    assert set(outcomes) == set(FAMILIES)

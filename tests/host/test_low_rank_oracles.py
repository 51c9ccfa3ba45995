"""The low-rank families beside the implementations of their peers, in each host's own Python."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from .conftest import HOSTS, NONE
from .hosting import host_label, host_python

SCRIPT = Path(__file__).with_name("compare_low_rank.py")


@pytest.fixture(params=HOSTS or [NONE], ids=[f"ComfyUI-{host_label(root)}" for root in HOSTS] or ["none"])
def compare(request, tmp_path):
    """(largest difference, smallest spread) of the residuals that the script finds."""

    def compare(family: str, argument: str) -> tuple[float, float]:
        command = [host_python(request.param), SCRIPT, family, tmp_path, argument]
        done = subprocess.run(command, cwd=request.param, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-4000:]
        found = json.loads(done.stdout.splitlines()[-1])
        return found["difference"], found["spread"]

    return compare


@pytest.mark.parametrize("topology", ["sd15", "sdxl"])
def test_control_lora_equals_comfyui_s(compare, topology):
    difference, spread = compare("control_lora", topology)
    assert spread > 0.05
    assert difference <= 1e-5


@pytest.mark.slow
@pytest.mark.skipif(
    "ADVANCED_CONTROLNET_PATH" not in os.environ,
    reason="set ADVANCED_CONTROLNET_PATH to a clone of ComfyUI-Advanced-ControlNet",
)
def test_ctrlora_equals_advanced_controlnet_s(compare):
    """Its own loader and network; the host's arithmetic for its LoRA."""
    difference, spread = compare("ctrlora", os.environ["ADVANCED_CONTROLNET_PATH"])
    assert spread > 0.05
    assert difference <= 1e-5

"""Reference-only beside Advanced-ControlNet, in each host's own Python; the script says what is compared."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from .conftest import HOSTS, NONE
from .hosting import REPO, host_label, host_python

SCRIPT = Path(__file__).with_name("compare_reference.py")
CASES = {"sd15 0.0", "sd15 0.5", "sd15 1.0", "sdxl 0.5"}


@pytest.mark.slow
@pytest.mark.skipif(
    "ADVANCED_CONTROLNET_PATH" not in os.environ,
    reason="set ADVANCED_CONTROLNET_PATH to a clone of ComfyUI-Advanced-ControlNet",
)
@pytest.mark.parametrize("root", HOSTS or [NONE], ids=host_label if HOSTS else None)
def test_reference_only_equals_advanced_controlnet_s_reference_attn(root):
    command = [host_python(root), SCRIPT, REPO, os.environ["ADVANCED_CONTROLNET_PATH"]]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert set(found) == CASES
    for result in found.values():
        assert result["effect"] > 0.01
        assert result["difference"] <= 1e-5

"""Difference files and global average pooling beside ComfyUI's own ControlNet, in each host's own Python."""

import json
import subprocess
from pathlib import Path

import pytest

from .conftest import HOSTS, NONE
from .hosting import REPO, host_label, host_python

SCRIPT = Path(__file__).with_name("compare_kinds.py")


@pytest.mark.slow
@pytest.mark.parametrize("root", HOSTS or [NONE], ids=host_label if HOSTS else None)
def test_difference_files_and_pooled_residuals_equal_comfyui_s(root: Path) -> None:
    command = [host_python(root), SCRIPT, REPO]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert set(found) == {"sd15 difference", "sd15 shuffle", "sdxl difference", "sdxl shuffle"}
    for result in found.values():
        assert result["effect"] > 0.1
        assert result["difference"] <= 1e-5

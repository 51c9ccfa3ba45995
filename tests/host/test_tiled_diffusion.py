"""Every control under Tiled Diffusion, in each host's own Python; the script says what is compared."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from .conftest import HOSTS, NONE
from .hosting import REPO, host_label, host_python

SCRIPT = Path(__file__).with_name("compare_tiled.py")
# Rounding of latents of up to 40, of another order of tiles in a batch.
TOLERANCE = 1e-4


@pytest.mark.slow
@pytest.mark.skipif(
    "TILED_DIFFUSION_PATH" not in os.environ,
    reason="set TILED_DIFFUSION_PATH to a clone of https://github.com/shiimizu/ComfyUI-TiledDiffusion",
)
@pytest.mark.parametrize("root", HOSTS or [NONE], ids=host_label if HOSTS else None)
def test_tiles_reach_our_controls_as_the_host_s(root: Path) -> None:
    command = [host_python(root), SCRIPT, REPO, os.environ["TILED_DIFFUSION_PATH"]]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert len(found) == 24
    for what, result in found.items():
        assert result["effect"] > 100 * TOLERANCE, what
        assert result["difference"] <= TOLERANCE, what

"""T2I-Adapter against ComfyUI's and LLLite against kohya's, on the host's UNet with random weights.

kohya's nodes are looked for in ControlNet-LLLite-ComfyUI of the host's custom_nodes, or where LLLITE_PATH
says; his sd-scripts, the original, where SD_SCRIPTS_PATH says.
"""

import functools
import json
import os
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from .conftest import HOSTS, NONE
from .hosting import host_label, host_python

SCRIPT = Path(__file__).with_name("compare_networks.py")
TOLERANCE = 1e-5

per_host = pytest.mark.parametrize("root", HOSTS or [NONE], ids=host_label if HOSTS else None)


def kohya_file(root: Path) -> Path | None:
    folder = os.environ.get("LLLITE_PATH") or root / "custom_nodes" / "ControlNet-LLLite-ComfyUI"
    file = Path(folder) / "node_control_net_lllite.py"
    return file if file.is_file() else None


def original_file() -> Path | None:
    file = Path(os.environ.get("SD_SCRIPTS_PATH", "")) / "networks" / "control_net_lllite.py"
    return file if file.is_file() else None


@functools.cache
def found(root: Path) -> dict[str, dict[str, Any]]:
    """What the script prints in this host."""
    with TemporaryDirectory() as scratch:
        peers = [kohya_file(root) or "none", original_file() or "none"]
        command = [host_python(root), SCRIPT, root, scratch, *peers]
        run = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


@per_host
@pytest.mark.parametrize("kind", ["full", "full, 3x3 and strided", "grey", "light", "xl"])
def test_t2i_adapter_equals_comfyuis_features_and_prediction(root, kind):
    result = found(root)[kind]
    assert result["effect"] > 0.01
    assert result["features"] <= TOLERANCE
    assert result["unet"] <= TOLERANCE


@per_host
def test_lllite_equals_kohyas_prediction(root):
    if kohya_file(root) is None:
        pytest.skip("kohya's ControlNet-LLLite-ComfyUI is not in the host's custom_nodes, nor at LLLITE_PATH")
    result = found(root)["lllite"]
    assert result["effect"] > 0.01
    assert result["unet"] <= TOLERANCE
    assert result["controlled row"] <= TOLERANCE
    assert result["other row"] == 0


@per_host
def test_lllite_of_attention_and_mlp_layers_equals_sd_scripts_prediction(root):
    """Every layer that it can hook, in a file as it writes it, on the host's UNet."""
    if original_file() is None:
        pytest.skip("clone https://github.com/kohya-ss/sd-scripts and set SD_SCRIPTS_PATH to the clone")
    result = found(root)["all layers"]
    hooked, read, outside_attentions = result["layers"]
    assert hooked == read > outside_attentions > 0
    assert result["effect"] > 0.01
    assert result["unet"] <= TOLERANCE
    assert result["after"] == 0

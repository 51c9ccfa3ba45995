"""The nodes around the mini checkpoints."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest


def test_the_mini_model_is_loaded_again_when_its_files_change(
    nodes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = nodes["CNetLoadMiniSD"]
    host = sys.modules[node.__module__].host
    weights = shutil.copytree(host.MINI_WEIGHTS, tmp_path / "weights")
    monkeypatch.setattr(host, "MINI_WEIGHTS", weights)
    before = node.fingerprint_inputs()
    assert node.fingerprint_inputs() == before
    with (weights / "unet.safetensors").open("ab") as file:
        file.write(b" ")
    changed = node.fingerprint_inputs()
    (weights / "text_encoder.safetensors").unlink()
    missing = node.fingerprint_inputs()
    assert before != changed != missing != before

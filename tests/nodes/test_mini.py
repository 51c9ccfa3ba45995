"""The nodes around the mini checkpoints."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file


def test_the_mini_model_is_loaded_again_when_its_files_change(
    nodes: dict[str, Any], host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = nodes["CNetLoadMiniSD"]
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


@pytest.mark.parametrize("name", ["unet", "autoencoder", "text_encoder"])
def test_a_file_that_is_no_mini_checkpoint_is_named(
    nodes: dict[str, Any], host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    node = nodes["CNetLoadMiniSD"]
    weights = shutil.copytree(host.MINI_WEIGHTS, tmp_path / "weights")
    monkeypatch.setattr(host, "MINI_WEIGHTS", weights)
    save_file({"foo": torch.zeros(1)}, weights / f"{name}.safetensors")
    with pytest.raises(ValueError, match=rf"{name}\.safetensors is no mini checkpoint"):
        node.execute()

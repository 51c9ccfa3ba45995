"""At SD1.5's full width: what two steps of training write, the host's own loader takes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cnet_core.training.cache import Preparation, build
from cnet_core.training.data import from_batch

from .hosting import REPO, Host
from .random_weights import give_weights
from .test_apply import difference, prompt

pytestmark = pytest.mark.slow

NAME = "trained.safetensors"


class Encoders:
    """Random latents and texts of SD1.5's sizes, from the pictures' and captions' own content."""

    latent_id = text_id = "random"
    latent_scale: float | None = None

    def latent(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        return torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(int(image.sum()))) * 5, None

    def text(self, caption: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        return torch.randn(77, 768, generator=torch.Generator().manual_seed(len(caption))), None


@pytest.fixture(scope="session")
def trained(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file of a ControlNet after two steps at 64x64, in a process whose memory is then free again."""
    folder = tmp_path_factory.mktemp("training")
    images, hints = torch.rand(2, 2, 64, 64, 3, generator=torch.Generator().manual_seed(3))
    build(from_batch(images, hints, ["one", "two or three"]), Encoders(), folder / "cache", Preparation(64))
    words = [
        *(sys.executable, "-m", "cnet_core.training", "fit", "--device", "cpu", "--precision", "bf16"),
        *("--cache", folder / "cache", "--base", weights / "sd15.safetensors", "--out", folder / "trained"),
        *("--steps", 2, "--accumulation", 1, "--warm-up", 0, "--rate", 1e-3),
    ]
    done = subprocess.run([str(word) for word in words], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for state in (folder / "trained" / "states").iterdir():
        state.unlink()
    yield folder / "trained" / NAME
    (folder / "trained" / NAME).unlink()


def test_a_trained_controlnet_gives_the_latent_of_ours_in_the_hosts_loader(
    host: Host, weights: Path, trained: Path
) -> None:
    if not (host.base / "models" / "controlnet" / "sd15_control.safetensors").exists():
        give_weights(host, weights)
    os.symlink(trained, host.base / "models" / "controlnet" / NAME)
    latents = {
        loader: host.queue(prompt((loader, loader, 1.0, 0.0, 1.0), file=NAME), 1200).checked().latent("save")
        for loader in ("host", "cnet")
    }
    bare = host.queue(prompt(), 1200).checked().latent("save")
    assert difference(latents["host"], bare) > 1e-2, "the control does nothing, so this says nothing"
    found = difference(latents["host"], latents["cnet"])
    print(f"max abs difference {found:.2e} of {latents['host'].abs().max():.2f}")
    assert found <= 1e-5

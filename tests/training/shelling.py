"""Trainings of a tiny base by command lines, in this process and in others."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cnet_core.checkpoints import read_state_dict, save_unet
from cnet_core.training.__main__ import main
from cnet_core.training.cache import Preparation, build
from cnet_core.training.data import from_batch

from .conftest import CONFIG, make_base

REPO = Path(__file__).parents[2]
# Small, quick to move weights, and never twice the same step by accident.
STEPS = 8
FLAGS = (
    *("--steps", STEPS, "--batch", 2, "--accumulation", 1, "--rate", 1e-2, "--warm-up", 2),
    *("--save-every", 3, "--show-every", 1, "--device", "cpu"),
)


class Encoders:
    """Latents and texts of the tiny base's sizes."""

    latent_id = text_id = "tiny"
    latent_scale: float | None = 0.5

    def latent(self, image):
        mean = image.movedim(-1, 0)[:, ::8, ::8]
        return torch.cat([mean, mean[:1]]), torch.full((4, 4, 4), 0.25)

    def text(self, caption):
        return torch.full((5, CONFIG.context_dim), float(len(caption))), None


@pytest.fixture
def told(tmp_path: Path) -> tuple:
    """Flags for a tiny training whose folder is tmp_path / "pose"."""
    save_unet(make_base(), tmp_path / "base.safetensors", {"cnet.prediction": "v"})
    generator = torch.Generator().manual_seed(1)
    images, hints = torch.rand(2, 6, 32, 32, 3, generator=generator)
    data = from_batch(images, hints, [str(i) * i for i in range(6)])
    build(data, Encoders(), tmp_path / "cache", Preparation(32, 16, "lines"))
    where = (
        "--cache",
        tmp_path / "cache",
        "--base",
        tmp_path / "base.safetensors",
        "--out",
        tmp_path / "pose",
    )
    return (*where, *FLAGS)


def run(*words: object) -> int:
    return main([str(word) for word in words])


def result(folder: Path) -> dict[str, torch.Tensor]:
    return dict(read_state_dict(folder / f"{folder.name}.safetensors").tensors)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def in_process(
    *words: object, when: Callable[[str], int | None] = lambda line: None, launcher: tuple = ()
) -> tuple[int, str]:
    """Run a command line in a process of its own; its status, and what it said on standard output.

    What it said on standard error goes on to this process's, where a failing test shows it. It computes with
    as many threads as this process, for other numbers add up sums in other orders.

    when: from a line of standard error to the signal to send then, if any. launcher: what Python runs that
    runs it in turn.
    """
    command = [sys.executable, *map(str, launcher), "-m", "cnet_core.training", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    with subprocess.Popen(
        command, cwd=REPO, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stderr:
            sys.stderr.write(line)
            if (number := when(line)) is not None:
                process.send_signal(number)
        return process.wait(), process.stdout.read()

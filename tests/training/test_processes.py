"""Several processes, as Hugging Face accelerate launches them, train as one does."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from cnet_core.training.config import Settings
from cnet_core.training.loop import STATES
from cnet_core.training.start import trainable
from cnet_core.training.state import State, read_state

from .conftest import make_base
from .shelling import REPO, in_process, run, told

__all__ = ["told"]

pytest.importorskip("accelerate")

# On the CPU too, accelerate starts several processes by this flag. Port 0: any that is free.
LAUNCH = (
    *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", 2, "--main_process_port", 0),
    *("--num_machines", 1, "--mixed_precision", "no", "--dynamo_backend", "no"),
)


def moved(state: State, rank: int = 0) -> torch.Tensor:
    """How far the trained weights have moved from where they began, as one vector."""
    net = trainable(make_base(), Settings(rank=rank, precision="fp32"))
    before = {f"control.{name}": p.detach() for name, p in net.named_parameters() if p.requires_grad}
    assert before.keys() == {name for name in state.tensors if name.startswith("control.")}
    return torch.cat([(state.tensors[name] - begun).flatten() for name, begun in before.items()])


def check_alike(theirs: State, ours: State, rank: int = 0) -> None:
    """Up to rounding, which AdamW makes larger where gradients are almost nothing."""
    losses = "history.losses"
    torch.testing.assert_close(theirs.tensors[losses], ours.tensors[losses], rtol=1e-4, atol=1e-5)
    path = moved(ours, rank)
    assert torch.linalg.norm(moved(theirs, rank) - path) < 1e-3 * torch.linalg.norm(path)


def test_two_processes_train_as_one_does_on_the_same_examples(told, tmp_path):
    steps = ("--steps", 4, "--ema", 0.9, "--show-every", 2)
    assert in_process("fit", *told, *steps, "--batch", 1, launcher=LAUNCH)[0] == 0
    assert run("fit", *told, *steps, "--batch", 1, "--accumulation", 2, "--out", tmp_path / "one") == 0
    theirs, ours = (
        read_state(tmp_path / name / STATES / "step-00000004.safetensors") for name in ("pose", "one")
    )
    check_alike(theirs, ours)
    assert theirs.facts["identity"]["processes"] == 2


def test_ctrl_c_stops_both_of_two_processes_and_they_go_on_as_if_it_had_not(told, tmp_path):
    """A Control-LoRA, whose result is that of one process. The launcher hands the signal on to both."""
    lora, endless = ("--rank", 2, "--batch", 1, "--rate", 1e-3), ("--steps", 100_000, "--save-every", 100_000)

    def interrupt(line: str) -> int | None:
        return signal.SIGINT if line.startswith("step 2/") else None

    said = in_process("fit", *told, *lora, *endless, when=interrupt, launcher=LAUNCH)[1]
    (written,) = (tmp_path / "pose" / STATES).iterdir()
    step = read_state(written).step
    assert said.count(f"stopped after step {step}. Go on with: ") == 1
    more = ("--steps", step + 2, "--device", "cpu")
    assert in_process("resume", tmp_path / "pose", *more, launcher=LAUNCH)[0] == 0
    assert run("fit", *told, *lora, "--accumulation", 2, "--steps", step + 2, "--out", tmp_path / "one") == 0
    theirs, ours = (
        read_state(tmp_path / name / STATES / f"step-{step + 2:08}.safetensors") for name in ("pose", "one")
    )
    check_alike(theirs, ours, rank=2)


@pytest.mark.parametrize("started", [1, 2])
def test_one_of_several_ends_without_what_may_go_wrong_at_pythons_own_end(started):
    """As torch's threads do, now and then; a single process is left to end as usual."""
    script = (
        "import atexit, os; from cnet_core.training.processes import leave; atexit.register(os._exit, 9); "
        "print('said'); leave(3)"
    )
    environment = {**os.environ, "WORLD_SIZE": str(started)}
    ended = subprocess.run([sys.executable, "-c", script], cwd=REPO, env=environment, capture_output=True)
    assert ended.returncode == (3 if started > 1 else 9)
    assert started == 1 or ended.stdout.split() == [b"said"]

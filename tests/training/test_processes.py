"""Several processes, as Hugging Face accelerate launches them, train as one does."""

import pytest
import torch

from cnet_core.training.loop import STATES
from cnet_core.training.state import State, read_state

from .conftest import make_base
from .shelling import in_process, run, told

__all__ = ["told"]

pytest.importorskip("accelerate")

# On the CPU too, accelerate starts several processes by this flag. Port 0: any that is free.
LAUNCH = (
    *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", 2, "--main_process_port", 0),
    *("--num_machines", 1, "--mixed_precision", "no", "--dynamo_backend", "no"),
)


def moved(state: State) -> torch.Tensor:
    """How far the copied weights have moved from the base's, as one vector."""
    before = make_base().state_dict()
    names = [name for name in before if f"control.{name}" in state.tensors]
    assert names
    return torch.cat([(state.tensors[f"control.{name}"] - before[name]).flatten() for name in names])


def test_two_processes_train_as_one_does_on_the_same_examples(told, tmp_path):
    """Up to rounding, which AdamW makes larger where gradients are almost nothing."""
    steps = ("--steps", 4, "--ema", 0.9, "--show-every", 2)
    assert in_process("fit", *told, *steps, "--batch", 1, launcher=LAUNCH)[0] == 0
    assert run("fit", *told, *steps, "--batch", 1, "--accumulation", 2, "--out", tmp_path / "one") == 0
    theirs, ours = (
        read_state(tmp_path / name / STATES / "step-00000004.safetensors") for name in ("pose", "one")
    )
    losses = "history.losses"
    torch.testing.assert_close(theirs.tensors[losses], ours.tensors[losses], rtol=1e-4, atol=1e-5)
    assert torch.linalg.norm(moved(theirs) - moved(ours)) < 1e-3 * torch.linalg.norm(moved(ours))
    assert theirs.facts["identity"]["processes"] == 2
    assert in_process("resume", tmp_path / "pose", "--steps", 6, "--device", "cpu", launcher=LAUNCH)[0] == 0
    assert (tmp_path / "pose" / STATES / "step-00000006.safetensors").exists()

"""The processes of one training: this one alone, or several that Hugging Face accelerate has started."""

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ..errors import TrainingError


class Processes:
    """One process, which is also what several have in common: the number `rank` of `count` on `device`."""

    rank, count = 0, 1

    def __init__(self, device: torch.device | str = "cpu"):
        self.device = torch.device(device)

    @property
    def first(self) -> bool:
        """Whether this process writes and reports for all."""
        return self.rank == 0

    def shared(self, control: nn.Module) -> nn.Module:
        """The network whose gradients are the mean over all processes."""
        return control

    def collecting(self, control: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward: gradients are exchanged in the last batch of a step only."""
        return nullcontext()

    def gathered(self, values: Tensor) -> Tensor:
        """[count, ...]: the same tensor of every process."""
        return values[None]


class Accelerated(Processes):
    """Processes started by `accelerate launch`; each has a device of its own, or all of them are on the CPU.

    Raises TrainingError without accelerate, or if it finds another number of processes than was started.
    """

    def __init__(self, on_cpu: bool) -> None:
        try:
            from accelerate import Accelerator
        except ImportError as error:
            raise TrainingError(
                "training on several processes needs accelerate, which is not installed: python -m pip "
                "install accelerate (or: uv sync --extra training)."
            ) from error
        # Precision and accumulation are the step's own.
        self.accelerator = Accelerator(mixed_precision="no", cpu=on_cpu)
        self.rank, self.count = self.accelerator.process_index, self.accelerator.num_processes
        if self.count != _started():
            # Each would train by itself, into the same folder.
            raise TrainingError(
                f"{_started()} processes were started, but accelerate sees {self.count}: it does not know "
                "this machine's devices. Add --device cpu, or start a single process."
            )
        super().__init__(self.accelerator.device)

    def shared(self, control: nn.Module) -> nn.Module:
        return self.accelerator.prepare_model(control)

    def collecting(self, control: nn.Module, last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if last else self.accelerator.no_sync(control)

    def gathered(self, values: Tensor) -> Tensor:
        return self.accelerator.gather(values[None])


def _started() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def processes(device: str | None = None) -> Processes:
    """Those that this one was started among; alone, on `device` (by default a GPU where there is one).

    Several take each a GPU of its own, or the CPU if `device` says so or there is no GPU.
    Raises TrainingError for a device that is not there.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if _started() > 1:
        return Accelerated(device == "cpu")
    try:
        torch.empty(0, device=device)
    # Asked for CUDA, a torch without it fails by an assertion.
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(f"torch has no device {device!r} to train on: {reason}") from error
    return Processes(device)


def leave(status: int) -> NoReturn:
    """End this process; one of several without Python's own end.

    There, a thread of torch's that still holds tensors of the last exchange now and then ends the process by
    SIGABRT, after all its work, and the launcher calls that a failure (pytorch issue 190489).
    """
    if _started() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)

"""States of a training on disk, from which it goes on exactly: the newest few, each whole or not there."""

import contextlib
import errno
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from safetensors import SafetensorError
from torch import Tensor

from ..checkpoints.load import write_tensors
from ..checkpoints.read import read_state_dict
from ..errors import CheckpointError, TrainingError

_FACTS = "cnet.training"


@dataclass(frozen=True, eq=False)
class State:
    """tensors: by name; facts: all else, as JSON has it (its floats come back bit for bit)."""

    step: int
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


class States:
    """The states in a folder, at most `keep` of them."""

    def __init__(self, folder: Path, keep: int):
        self.folder, self.keep = folder, keep

    def paths(self) -> list[Path]:
        """Oldest first."""
        return sorted(self.folder.glob("step-*.safetensors"))

    def write(self, state: State) -> Path:
        """Write one more, then remove the oldest beyond `keep`.

        Those of later steps are damaged, or they would have been gone on from; they do not count. Raises
        TrainingError if it cannot be written; those that are there stay.
        """
        path = self.folder / f"step-{state.step:08}.safetensors"
        facts = json.dumps({**state.facts, "step": state.step})
        with writing(path):
            write_tensors(path, state.tensors, {_FACTS: facts})
        # With what a killed process left behind of a state that it was writing.
        counted = [other for other in self.paths() if other.name <= path.name]
        for old in (*counted[: -self.keep], *self.folder.glob(".step-*.tmp")):
            # Never worth an end of the training.
            with contextlib.suppress(OSError):
                old.unlink()
        return path

    def newest(self) -> tuple[State | None, list[str]]:
        """The newest state that can be read, and what is wrong with the newer ones."""
        problems: list[str] = []
        for path in reversed(self.paths()):
            try:
                return read_state(path), problems
            except TrainingError as error:
                problems.append(str(error))
        return None, problems


def read_state(path: Path) -> State:
    """Raises TrainingError unless the file is a whole state of a training."""
    try:
        file = read_state_dict(path)
        facts = json.loads(file.metadata[_FACTS])
        return State(facts["step"], file.tensors, facts)
    except (CheckpointError, KeyError, ValueError) as error:
        raise TrainingError(f"{path} is no state of a training, or it is damaged: {error}") from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what goes wrong while a file is written into a TrainingError about it."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        mend = "name another place, free space or mend the permissions"
        if isinstance(error, PermissionError) and path.exists():
            mend = "end the program that holds it, such as a ComfyUI that loaded it, or mend the permissions"
        raise TrainingError(
            f"{path} cannot be written: {reason}. What was written before is whole; {mend}, and try again."
        ) from error


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps other processes from training in the folder, until the end of this one at the latest.

    Raises TrainingError if one does. Where the file system knows no locks, and in another user's folder,
    nobody is kept.
    """
    try:
        file = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        yield
        return
    try:
        if not _locked(file, True):
            raise TrainingError(
                f"another process trains in {folder}. Wait for its end, or choose another folder."
            )
        try:
            yield
        finally:
            # Else a process that was forked meanwhile would keep it.
            _locked(file, False)
    finally:
        os.close(file)


def _locked(file: int, lock: bool) -> bool:
    """Lock an open file or let go of it; False if another process has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(file, 0, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK if lock else msvcrt.LK_UNLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, (fcntl.LOCK_EX | fcntl.LOCK_NB) if lock else fcntl.LOCK_UN)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
    return True


def check_writable(folder: Path) -> None:
    """Raise TrainingError unless states can be written into the folder, which is made if need be."""
    # As long a name as any that is written: where names end, so does the training.
    probe = folder / f".step-00000000.safetensors.{uuid4().hex}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(os.urandom(1))
        probe.unlink()
    except OSError as error:
        raise TrainingError(
            f"{folder} cannot be written to: {error.strerror}. Choose a folder of your own, or mend its "
            "permissions; nothing was trained."
        ) from error

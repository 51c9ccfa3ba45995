"""Tensors on disk by content: safetensors shards, each written whole or not at all, and checked when read."""

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..checkpoints.read import lacks_memory
from ..errors import DataError
from ..files import put

_CHECKSUM = "cnet.sha256"
# A glob for the last part of a shard's name.
_HASH = "[0-9a-f]" * 16


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that at every moment the old one or the new one is there, never a part.

    Raises DataError for a full disk, a missing permission and the like; the old file is then as it was.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        put(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise DataError(
            f"{path} cannot be written: {error.strerror or error}. What was written before is whole; free "
            "space or mend the permissions, and run it again: it goes on from there."
        ) from error


def remove_parts(folder: Path, name: str) -> None:
    """Remove what killed processes left half written of files whose names match the glob `name`. Younger than
    an hour, it may be another's at work."""
    for part in folder.glob(f".{name}.*.part"):
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > 3600:
                part.unlink()


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Shards:
    """The shards of one kind in a folder: `add` writes one more, `get` reads from any.

    Each holds entries, and an entry one or several tensors, named "KEY.PART". Which entries are there is read
    from the shards themselves, so no index can fall out of step. Damaged shards are left out, and listed in
    `damaged`. None is held open: on Windows nobody could remove or replace it. verify: look for damage all
    through them, and clear away what killed processes left of some.
    Raises DataError for a shard that cannot be read now, whatever it holds.
    """

    def __init__(self, folder: Path, kind: str, verify: bool = False):
        self.folder, self.kind = folder, kind
        self.damaged: dict[Path, str] = {}
        # Shards by the full names of their tensors.
        self._where: dict[str, Path] = {}
        self._keys: set[str] = set()
        if verify:
            remove_parts(folder, f"{kind}-{_HASH}.safetensors")
        # The folder may hold files of others.
        self.paths = sorted(folder.glob(f"{kind}-{_HASH}.safetensors"))
        for path in self.paths:
            try:
                self._note(path, self._names(path, verify))
            except (SafetensorError, ValueError) as error:
                self.damaged[path] = str(error) or type(error).__name__
            except (OSError, RuntimeError, MemoryError) as error:
                raise _unread(path, error) from error

    def _names(self, path: Path, verify: bool) -> list[str]:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            if verify and (file.metadata() or {}).get(_CHECKSUM) != checksum(
                {name: file.get_tensor(name) for name in names}
            ):
                raise ValueError("its content does not match its checksum")
        return names

    def _note(self, path: Path, names: Iterable[str]) -> None:
        for name in names:
            self._where[name] = path
            self._keys.add(name.rpartition(".")[0])

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def lengths(self, part: str) -> dict[str, int]:
        """The first side of this part of each entry that has it; no values are read.

        Raises DataError for a shard that cannot be read.
        """
        found = {}
        for path in sorted(set(self._where.values())):
            with _reading(path), safe_open(path, "pt") as file:
                for name in list(file.keys()):
                    key, _, own = name.rpartition(".")
                    if own == part:
                        found[key] = file.get_slice(name).get_shape()[0]
        return found

    def add(self, entries: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Write entries as one shard, named by their keys. Raises DataError if it cannot be written."""
        tensors = {
            f"{key}.{part}": tensor.detach().cpu().contiguous()
            for key, parts in entries.items()
            for part, tensor in parts.items()
        }
        name = hashlib.sha256("\n".join(sorted(entries)).encode()).hexdigest()[:16]
        path = self.folder / f"{self.kind}-{name}.safetensors"
        write_whole(path, save(tensors, {_CHECKSUM: checksum(tensors)}))
        self._note(path, tensors)

    def get(self, key: str, part: str) -> Tensor | None:
        """One part of an entry, None where the entry has no such part.

        Raises DataError if the entry is missing or its shard cannot be read.
        """
        if key not in self._keys:
            raise DataError(f"{self.folder} lacks an entry of its {self.kind}; cache the data again.")
        name = f"{key}.{part}"
        path = self._where.get(name)
        if path is None:
            return None
        with _reading(path), safe_open(path, "pt") as file:
            # What the file gives is part of its mapping.
            return file.get_tensor(name).clone()


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns what goes wrong with a shard that was whole when it was found into a DataError about it."""
    try:
        yield
    except (SafetensorError, FileNotFoundError) as error:
        raise DataError(f"{path} is damaged: {error}. Cache the data again, which mends it.") from error
    except (OSError, RuntimeError, MemoryError) as error:
        raise _unread(path, error) from error


def _unread(path: Path, error: Exception) -> DataError:
    """The error for a shard that is not known to be damaged."""
    mend = (
        "Close other programs, or enlarge the system's swap or paging file"
        if lacks_memory(error)
        else "Check its permissions, and that no other program holds it"
    )
    return DataError(f"{path} cannot be read: {error}. {mend}, and try again; nothing was removed.")

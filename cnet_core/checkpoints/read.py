"""Read a checkpoint file into tensors, safely and without copying, whatever its extension says."""

import json
import pickle
import re
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import CheckpointError
from .text import printable

# A safetensors header of real models is well under a megabyte; the format's own limit is 100 MB.
_MAX_HEADER = 100_000_000
# Names of tensors, and how many things a pickle may hold, its groups counted as often as they are reached.
_MAX_NAME = 1000
_MAX_THINGS = 10**6

# Containers that training scripts wrap their weights in, the usual ones of the field; others are known by
# holding nothing else.
_CONTAINERS = ("state_dict", "module", "params_ema", "params")

# First bytes of things that downloads leave behind in place of a checkpoint: what it is, and the mend.
_NOT_CHECKPOINTS: tuple[tuple[bytes, str, str], ...] = (
    (
        b"version https://git-lfs",
        "a git-lfs pointer, a short text that stands for the real file",
        "Run `git lfs pull` in the repository it came from, or download the file itself.",
    ),
    (
        b"<",
        "a web page (HTML or XML)",
        "Download it again with the page's download button; models behind a licence need a login first.",
    ),
    (b"{", "a text file (JSON)", "Choose the weights file that belongs to it, usually a .safetensors file."),
    (b"GGUF", "a GGUF file", "Download the .safetensors version of the model."),
    (b"7z\xbc\xaf", "a 7z archive", "Unpack it, and choose the weights file in it."),
    (b"Rar!", "a RAR archive", "Unpack it, and choose the weights file in it."),
    (b"\x1f\x8b", "a gzip archive", "Unpack it, and choose the weights file in it."),
    (b"\x89PNG", "a PNG picture", "Choose a .safetensors or .pth file."),
    (b"\xff\xd8\xff", "a JPEG picture", "Choose a .safetensors or .pth file."),
)

# What reading a damaged pickle raises.
_DAMAGES = (
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    OSError,
)


@dataclass(frozen=True, eq=False)
class StateFile:
    """The content of a checkpoint file.

    tensors: by their names in the file. From safetensors and newer pickles they are views of the mapped
    file: nothing is read before it is used, and a change in memory never reaches the file.
    metadata: the safetensors header's own, empty for pickles.
    """

    path: Path
    tensors: Mapping[str, Tensor] = field(repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_state_dict(path: str | Path) -> StateFile:
    """The tensors of a .safetensors, .pth, .pt, .ckpt or .bin file; the kind is told by content.

    Pickles are read with weights_only=True, so no code of theirs runs. Weights inside a training
    container are unwrapped, nested groups joined by dots, and what is not a tensor is left out.
    Raises CheckpointError, naming the file and the mend, if it is missing, truncated or not a checkpoint, or
    does not fit into memory.
    """
    path = Path(path)
    start = _first_bytes(path)
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise CheckpointError(
            f"the name of {path} is not Unicode, which the libraries that read it need: rename it."
        ) from None
    safe = _is_safetensors(start)
    # Else a zip archive (torch.save since 1.6) or a bare pickle (before).
    # A tar begins with a name, which may look like a pickle, and older versions of torch unpack it.
    if not safe and (not start.startswith((b"PK\x03\x04", b"\x80")) or tarfile.is_tarfile(path)):
        raise _not_a_checkpoint(path, start)
    # Named by the libraries that split models: a part looks like a whole one of another kind.
    part = re.search(r"-(\d{5})-of-(\d{5})\.\w+$", path.name)
    if part and int(part[2]) > 1:
        raise CheckpointError(
            f"{path} is part {int(part[1])} of {int(part[2])} of a model. Download it as a single file, or "
            "join the parts into one."
        )
    file = _read_safetensors(path) if safe else StateFile(path, _read_pickle(path, start))
    if not file.tensors:
        raise CheckpointError(f"{path} holds no tensors. Choose the model's weights file.")
    longest = max(file.tensors, key=len, default="")
    if len(longest) > _MAX_NAME:
        raise CheckpointError(
            f"{path} has a tensor whose name is {printable(longest, 40)}: no network has such names. Choose "
            "another file."
        )
    return file


# As torch, safetensors and the systems say it, Windows by a number.
_OF_MEMORY = (
    "allocate memory", "unable to mmap", "cannot map", "file mapping", "map view",
    "os error 1455", "winerror 1455", "error code: <1455>",
)  # fmt: skip


def lacks_memory(error: Exception) -> bool:
    """Whether what a file could not be read for is want of memory."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _OF_MEMORY)


def _unread(path: Path, error: Exception, otherwise: str) -> CheckpointError:
    """The error for a file that could not be read: want of memory, or what the file is `otherwise`."""
    if lacks_memory(error):
        return CheckpointError(
            f"{path} cannot be mapped into memory: {_reason(error)}. Close other programs, or enlarge the "
            "system's swap or paging file."
        )
    return CheckpointError(f"{path} {otherwise}")


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _first_bytes(path: Path) -> bytes:
    if path.is_dir():
        raise CheckpointError(
            f"{path} is a folder, expected a checkpoint file. Choose the weights file inside it, "
            "usually diffusion_pytorch_model.safetensors."
        )
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist. Check the name and the folder.") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be opened: {error.strerror}. Check its permissions.") from error
    if not start:
        raise CheckpointError(f"{path} is empty (0 bytes). Download it again.")
    return start


def _is_safetensors(start: bytes) -> bool:
    """Eight bytes of header length, then the header, a JSON object."""
    return len(start) > 8 and start[8:9] == b"{" and 2 <= struct.unpack("<Q", start[:8])[0] <= _MAX_HEADER


def _not_a_checkpoint(path: Path, start: bytes) -> CheckpointError:
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    for signature, what, mend in _NOT_CHECKPOINTS:
        if text.startswith(signature):
            return CheckpointError(f"{path} is not a checkpoint: it is {what}. {mend}")
    looks_like_text = all(byte in b"\t\n\r" or byte >= 32 for byte in start)
    what = "a text file" if looks_like_text else f"an unknown format starting with {start[:8]!r}"
    return CheckpointError(
        f"{path} is not a checkpoint: it is {what}; expected safetensors or a PyTorch file. "
        "Check that the download is complete and is the model itself."
    )


def _read_safetensors(path: Path) -> StateFile:
    metadata = _check_safetensors(path)
    try:
        return StateFile(path, load_file(path), metadata)
    except (SafetensorError, ValueError, KeyError, RuntimeError, MemoryError) as error:
        raise _unread(path, error, f"is damaged: {error}. Download it again.") from error
    except OSError as error:
        mend = "Some drives cannot map files into memory: copy it to another."
        raise _unread(path, error, f"cannot be read: {error}. {mend}") from error


def _check_safetensors(path: Path) -> dict[str, str]:
    """Compare the size on disk with what the header promises; return the header's metadata."""
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        raw = file.read(length)
    if len(raw) < length:
        raise CheckpointError(
            f"{path} is truncated inside its header: {size:,} bytes, expected at least {8 + length:,}. "
            "The download stopped early: download it again."
        )
    try:
        header: dict[str, Any] = json.loads(raw)
        metadata = header.pop("__metadata__", None) or {}
        expected = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} has a damaged safetensors header: {error}. Download it again."
        ) from error
    if size < expected:
        raise CheckpointError(
            f"{path} is truncated: {size:,} bytes, expected {expected:,} ({100 * size // expected} %). "
            "The download stopped early: download it again."
        )
    return metadata


def _read_pickle(path: Path, start: bytes) -> dict[str, Tensor]:
    if start.startswith(b"PK"):
        _check_archive(path)
    try:
        with warnings.catch_warnings():
            # What torch says of a pickle is said below, without its advice.
            warnings.simplefilter("ignore", UserWarning)
            content = _torch_load(path)
        tensors = _flatten(_unwrap(content))
    except pickle.UnpicklingError as error:
        refused = re.search(r"unsupported (?:global: GLOBAL|class|GLOBAL) (\S+)", str(error), re.IGNORECASE)
        if "Unsupported operand" in str(error):
            raise CheckpointError(
                f"{path} is damaged, or a pickle of other things than weights, and loading it could run "
                "code: refused. Download it again, or the .safetensors version."
            ) from error
        if refused is None:
            raise _damaged(path, pickle.UnpicklingError(_without_advice(str(error)))) from error
        raise CheckpointError(
            f"{path} holds Python objects besides weights ({refused[1]}), and loading them could run code: "
            "refused. Download the .safetensors version, or convert the file to safetensors where you trust "
            "it."
        ) from error
    except _DAMAGES as error:
        raise _damaged(path, error) from error
    for name, tensor in tensors.items():
        # A few bytes would fill the memory.
        if tensor.layout != torch.strided or tensor.nbytes > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"{path} holds {printable(name, 80)}, which is larger than what is stored of it. Save it "
                "with its tensors made dense, by .contiguous() or .to_dense()."
            )
    if not tensors:
        raise CheckpointError(
            f"{path} is a PyTorch file without weights (it holds a {type(content).__name__} and no tensors). "
            "Choose the model's weights file; it may lie beside this one."
        )
    return tensors


def _without_advice(said: str) -> str:
    """What torch says of a pickle, without its advice how to run it all the same."""
    lines = [line.strip() for line in (said.partition("WeightsUnpickler error:")[2] or said).splitlines()]
    advice = ("Weights only load failed", "Check the documentation", "(")
    return next(
        (line for line in lines if line and not line.startswith(advice)), "it is no pickle of weights"
    )


def _check_archive(path: Path) -> None:
    """Refuse zip archives that are no weights, before torch sees them."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise _damaged(path, error) from error
    # Older versions of torch run such programs whatever they are told of weights.
    if any(name.endswith("constants.pkl") for name in names):
        raise CheckpointError(
            f"{path} is a TorchScript program, not weights, and loading it would run it: refused. Download "
            "the model's .safetensors or .pth weights."
        )
    if not any(name.endswith("data.pkl") for name in names):
        first = printable(names[0], 80) if names else "nothing"
        raise CheckpointError(
            f"{path} is a zip archive, not a checkpoint (it holds {first}). Unpack it, and choose the "
            "weights file in it."
        )


def _torch_load(path: Path) -> Any:
    # Newer versions of torch.load go by the extension, and would take a misnamed pickle for safetensors.
    if path.suffix != ".safetensors":
        try:
            return torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        except RuntimeError as error:
            # Files older than torch 1.6 are not zip archives and cannot be mapped.
            if "mmap" not in str(error):
                raise
    with path.open("rb") as file:
        return torch.load(file, weights_only=True, map_location="cpu")


def _damaged(path: Path, error: Exception) -> CheckpointError:
    size = f"{path.stat().st_size:,} bytes"
    said = f"is truncated or damaged ({size}; reading it failed with: {_reason(error)}). Download it again."
    return _unread(path, error, said)


def _unwrap(content: Any) -> Any:
    """Step into training containers, as long as one is there that was not seen yet."""
    seen: set[int] = set()
    while isinstance(content, Mapping):
        seen.add(id(content))
        only = next(iter(content.values())) if len(content) == 1 else None
        inners = [content.get(name) for name in _CONTAINERS] + [only]
        inner = next((inner for inner in inners if isinstance(inner, Mapping)), None)
        if inner is None or id(inner) in seen:
            return content
        content = inner
    return content


def _flatten(content: Any) -> dict[str, Tensor]:
    """Nested groups as one dict, names joined by dots; anything but tensors (steps, settings) left out."""
    tensors: dict[str, Tensor] = {}
    left, reached = [("", content)], 0
    while left:
        prefix, value = left.pop()
        if isinstance(value, Tensor):
            tensors[prefix.removesuffix(".")] = value.detach()
        elif isinstance(value, Mapping):
            reached += len(value)
            if reached > _MAX_THINGS or len(prefix) > _MAX_NAME:
                raise ValueError("its groups hold themselves, or each other over and over")
            left += [(f"{prefix}{name}.", inner) for name, inner in reversed(list(value.items()))]
    return tensors

"""Where the weights of annotators lie, how they are read, and how they come there when the user asks.

A file is looked for in folders, and then in the cache of the model hub. In a folder it lies by its name, or
by its repository and name, as a fetch leaves it and as comfyui_controlnet_aux does.
"""

import hashlib
import os
import re
import secrets
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.request import urlopen

import torch
from torch import Tensor

from .disk import put
from .errors import WeightsError
from .registry import Annotator, WeightFile

Net = TypeVar("Net", bound=torch.nn.Module)

# Folders to look in, between os.pathsep.
FOLDERS_VARIABLE = "CNET_ANNOTATORS"
# The folder among ComfyUI's models.
HOST_FOLDER = "controlnet_annotators"
PACK = Path(__file__).resolve().parents[1]

# Files of the same content go by either of these.
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
# Names that many repositories share: only the folder tells whose they are.
_SHARED_NAMES = ("model", "pytorch_model", "diffusion_pytorch_model")
_CHUNK = 1 << 20


def default_folders() -> list[Path]:
    """Where weights lie without a host that says so: a fetch puts them into the first of these folders.

    Those of the environment variable CNET_ANNOTATORS; or else that among the models of the ComfyUI in whose
    custom_nodes the pack lies, if it does, and one in the user's cache.
    """
    if named := [Path(name) for name in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if name]:
        return named
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cnet" / "annotators"
    models = PACK.parents[1] / "models"
    in_comfyui = PACK.parent.name == "custom_nodes" and models.is_dir()
    return [models / HOST_FOLDER, cache] if in_comfyui else [cache]


def find(weight: WeightFile, folders: Sequence[str | os.PathLike[str]] | None = None) -> Path | None:
    """The file in the first folder that has it, or in the hub's cache; None where it is nowhere.

    folders: `default_folders()` if None. A .safetensors file serves for a pickle of the same stem, and the
    other way round.
    """
    for folder in default_folders() if folders is None else folders:
        for candidate in _candidates(weight, Path(folder)):
            if candidate.is_file():
                return candidate
    return _in_hub_cache(weight)


def locate(annotator: Annotator, folders: Sequence[str | os.PathLike[str]] | None = None) -> dict[str, Path]:
    """The paths of an annotator's weight files by name. Raises WeightsError if one is nowhere."""
    folders = default_folders() if folders is None else folders
    found = {weight.file: find(weight, folders) for weight in annotator.weights}
    if missing := [weight for weight in annotator.weights if found[weight.file] is None]:
        raise WeightsError(_missing_message(annotator, missing[0], folders))
    return {name: path for name, path in found.items() if path is not None}


def build(
    annotator: Annotator, folders: Sequence[str | os.PathLike[str]] | None = None
) -> torch.nn.Module | None:
    """An annotator's network, in eval mode, on the CPU, in float32; None if it has none.

    Raises WeightsError if a file is missing, damaged or another network's. Leaves random numbers, warning
    filters and environment as they were.
    """
    if annotator.build is None:
        return None
    paths = locate(annotator, folders)
    with _nothing_changed():
        net = annotator.build(paths)
    return net.eval().requires_grad_(False)


# How torch and the systems say that memory is short, Windows by a number.
_OF_MEMORY = (
    "allocate memory", "unable to mmap", "cannot map", "file mapping", "map view",
    "os error 1455", "winerror 1455", "error code: <1455>",
)  # fmt: skip


def read(path: Path, inside: str | None = None) -> dict[str, Any]:
    """What a weight file holds by name, on the CPU. Pickles may hold tensors and plain values only.

    inside: the name below which some files hold the tensors, beside what their training left. Raises
    WeightsError if the file is damaged, or holds no tensors by name.
    """
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        _check_pickle(path)
        held = torch.load(path, map_location="cpu", weights_only=True)
    # Both raise whatever the bytes happen to lead to.
    except Exception as error:
        if isinstance(error, MemoryError) or any(words in str(error).lower() for words in _OF_MEMORY):
            raise WeightsError(
                f"{path} does not fit into memory: {_first_line(error)}. Close other programs, or enlarge "
                "the system's swap or paging file."
            ) from error
        raise WeightsError(
            f"{path} could not be read as weights: {_first_line(error)}. It is damaged, cut off, or "
            "another kind of file; delete it and fetch it again."
        ) from error
    if isinstance(held, dict) and isinstance(held.get(inside), dict):
        held = held[inside]
    names = held if isinstance(held, dict) else {}
    if not all(isinstance(name, str) for name in names) or not any(
        isinstance(value, Tensor) for value in names.values()
    ):
        raise WeightsError(
            f"{path} holds no tensors by name, so it is not the annotator's. Put the file there that the "
            "annotator names, or delete this one and fetch it."
        )
    return held


def _check_pickle(path: Path) -> None:
    """Raise ValueError for what is no pickle of tensors, before torch sees it: until 2.5 it runs TorchScript
    and some of what older formats hold, whatever it is told of weights."""
    with open(path, "rb") as file:
        start = file.read(4)
    if start.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("constants.pkl") for name in archive.namelist()):
                raise ValueError("it is a TorchScript program")
    # A tar begins with a name, which may look like a pickle.
    elif not start.startswith(b"\x80") or tarfile.is_tarfile(path):
        raise ValueError("it is no pickle")


def load(net: Net, held: Mapping[str, Any], path: Path, optional: str | None = None) -> Net:
    """Give a network the tensors of a file.

    Names may begin with "module.", as networks trained on several devices write them.
    optional: a pattern of names that the file or the network may lack. Raises WeightsError if others are
    missing or unknown, or if shapes differ.
    """
    tensors = {
        name.removeprefix("module."): value for name, value in held.items() if isinstance(value, Tensor)
    }
    own = net.state_dict()
    may_lack = re.compile(optional or r"(?!)").search
    faults = [f"lacks {name}" for name in own if name not in tensors and not may_lack(name)]
    faults += [f"has {name}, unknown to it" for name in tensors if name not in own and not may_lack(name)]
    for name in own.keys() & tensors.keys():
        if own[name].shape != tensors[name].shape:
            sizes = f"{list(tensors[name].shape)}, expected {list(own[name].shape)}"
            faults.append(f"has {name} of shape {sizes}")
    if faults:
        more = f", and {len(faults) - 1} more such faults" if len(faults) > 1 else ""
        raise WeightsError(
            f"{path} does not hold the weights of {type(net).__name__}: it {faults[0]}{more}. "
            "Put the file there that the annotator names, or fetch it."
        )
    net.load_state_dict({name: value for name, value in tensors.items() if name in own}, strict=False)
    return net


def fetch(
    annotator: Annotator,
    folder: str | os.PathLike[str],
    report: Callable[[WeightFile, int, int], None] | None = None,
    endpoint: str | None = None,
    folders: Sequence[str | os.PathLike[str]] | None = None,
) -> list[Path]:
    """Download the files of an annotator that `find` finds neither in the folder nor in other `folders` (by
    default `default_folders()`) into the folder; where each lies then.

    Each is checked against its SHA-256, the one in the registry or else the hub's own, and gets its name only
    when it is whole. report: called with the file, the bytes that came and those expected (0: unknown); what
    it raises ends the download and leaves nothing behind. endpoint: another hub than huggingface_hub's.
    Raises WeightsError.
    """
    searched = [folder, *(default_folders() if folders is None else folders)]
    paths = []
    for weight in annotator.weights:
        path = find(weight, searched)
        if path is None:
            path = Path(folder, weight.repository, weight.file)
            _download(weight, path, report, endpoint)
        paths.append(path)
    return paths


def _download(
    weight: WeightFile,
    target: Path,
    report: Callable[[WeightFile, int, int], None] | None,
    endpoint: str | None,
) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(weight.repository, weight.file, endpoint=endpoint)
    # Not by tempfile, whose files only their owner may read.
    temporary = target.with_name(f"{target.name}.{secrets.token_hex(8)}.part")
    try:
        about = get_hf_file_metadata(url)
        # The tag of a large file is its SHA-256, that of a small one is git's.
        tag = about.etag or ""
        expected = weight.sha256 or (tag if re.fullmatch("[0-9a-f]{64}", tag) else None)
        digest, came = hashlib.sha256(), 0
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as out, urlopen(about.location, timeout=30) as answer:
            while piece := answer.read(_CHUNK):
                out.write(piece)
                digest.update(piece)
                came += len(piece)
                if report is not None:
                    report(weight, came, about.size or 0)
        if about.size is not None and came != about.size:
            raise WeightsError(f"{url} broke off after {came} of {about.size} bytes; fetch it again.")
        if expected is not None and digest.hexdigest() != expected:
            raise WeightsError(
                f"{url} has the SHA-256 {digest.hexdigest()}, expected {expected}. It is damaged or "
                "another file than the pack knows, so it was not kept; fetch it again."
            )
        put(temporary, target)
    except WeightsError:
        raise
    # huggingface_hub's errors are those of whichever client it uses.
    except Exception as error:
        raise WeightsError(
            f"{weight.file} of {weight.repository} could not be fetched to {target.parent}: "
            f"{_first_line(error)}. Check the connection and the folder, or put the file there yourself."
        ) from error
    finally:
        # Where a folder of it is a file, not even that.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _candidates(weight: WeightFile, folder: Path) -> Iterator[Path]:
    name = Path(weight.file)
    places = [folder / weight.repository / name, folder / weight.repository.split("/")[-1] / name]
    if name.stem not in _SHARED_NAMES:
        places.append(folder / name.name)
    for place in places:
        yield place
        yield from (place.with_suffix(suffix) for suffix in _SUFFIXES if suffix != name.suffix)


def _in_hub_cache(weight: WeightFile) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(weight.repository, weight.file)
    return Path(path) if isinstance(path, str) else None


def _missing_message(
    annotator: Annotator, weight: WeightFile, folders: Sequence[str | os.PathLike[str]]
) -> str:
    searched = ", ".join(str(folder) for folder in folders)
    folder = Path(next(iter(folders), "."))
    target = folder / weight.repository / weight.file
    return (
        f"{annotator.title} needs {weight.file} of the repository {weight.repository}, which is neither in "
        f"{searched} nor in the hub's cache. Put it at {target}, or switch download on in the node, or in "
        f"{PACK} run: "
        f'python -m uv run python -m annotators fetch {annotator.id} --to "{folder}"'
    )


@contextmanager
def _nothing_changed() -> Iterator[None]:
    """Libraries that are imported inside may change warning filters, the environment and random numbers."""
    environment, arguments = dict(os.environ), list(sys.argv)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            sys.argv[:] = arguments
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
            os.environ.update(environment)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")

"""Where the host keeps models."""

import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import folder_paths

from ...annotators import weights

PACK = Path(__file__).resolve().parents[2]
MINI_WEIGHTS = PACK / "demo" / "weights"
EXAMPLES = PACK / "workflows" / "inputs"

# The host's kind of models for annotators: a folder of this name, and what extra_model_paths adds to it.
ANNOTATORS = weights.HOST_FOLDER


def register_model_folders() -> None:
    """Let every ControlNet loader, the host's own too, offer the mini ControlNets that the pack ships.

    Annotators have their own folder, and look into that of comfyui_controlnet_aux, if it is there.
    """
    folder_paths.add_model_folder_path("controlnet", str(MINI_WEIGHTS / "controlnet"))
    # First also where extra_model_paths came before: here downloads go to.
    own = str(Path(folder_paths.models_dir, ANNOTATORS))
    folder_paths.add_model_folder_path(ANNOTATORS, own, is_default=True)
    for packs in folder_paths.get_folder_paths("custom_nodes"):
        folder = Path(packs, "comfyui_controlnet_aux", "ckpts")
        if folder.is_dir():
            folder_paths.add_model_folder_path(ANNOTATORS, str(folder))


def controlnet_files() -> list[str]:
    return folder_paths.get_filename_list("controlnet")


def controlnet_path(name: str) -> str:
    return folder_paths.get_full_path_or_raise("controlnet", name)


def annotator_folders() -> list[str]:
    """Where weights of annotators lie: the host's folders, the first of which is where they are downloaded
    to, and those where the shell looks for them."""
    shells = map(str, weights.default_folders())
    return list(dict.fromkeys([*folder_paths.get_folder_paths(ANNOTATORS), *shells]))


def input_files(suffix: str) -> list[str]:
    """Names of the files with this suffix that lie in the host's input folder."""
    folder = Path(folder_paths.get_input_directory())
    files = (path for path in folder.glob("*") if path.is_file())
    return sorted(path.name for path in files if path.suffix.lower() == suffix)


def input_file(name: str, suffix: str) -> Path:
    """A file in the input folder, or in the one that the name speaks of ("pose.json [output]").

    Raises ValueError for names that lead elsewhere, other suffixes and missing files.
    """
    # The name itself may have brackets too ("pose [1].json").
    bare = re.sub(r" \[(input|output|temp)\]$", "", name)
    if not bare.lower().endswith(suffix) or not folder_paths.exists_annotated_filepath(name):
        folder = folder_paths.get_input_directory()
        raise ValueError(f"there is no file {name!r} in {folder}; put a {suffix} file there and choose it.")
    return Path(folder_paths.get_annotated_filepath(name))


def output_file(prefix: str, suffix: str, width: int, height: int) -> Path:
    """Where a new file goes in the host's output folder, numbered as saved pictures are.

    Raises an exception of the host's for a prefix that leads out of the folder.
    """
    return _numbered(folder_paths.get_output_directory(), prefix, suffix, width, height)


def new_controlnet(prefix: str, suffix: str) -> Path:
    """Where a new ControlNet goes in the host's first controlnet folder, numbered; raises as output_file."""
    return _numbered(folder_paths.get_folder_paths("controlnet")[0], prefix, suffix)


def _numbered(root: str, prefix: str, suffix: str, width: int = 0, height: int = 0) -> Path:
    folder, name, number, _, _ = folder_paths.get_save_image_path(prefix, root, width, height)
    return Path(folder) / f"{name}_{number:05}_{suffix}"


def data_folder(name: str) -> Path:
    """A folder of training data in the host's input folder, or one of those that come with the pack.

    Raises ValueError, naming those that are there, for names that lead elsewhere and missing folders.
    """
    for root in (Path(folder_paths.get_input_directory()), EXAMPLES):
        if name.strip() and (found := _inside(root, name)) is not None and found.is_dir():
            return found
    root = Path(folder_paths.get_input_directory())
    there = ", ".join(sorted(path.name for path in _folders(root))) or "none"
    raise ValueError(
        f"there is no folder {name!r} in {root} (there are: {there}). Put the training data into a folder "
        "there, and write its name."
    )


def output_folder(name: str) -> Path:
    """A folder of this name, which may hold others, in the host's output folder; it need not be there.

    Raises ValueError for names that lead elsewhere.
    """
    root = Path(folder_paths.get_output_directory())
    if not name.strip() or (found := _inside(root, name)) is None:
        raise ValueError(f"{name!r} names no folder inside {root}; write a name such as training/dancers.")
    return found


class Written:
    """What a node wrote into output folders, so that the host runs it again when that is gone or changed.

    The host keeps a node's outputs while its fingerprint stays as it was, which one of the files would not:
    there are none before the first run.
    """

    def __init__(self) -> None:
        self.states: dict[Path, dict[Path, tuple[int, int] | None]] = {}
        self.lost: Counter[Path] = Counter()

    def note(self, folder: Path, files: Iterable[Path]) -> None:
        self.states[folder] = {path: _state(path) for path in files}

    def fingerprint(self, name: str | None) -> int:
        """How often what was written into the folder was lost. Of a linked name nothing is known yet."""
        if name is None:
            return 0
        folder = output_folder(name)
        state = self.states.get(folder, {})
        if any(_state(path) != before for path, before in state.items()):
            del self.states[folder]
            self.lost[folder] += 1
        return self.lost[folder]


def _state(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _inside(root: Path, name: str) -> Path | None:
    """The path of a name below a folder; None where it leads out of it or is the folder itself.

    By the name alone: a link that somebody put into the folder is theirs, as for the host.
    """
    root = Path(os.path.abspath(root))
    path = Path(os.path.abspath(root / name))
    return path if path.is_relative_to(root) and path != root else None


def _folders(root: Path) -> list[Path]:
    return [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []

"""`folder_paths`: where models lie and where pictures come from and go to."""

from __future__ import annotations

import os
import time
from pathlib import Path

supported_pt_extensions = {".ckpt", ".pt", ".pt2", ".bin", ".pth", ".safetensors", ".pkl", ".sft"}
MODEL_KINDS = ("checkpoints", "loras", "vae", "text_encoders", "diffusion_models", "controlnet")
models_dir = str(Path("models").absolute())
folder_names_and_paths: dict[str, tuple[list[str], set[str]]] = {
    kind: ([os.path.join(models_dir, kind)], supported_pt_extensions) for kind in MODEL_KINDS
}
folder_names_and_paths["custom_nodes"] = ([], set())
_directories = {name: str(Path(name).absolute()) for name in ("input", "output", "temp")}


def set_directory(kind: str, path: str | os.PathLike[str]) -> None:
    """Use this folder for `input`, `output` or `temp`."""
    _directories[kind] = str(Path(path).absolute())


def get_input_directory() -> str:
    return _directories["input"]


def get_output_directory() -> str:
    return _directories["output"]


def get_temp_directory() -> str:
    return _directories["temp"]


def get_directory_by_type(type_name: str) -> str:
    return _directories[type_name]


def add_model_folder_path(folder_name: str, full_folder_path: str, is_default: bool = False) -> None:
    """Look for models of this kind in one folder more; first of all when it is the default."""
    paths = folder_names_and_paths.setdefault(folder_name, ([], set()))[0]
    if is_default:
        if full_folder_path in paths:
            paths.remove(full_folder_path)
        paths.insert(0, full_folder_path)
    elif full_folder_path not in paths:
        paths.append(full_folder_path)


def get_folder_paths(folder_name: str) -> list[str]:
    return list(folder_names_and_paths[folder_name][0])


def get_filename_list(folder_name: str) -> list[str]:
    """Files of this kind, as paths relative to their folder, sorted."""
    paths, extensions = folder_names_and_paths[folder_name]
    found = set()
    for folder in paths:
        for path in Path(folder).rglob("*"):
            if (
                path.is_file()
                and ".git" not in path.parts
                and (not extensions or path.suffix.lower() in extensions)
            ):
                found.add(str(path.relative_to(folder)))
    return sorted(found)


def get_full_path(folder_name: str, filename: str) -> str | None:
    """The file in the first folder that has it; None where none has. A name never leads out of its folder."""
    inside = os.path.relpath(os.path.join("/", filename), "/")
    for folder in folder_names_and_paths.get(folder_name, ([], set()))[0]:
        path = os.path.join(folder, inside)
        if os.path.isfile(path):
            return path
    return None


def get_full_path_or_raise(folder_name: str, filename: str) -> str:
    path = get_full_path(folder_name, filename)
    if path is None:
        known = (
            ", ".join(get_folder_paths(folder_name)) if folder_name in folder_names_and_paths else "nowhere"
        )
        raise FileNotFoundError(
            f"no file '{filename}' among the models of kind '{folder_name}' (looked in: {known})"
        )
    return path


def _annotated(name: str) -> tuple[str, Path]:
    """A name such as `a.png [output]` as its plain part and the folder it speaks of."""
    for kind, folder in _directories.items():
        if name.endswith(f"[{kind}]"):
            return name.removesuffix(f"[{kind}]").rstrip(), Path(folder)
    return name, Path(get_input_directory())


def _is_inside(folder: str | Path, path: str | Path) -> bool:
    return Path(path).resolve().is_relative_to(Path(folder).resolve())


def get_annotated_filepath(name: str, default_dir: str | None = None) -> str:
    """The path of a file in the input folder, or in the one that the name speaks of."""
    plain, folder = _annotated(name)
    if default_dir is not None and plain == name:
        folder = Path(default_dir)
    path = Path(os.path.abspath(folder / plain))
    if not _is_inside(folder, path):
        raise ValueError(f"'{name}' leads out of {folder}; name a file inside it")
    return str(path)


def exists_annotated_filepath(name: str) -> bool:
    plain, folder = _annotated(name)
    path = folder / plain
    return _is_inside(folder, path) and path.exists()


def get_save_image_path(
    filename_prefix: str, output_dir: str, image_width: int = 0, image_height: int = 0
) -> tuple[str, str, int, str, str]:
    """Where to save under a prefix: (folder, file name, next free counter, subfolder, prefix).

    The prefix may hold subfolders and %width%, %height%, %year%, %month%, %day%, %hour%, %minute%, %second%.
    The counter is one above the highest among `name_00001_.png`, so nothing is written over.
    """
    now = time.localtime()
    values = {
        "width": str(image_width),
        "height": str(image_height),
        "year": str(now.tm_year),
        "month": f"{now.tm_mon:02}",
        "day": f"{now.tm_mday:02}",
        "hour": f"{now.tm_hour:02}",
        "minute": f"{now.tm_min:02}",
        "second": f"{now.tm_sec:02}",
    }
    for token, value in values.items():
        filename_prefix = filename_prefix.replace(f"%{token}%", value)
    subfolder, name = os.path.split(os.path.normpath(filename_prefix))
    folder = os.path.join(output_dir, subfolder)
    if not _is_inside(output_dir, folder):
        raise ValueError(
            f"'{filename_prefix}' would save outside {output_dir}; use a prefix that stays inside"
        )
    os.makedirs(folder, exist_ok=True)
    counters = [0]
    for file in os.listdir(folder):
        # Where the system knows no upper and lower case, other spellings are the same file.
        begins = os.path.normcase(file).startswith(os.path.normcase(f"{name}_"))
        rest = file[len(name) + 1 :]
        if begins and rest.split(".")[0].split("_")[0].isdigit():
            counters.append(int(rest.split(".")[0].split("_")[0]))
    return folder, name, max(counters) + 1, subfolder, filename_prefix

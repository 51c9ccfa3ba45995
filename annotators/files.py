"""Annotating files: pictures in, hints out, of the same name in the same subfolder."""

import glob
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from .disk import put
from .errors import AnnotatorError
from .run import Hints

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def collect(inputs: Sequence[str], output: Path) -> list[tuple[Path, Path]]:
    """Pictures of files, folders and globs, each with its hint's path below the output folder.

    Folders and globs keep the subfolders below them; what lies in the output folder is no input. Raises
    AnnotatorError for an input that names no picture, and where two pictures would become one hint.
    """
    found: dict[Path, Path] = {}
    for given in inputs:
        try:
            named = _named(given)
        except OSError as error:
            raise AnnotatorError(f"{given} cannot be looked at: {error.strerror}.") from error
        files = [(file, below) for file, below in named if not _lies_in(file, output)]
        if not files and named:
            raise AnnotatorError(f"{given} lies in the output folder, {output}; choose another one.")
        if not files:
            raise AnnotatorError(f"{given} names no picture ({', '.join(SUFFIXES)}).")
        for file, below in files:
            target = output / below.with_suffix(".png")
            if found.setdefault(target, file) != file:
                raise AnnotatorError(
                    f"{found[target]} and {file} would both become {target}; annotate them into two folders."
                )
    return [(file, target) for target, file in found.items()]


def _named(given: str) -> list[tuple[Path, Path]]:
    """The pictures that a word of a command line names, and each one's path below what it names."""
    if not given:
        raise AnnotatorError("an input is empty; a variable of the shell may not be set.")
    path = Path(given)
    if path.is_file():
        return [(path, Path(path.name))]
    if path.is_dir():
        below = ((one, one.relative_to(path)) for one in sorted(path.rglob("*")))
        shown = (one for one in below if not any(part.startswith(".") for part in one[1].parts))
        return [(one, name) for one, name in shown if _is_picture(one)]
    parts = path.parts
    magic = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    root = Path(*parts[:magic])
    matches = sorted(map(Path, glob.glob(given, recursive=True)))
    return [(one, one.relative_to(root)) for one in matches if _is_picture(one)]


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _lies_in(path: Path, folder: Path) -> bool:
    return folder.resolve() in path.resolve().parents


def read(path: Path) -> Tensor:
    """A picture [1,H,W,C] in 0..1 of a file with 8 or 16 bits or floats, turned as its camera says.

    Raises AnnotatorError, also for other numbers: whole ones of 32 bits are distances, of which larger ones
    are farther, or something else.
    """
    try:
        content = path.read_bytes()
        array = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED) if content else None
    except (OSError, cv2.error) as error:
        raise AnnotatorError(f"the file cannot be read: {error}") from error
    if array is None:
        what = "no picture that OpenCV reads; it may be damaged" if content else "empty"
        raise AnnotatorError(f"the file is {what}.")
    white = {"uint8": 255, "uint16": 65535, "float32": 1, "float64": 1}.get(str(array.dtype))
    if white is None:
        raise AnnotatorError(
            f"the picture holds {array.dtype}; expected unsigned whole numbers of 8 or 16 bits, or floats of "
            "0 to 1."
        )
    array = array[..., None] if array.ndim == 2 else array
    if array.shape[-1] >= 3:
        array = array[..., [2, 1, 0, *range(3, array.shape[-1])]]
    return torch.from_numpy(_upright(array, path).astype(np.float32) / np.float32(white))[None]


def _upright(array: np.ndarray, path: Path) -> np.ndarray:
    """A picture [H,W,C] turned as the Exif tag Orientation of its file says, which OpenCV leaves to others
    where it keeps opacity and 16 bits."""
    from PIL import ExifTags, Image

    try:
        with Image.open(path) as opened:
            if opened.format == "TIFF":
                # OpenCV turns these itself.
                return array
            turn = opened.getexif().get(ExifTags.Base.Orientation, 1)
    # It reads fewer formats than OpenCV, and raises whatever the bytes lead to.
    except Exception:
        return array
    if turn in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if turn in (3, 4, 7, 8):
        array = array[::-1]
    if turn in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


def write(hints: Hints, which: int, target: Path, stamp: Mapping[str, Any], extras: bool) -> None:
    """The hint of one of several pictures, 8 bits, and if `extras` what else was found beside it: depth,
    labels and mask as .npy, lines and keypoints as .json.

    The stamp is written last, and an older one voided first: with it everything is there.
    """
    forget(target)
    if extras:
        for name in ("depth", "labels", "mask"):
            if (maps := getattr(hints, name)) is not None:
                _save(target.with_suffix(f".{name}.npy"), partial(np.save, arr=maps[which].numpy()))
        if hints.lines is not None:
            _save_json(target.with_suffix(".lines.json"), hints.lines[which].tolist())
        if hints.keypoints is not None:
            _save_json(target.with_suffix(".keypoints.json"), hints.keypoints[which])
    pixels = (hints.image[which].clamp(0, 1) * 255).round().to(torch.uint8).numpy()[..., ::-1]
    _, encoded = cv2.imencode(".png", pixels)
    _save(target, lambda file: file.write(encoded.tobytes()))
    _save_json(_note(target), stamp)


def stamp(source: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What decides about a hint: the settings, and the size and time of the picture."""
    about = source.stat()
    text = json.dumps(settings, sort_keys=True, default=dict)
    return {
        "settings": hashlib.sha256(text.encode()).hexdigest(),
        "bytes": about.st_size,
        "modified": about.st_mtime_ns,
    }


def forget(target: Path) -> None:
    """Let a hint count as ours and not done."""
    _save_json(_note(target), {})


def is_anothers(target: Path) -> bool:
    """Whether a file is there that was not written here, and must not be written over."""
    return os.path.exists(target) and not os.path.exists(_note(target))


def is_done(target: Path, stamp: Mapping[str, Any]) -> bool:
    """Whether a hint is there that was written with this stamp."""
    try:
        return target.is_file() and json.loads(_note(target).read_text("utf-8")) == stamp
    except (OSError, ValueError):
        return False


def _note(target: Path) -> Path:
    return target.parent / ".cnet" / f"{target.name}.json"


def _save_json(path: Path, value: Any) -> None:
    _save(path, lambda file: file.write(json.dumps(value).encode()))


def _save(path: Path, write: Callable[[Any], Any]) -> None:
    """A file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            write(file)
        put(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

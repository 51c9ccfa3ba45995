"""Annotating files: pictures in, hints out, of the same name in the same subfolder."""

import glob
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from .errors import AnnotatorError
from .run import Hints

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def collect(inputs: Sequence[str]) -> list[tuple[Path, Path]]:
    """Pictures of files, folders and globs, each with its path below the output folder. Raises AnnotatorError
    for an input that names no picture, and where two pictures would write one hint."""
    found: dict[Path, Path] = {}
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            files = [(one, one.relative_to(path)) for one in sorted(path.rglob("*")) if _is_picture(one)]
        elif path.is_file():
            files = [(path, Path(path.name))]
        else:
            root = Path(given[: len(given) - len(given.lstrip("/"))] or ".")
            for part in Path(given).parts:
                if glob.has_magic(part):
                    break
                root = root / part
            matches = sorted(map(Path, glob.glob(given, recursive=True)))
            files = [(one, one.relative_to(root)) for one in matches if _is_picture(one)]
        if not files:
            raise AnnotatorError(f"{given} names no picture ({', '.join(SUFFIXES)}).")
        for file, below in files:
            target = below.with_suffix(".png")
            if found.setdefault(target, file) != file:
                raise AnnotatorError(
                    f"{found[target]} and {file} would both become {target}; annotate them into two folders."
                )
    return [(file, target) for target, file in found.items()]


def read(path: Path) -> Tensor:
    """A picture [1,H,W,C] in 0..1 of a file with 8 or 16 bits or floats. Raises AnnotatorError."""
    try:
        array = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    except (OSError, cv2.error) as error:
        raise AnnotatorError(f"{path} cannot be read: {error}.") from error
    if array is None:
        raise AnnotatorError(f"{path} is no picture that OpenCV reads; it may be damaged.")
    array = array[..., None] if array.ndim == 2 else array
    channels = [2, 1, 0, *range(3, array.shape[-1])] if array.shape[-1] >= 3 else list(range(array.shape[-1]))
    scale = np.iinfo(array.dtype).max if array.dtype.kind in "iu" else 1
    return torch.from_numpy(array[..., channels].astype(np.float32) / np.float32(scale))[None]


def write(hints: Hints, target: Path, settings: dict[str, Any], extras: bool) -> None:
    """One picture's hint, and beside it what else was found if `extras`; the hint last, which is how a later
    run knows that all are there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if extras:
        if hints.depth is not None:
            _save(target.with_suffix(".depth.npy"), lambda file: np.save(file, hints.depth[0].numpy()))  # type: ignore[index]
        for name, maps in (("labels", hints.labels), ("mask", hints.mask)):
            if maps is not None:
                array = maps[0].numpy()
                _save(target.with_suffix(f".{name}.npy"), lambda file, array=array: np.save(file, array))
        if hints.lines is not None:
            _save_json(target.with_suffix(".lines.json"), hints.lines[0].tolist())
        if hints.keypoints is not None:
            _save_json(target.with_suffix(".keypoints.json"), hints.keypoints[0])
    pixels = (hints.image[0].clamp(0, 1) * 255).round().to(torch.uint8).numpy()[..., ::-1]
    _, encoded = cv2.imencode(".png", pixels)
    _save(target, lambda file: file.write(encoded.tobytes()))
    _save_json(_note(target), settings)


def is_done(source: Path, target: Path, settings: dict[str, Any]) -> bool:
    """Whether a hint is there, made with these settings of this state of the source."""
    try:
        return target.is_file() and json.loads(_note(target).read_text("utf-8")) == settings
    except (OSError, ValueError):
        return False


def settings_of(source: Path, **settings: Any) -> dict[str, Any]:
    """What decides about a hint: the settings, and the size and time of the source."""
    about = source.stat()
    text = json.dumps(settings, sort_keys=True)
    return {
        "settings": hashlib.sha256(text.encode()).hexdigest(),
        "bytes": about.st_size,
        "modified": about.st_mtime_ns,
    }


def _note(target: Path) -> Path:
    return target.parent / ".cnet" / f"{target.name}.json"


def _is_picture(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in SUFFIXES


def _save_json(path: Path, value: Any) -> None:
    _save(path, lambda file: file.write(json.dumps(value).encode()))


def _save(path: Path, put: Callable[[Any], Any]) -> None:
    """A file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        try:
            put(file)
            file.close()
            os.replace(file.name, path)
        finally:
            Path(file.name).unlink(missing_ok=True)

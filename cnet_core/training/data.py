"""Training data: pairs of picture and hint with a caption, found in a folder or given as batches."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import DataError
from .pictures import SUFFIXES, picture_size, read_picture

LAYOUTS = """\
One folder holds the data, in one of these layouts:

  images/NAME.png  hints/NAME.png  captions/NAME.txt
      Paired by NAME, whatever the suffixes, subfolders included. Captions may also lie beside the images.
  NAME.png  NAME_hint.png  NAME.txt
      All in one folder. Other texts in it are no captions.
  metadata.jsonl, train.jsonl
      One JSON object a line: file_name, conditioning_image, text (paths from the folder).
  prompt.json
      One JSON object a line: source (the hint), target (the picture), prompt.

Captions are UTF-8. Without any hints, an annotator can make them: beforehand, in the shell, by
`python -m annotators run`, or in the graph, by the Training Data node.
"""

# The first of each is what the documentation says; the others are found too.
_FOLDERS = {
    "image": ("images", "image", "targets", "target"),
    "hint": (
        "hints",
        "hint",
        "conditioning_images",
        "conditioning_image",
        "conditioning",
        "source",
    ),
    "caption": ("captions", "caption", "text", "texts", "prompts"),
}
_LISTINGS = ("metadata.jsonl", "train.jsonl", "prompt.json")
# Pictures all the same.
_OTHER_SUFFIXES = (".gif", ".avif", ".heic", ".heif", ".jfif", ".jxl", ".tga")
_HINT_ENDINGS = ("_hint", ".hint", "_cond", "_control", "_conditioning")
_CAPTION_SUFFIXES = (".txt", ".caption")
_COLUMNS = {
    "image": ("file_name", "image", "target"),
    "hint": (
        *("conditioning_image", "conditioning_image_file_name", "hint", "hint_file_name"),
        *("conditioning_file_name", "source"),
    ),
    "caption": ("text", "caption", "prompt"),
}


@dataclass(frozen=True)
class Problem:
    """Something wrong with one file, pair or caption: where, what, and the mend in `message`.

    kind: orphan, unreadable, encoding, caption, size, aspect, mirror, duplicate or layout. fatal: the pair
    cannot be trained on.
    """

    kind: str
    where: str
    message: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass(frozen=True, eq=False)
class Pair:
    """A picture, its hint (None: an annotator makes it), its caption. Pictures are files or uint8 [H,W,3]."""

    name: str
    image: Path | np.ndarray
    hint: Path | np.ndarray | None
    caption: str

    def picture(self) -> np.ndarray:
        """Pixels, uint8 [H,W,3]. Raises DataError naming the file."""
        return read_picture(self.image) if isinstance(self.image, Path) else self.image

    def size(self) -> tuple[int, int]:
        """(width, height) of the picture, without decoding it. Raises DataError naming the file."""
        if isinstance(self.image, Path):
            return picture_size(self.image)
        return self.image.shape[1], self.image.shape[0]

    def control(self) -> np.ndarray | None:
        """The hint's pixels, uint8 [H,W,3]. Raises DataError naming the file."""
        return read_picture(self.hint) if isinstance(self.hint, Path) else self.hint


@dataclass(frozen=True, eq=False)
class Dataset:
    """Pairs sorted by name, and what was found wrong while they were listed."""

    pairs: tuple[Pair, ...]
    problems: tuple[Problem, ...] = ()
    source: str = "the batch"


def read_folder(folder: str | Path, hints_made: bool = False) -> Dataset:
    """The pairs of a folder in one of `LAYOUTS`; pictures are not opened yet.

    hints_made: an annotator makes the hints; those that are there are passed over.
    Raises DataError if it is no folder, or holds no pictures at all. Whatever is wrong with single files is
    listed in `problems`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {what}; expected a folder of training data.\n\n{LAYOUTS}")
    try:
        listing = next((folder / name for name in _LISTINGS if (folder / name).is_file()), None)
        if listing is None:
            dataset = _from_names(folder, hints_made)
        else:
            dataset = _from_lines(folder, listing, hints_made)
    except PermissionError as error:
        raise DataError(f"{error.filename} cannot be opened: {error.strerror}. Check permissions.") from error
    if not dataset.pairs and not any(problem.fatal for problem in dataset.problems):
        notes = "".join(f"\n{problem}" for problem in dataset.problems[:3])
        raise DataError(f"{folder} holds no pictures ({', '.join(SUFFIXES)}).{notes}\n\n{LAYOUTS}")
    return dataset


def from_batch(images: Tensor, hints: Tensor | None = None, captions: Sequence[str] = ("",)) -> Dataset:
    """Pairs of pictures [B,H,W,C] and hints [B,H,W,C] in 0..1, and one caption for each, or one for all.

    Raises DataError if their numbers differ.
    """
    count = len(images)
    for what, found in (("hints", count if hints is None else len(hints)), ("captions", len(captions))):
        if found != count and not (what == "captions" and found == 1):
            raise DataError(
                f"{count} pictures and {found} {what} are given; expected as many {what} as pictures."
            )
    captions = list(captions) * count if len(captions) == 1 else captions
    return Dataset(
        tuple(
            Pair(f"{i:05}", _pixels(images[i]), None if hints is None else _pixels(hints[i]), captions[i])
            for i in range(count)
        )
    )


def _pixels(image: Tensor) -> np.ndarray:
    pixels = (image.detach().cpu().float().nan_to_num().clamp(0, 1) * 255).round().byte().numpy()
    if pixels.shape[-1] == 4:
        pixels = np.rint(pixels[..., :3] * (pixels[..., 3:] / 255.0)).astype(np.uint8)
    return np.repeat(pixels, 3, 2) if pixels.shape[-1] == 1 else np.ascontiguousarray(pixels)


def read_caption(path: Path) -> str:
    """The text of a caption file, its white space made single. Raises DataError unless it is UTF-8."""
    return " ".join(_decoded(path).split())


def _decoded(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Check the file.") from error
    # Without its mark UTF-16 may be valid UTF-8, with a zero at every other place.
    wide = raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in raw
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = error.start
    else:
        if not wide:
            return text
        place = raw.index(b"\0")
    guess = "UTF-16" if wide else "WINDOWS-1252"
    found = f"looks like {guess}" if wide else f"may be {guess}, or another encoding of its language"
    raise DataError(
        f"{path} is not UTF-8 (byte 0x{raw[place]:02x} at position {place}); it {found}. Save it as UTF-8, "
        f"in an editor (Notepad: Save as, Encoding) or, from {guess}, by: "
        f"iconv -f {guess} -t UTF-8 {path.name} > mended"
    )


def _files_in(folder: Path, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """Those with these suffixes that are not hidden, nor in a hidden folder, as notebooks leave copies in."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    shown = (path for path in found if not any(p.startswith(".") for p in path.relative_to(folder).parts))
    return sorted(path for path in shown if path.is_file())


def _stem(path: Path, folder: Path) -> str:
    """The name that pairs files: the path from the folder without its suffix."""
    return path.relative_to(folder).with_suffix("").as_posix()


class _ByStem:
    """Files of one kind by the name that pairs them; a second file of a name is a problem."""

    def __init__(self, problems: list[Problem]):
        self.paths: dict[str, Path] = {}
        self.problems = problems

    def add(self, stem: str, path: Path) -> None:
        if stem in self.paths:
            message = (
                f"has the same name as {self.paths[stem].name}; remove one, or give it a name of its own."
            )
            self.problems.append(Problem("duplicate", str(path), message))
        else:
            self.paths[stem] = path


def _from_names(folder: Path, hints_made: bool) -> Dataset:
    problems: list[Problem] = []
    images, hints, captions = _ByStem(problems), _ByStem(problems), _ByStem(problems)
    # Whatever the case, as on Windows.
    folders = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    inside = {
        kind: next((folders[name] for name in names if name in folders), None)
        for kind, names in _FOLDERS.items()
    }
    pictures, apart = inside["image"] or folder, inside["hint"]

    def elsewhere(path: Path) -> bool:
        return inside["image"] is None and any(f is not None and f in path.parents for f in inside.values())

    found = {path: _stem(path, pictures) for path in _files_in(pictures) if not elsewhere(path)}
    stems = set(found.values())
    for path, stem in found.items():
        ending = next((e for e in _HINT_ENDINGS if stem.lower().endswith(e)), None)
        base = None if ending is None or apart is not None else stem[: -len(ending)]
        # Where no hints are looked for, the name of a picture may end so by itself.
        if base is None or (hints_made and base not in stems):
            images.add(stem, path)
        elif not hints_made:
            hints.add(base, path)
    if apart is not None and not hints_made:
        for path in _files_in(apart):
            hints.add(_stem(path, apart), path)
    for path in _files_in(folder, _OTHER_SUFFIXES):
        message = f"is left out: {path.suffix.lower()} is not read. Save it as .png."
        problems.append(Problem("unreadable", str(path), message, fatal=False))
    # Captions of the same names lie in their own folder, or beside the images.
    texts = inside["caption"] or pictures
    for path in _files_in(texts, _CAPTION_SUFFIXES):
        stem = _stem(path, texts)
        if inside["caption"] is None and stem not in images.paths:
            # Beside pictures a README.txt or a licence may lie.
            message = "has the name of no picture, so it is no caption."
            problems.append(Problem("orphan", str(path), message, fatal=False))
        else:
            captions.add(stem, path)
    if not captions.paths:
        for path in sorted(p for p in folder.iterdir() if p.name == "metadata.csv" or p.suffix == ".jsonl"):
            message = (
                f"is not read, and there are no other captions. Make it {' or '.join(_LISTINGS)}, with a "
                "JSON object a line, or take it away to train without captions."
            )
            problems.append(Problem("layout", str(path), message))
    return _paired(str(folder), images.paths, hints.paths, captions.paths, problems)


def _paired(
    source: str,
    images: dict[str, Path],
    hints: dict[str, Path],
    captions: dict[str, Path],
    problems: list[Problem],
) -> Dataset:
    """The complete pairs; what has no partner becomes a problem. Hints or captions may be missing of all."""

    def orphan(path: Path, what: str) -> None:
        problems.append(
            Problem("orphan", str(path), f"has no {what} of the same name; add it or remove this.")
        )

    pairs = []
    for stem, image in images.items():
        hint, text = hints.get(stem), captions.get(stem)
        if hints and hint is None:
            orphan(image, "hint")
        if captions and text is None:
            orphan(image, "caption")
        caption: str | None = ""
        if text is not None:
            try:
                caption = read_caption(text)
            except DataError as error:
                problems.append(Problem("encoding", str(text), str(error)))
                caption = None
        if caption is not None and (hint or not hints) and (text or not captions):
            pairs.append(Pair(stem, image, hint, caption))
    for stem in hints.keys() - images.keys():
        orphan(hints[stem], "picture")
    for stem in captions.keys() - images.keys():
        orphan(captions[stem], "picture")
    pairs.sort(key=lambda pair: pair.name)
    problems.sort(key=lambda problem: problem.where)
    return Dataset(tuple(pairs), tuple(problems), source)


def _from_lines(folder: Path, listing: Path, hints_made: bool) -> Dataset:
    """Pairs of a file with one JSON object a line; a JSON list of such objects serves too."""
    problems: list[Problem] = []
    pairs: dict[Path, Pair] = {}
    named: set[Path] = set()
    for number, row in _rows(listing, problems):
        where = f"{listing.name} line {number}"
        try:
            pair = _pair_of(folder, row)
        except DataError as error:
            problems.append(Problem("layout", where, str(error)))
            continue
        files = [Path(os.path.abspath(p)) for p in (pair.image, pair.hint) if isinstance(p, Path)]
        named.update(files)
        if hints_made:
            pair, files = replace(pair, hint=None), files[:1]
        # By the function, to which names that no system knows are those of no file.
        missing = [path for path in files if not os.path.isfile(path)]
        for path in missing:
            problems.append(
                Problem("orphan", where, f"names {path}, which does not exist; add it or remove the line.")
            )
        if files[0] in pairs:
            problems.append(Problem("duplicate", where, f"names {pair.name} a second time; remove one line."))
        elif not missing:
            pairs[files[0]] = pair
    for path in _files_in(folder):
        if Path(os.path.abspath(path)) not in named:
            message = f"is named by no line of {listing.name}; it is left out."
            problems.append(Problem("orphan", str(path), message, fatal=False))
    with_hint = [pair for pair in pairs.values() if pair.hint is not None]
    if with_hint and len(with_hint) < len(pairs):
        for pair in pairs.values():
            if pair.hint is None:
                problems.append(Problem("orphan", pair.name, f"has no hint in {listing.name}, others have."))
    kept = sorted(_told_apart(with_hint or list(pairs.values())), key=lambda pair: pair.name)
    return Dataset(tuple(kept), tuple(problems), str(folder))


def _told_apart(pairs: list[Pair]) -> list[Pair]:
    """Pairs whose names keep the suffix where two pictures differ in nothing else."""
    counts = Counter(pair.name for pair in pairs)
    return [
        replace(pair, name=f"{pair.name}{pair.image.suffix}")
        if counts[pair.name] > 1 and isinstance(pair.image, Path)
        else pair
        for pair in pairs
    ]


def _rows(listing: Path, problems: list[Problem]) -> Iterable[tuple[int, Any]]:
    text = _decoded(listing)
    if text.lstrip().startswith("["):
        try:
            yield from enumerate(json.loads(text), 1)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{listing} is not valid JSON: {error}. Mend the file.") from error
        return
    # Not by splitlines, which splits at characters that JSON has in its texts.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                message = f"is not valid JSON ({error}); mend or remove the line."
                problems.append(Problem("layout", f"{listing.name} line {number}", message))


def _here(folder: Path, name: str) -> str:
    """A name in a folder with this system's separators: listings from Windows may have others."""
    return name.replace("\\", "/") if "\\" in name and not os.path.isfile(folder / name) else name


def _pair_of(folder: Path, row: Any) -> Pair:
    if not isinstance(row, dict):
        raise DataError(f"is {type(row).__name__}, expected a JSON object.")
    # In prompt.json the picture is "target"; "source" is the hint in both files.
    values = {kind: next((row[c] for c in names if row.get(c)), None) for kind, names in _COLUMNS.items()}
    image, hint, caption = values["image"], values["hint"], values["caption"]
    if not isinstance(image, str):
        raise DataError(f"names no picture; expected one of {', '.join(_COLUMNS['image'])}.")
    if not isinstance(hint, str | None) or not isinstance(caption, str | None):
        raise DataError("hint and caption must be texts.")
    image, hint = _here(folder, image), hint and _here(folder, hint)
    for name in filter(None, (image, hint)):
        if not Path(name).name:
            raise DataError(f"names {name}, which is no file.")
        if not Path(os.path.abspath(folder / name)).is_relative_to(os.path.abspath(folder)):
            raise DataError(f"names {name}, outside the folder; move the file into it.")
    try:
        (caption or "").encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])
        raise DataError(f"its caption holds half a character ({half}); mend the caption.") from error
    return Pair(
        Path(image).with_suffix("").as_posix(),
        folder / image,
        None if hint is None else folder / hint,
        " ".join((caption or "").split()),
    )

"""Latents, texts and hints of training data on disk, so that no step of training encodes anything.

What is cached is keyed by content: the bytes of a picture, hint or caption with all that decides what becomes
of them. So a changed caption costs one text, a second run nothing, and an interrupted one goes on.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .buckets import bucket_of, buckets
from .data import Dataset, Pair
from .encoders import Encoders
from .pictures import HINT_KINDS, HintKind, fitted, mirrored, mirrored_hint, window
from .shards import Shards, remove_parts, write_whole

# Part of every key: raised whenever what is computed from the same input changes.
_FORMAT = "1"
_MANIFEST = "dataset.json"
_PER_SHARD = 32


@dataclass(frozen=True)
class Preparation:
    """How pairs are prepared.

    resolution: side of the square bucket; multiple: of all sides (8 x 2 to the base's levels below the first,
    64 for Stable Diffusion). hint_kind: what the hints show, None where nobody said. mirror: each pair is
    there twice, once mirrored.
    """

    resolution: int = 512
    multiple: int = 64
    hint_kind: HintKind | None = None
    mirror: bool = False

    def __post_init__(self) -> None:
        if self.hint_kind is not None and self.hint_kind not in HINT_KINDS:
            raise DataError(f"hint_kind is {self.hint_kind!r}; choose one of {', '.join(HINT_KINDS)}.")
        if self.mirror and self.hint_kind is None:
            raise DataError(
                "mirroring must know what the hints show: say hint_kind, one of "
                f"{', '.join(HINT_KINDS)}. Texts in pictures become unreadable by it."
            )


@dataclass(frozen=True)
class HintMaker:
    """An annotator: from pictures [B,H,W,3] in 0..1 to hints alike. identity: all that decides what it makes.

    It is given pictures cropped and mirrored, one at a time, so that its hints fit them exactly.
    """

    identity: str
    make: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Example:
    """What one step of training needs of a pair: keys into the shards, and sizes in pixels.

    width, height: the bucket. For SDXL's vector condition: original, (width, height) of the picture, and
    crop, (left, top) of the bucket in the scaled picture.
    """

    name: str
    caption: str
    latent: str
    hint: str
    text: str
    width: int
    height: int
    original: tuple[int, int]
    crop: tuple[int, int]


@dataclass(frozen=True)
class Manifest:
    """What a cache holds: its examples in their order, and how they were made."""

    examples: tuple[Example, ...]
    # Key of the empty prompt's text.
    empty: str
    preparation: Preparation
    # The annotator's identity, or what given hints are said to be made by, "" where nobody said.
    annotator: str
    latent_id: str
    text_id: str
    latent_scale: float | None

    @property
    def data_hash(self) -> str:
        """Changes when a picture, hint, caption, their order or an encoder does."""
        keys = [[e.name, e.latent, e.hint, e.text] for e in self.examples]
        return hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:16]

    @property
    def largest(self) -> tuple[int, int]:
        """Height and width of the largest pictures, which take the most memory."""
        example = max(self.examples, key=lambda example: example.width * example.height)
        return example.height, example.width


class Cache:
    """A complete cache in a folder, for reading."""

    def __init__(self, folder: str | Path):
        """Raises DataError if the folder holds no cache, or an incomplete one."""
        self.folder = Path(folder)
        self.manifest = _read_manifest(self.folder / _MANIFEST)
        self.latents, self.texts, self.hints = (Shards(self.folder, k) for k in ("latents", "texts", "hints"))
        if lacking := missing(self.manifest, self.latents, self.texts, self.hints):
            damaged = [*self.latents.damaged, *self.texts.damaged, *self.hints.damaged]
            because = f" ({', '.join(str(path) for path in damaged)} damaged)" if damaged else ""
            raise DataError(
                f"{self.folder} lacks {lacking} of its entries{because}. Cache the data again: only what is "
                "missing is computed."
            )

    def __len__(self) -> int:
        return len(self.manifest.examples)

    @cached_property
    def text_lengths(self) -> dict[str, int]:
        """Of each text, by its key, the number of tokens."""
        return self.texts.lengths("context")

    @property
    def tokens(self) -> int:
        """Of the longest text."""
        return max(self.text_lengths[example.text] for example in self.manifest.examples)

    def latent(self, example: Example) -> tuple[Tensor, Tensor | None]:
        """Mean [C,h,w] in fp32 of the unscaled latents, and their standard deviation if they have one."""
        mean, std = (self.latents.get(example.latent, part) for part in ("mean", "std"))
        assert mean is not None
        return mean, None if std is None else std.float()

    def hint(self, example: Example) -> Tensor:
        """The hint, uint8 [H,W,3]."""
        hint = self.hints.get(example.hint, "hint")
        assert hint is not None
        return hint

    def text(self, key: str) -> tuple[Tensor, Tensor | None]:
        """Context [N,width] and pooled vector [D] or None, in fp32."""
        context, pooled = (self.texts.get(key, part) for part in ("context", "pooled"))
        assert context is not None
        return context.float(), None if pooled is None else pooled.float()


def missing(manifest: Manifest, latents: Shards, texts: Shards, hints: Shards) -> int:
    """How many entries that the manifest names are not in the shards."""
    wanted = [(e.latent, latents) for e in manifest.examples] + [(e.hint, hints) for e in manifest.examples]
    wanted += [(e.text, texts) for e in manifest.examples] + [(manifest.empty, texts)]
    return len({key for key, shards in wanted if key not in shards})


def build(
    dataset: Dataset,
    encoders: Encoders,
    folder: str | Path,
    preparation: Preparation = Preparation(),
    hint_maker: HintMaker | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    say: Callable[[str], None] = lambda message: None,
    annotator: str = "",
) -> Cache:
    """Encode what the folder does not have yet of a validated dataset, and write down what belongs to it.

    progress: called with (done, total) before each encoding and at the end; what it raises (a Cancel) stops
    the work, and what was encoded is kept. say: told of damaged shards, which are made anew. annotator: what
    made the hints, in any words, where no hint_maker does.
    Raises DataError for pictures that cannot be read, pairs without hints, a full disk, no permission.
    """
    folder = Path(folder)
    shards = {kind: Shards(folder, kind, verify=True) for kind in ("latents", "texts", "hints")}
    _check_owned(folder / _MANIFEST, shards)
    remove_parts(folder, _MANIFEST)
    for kind in shards.values():
        for path, reason in kind.damaged.items():
            say(f"{path} is damaged ({reason}); its entries are made anew.")
            _remove(path)
    sizes = buckets(preparation.resolution, preparation.multiple)
    examples: list[Example] = []
    total = len(dataset.pairs) * (2 if preparation.mirror else 1)
    texts = {caption: _key("text", caption, encoders.text_id) for caption in ("", *_captions(dataset))}
    with (
        _Writer(shards["latents"]) as latents,
        _Writer(shards["texts"]) as written,
        _Writer(shards["hints"]) as hints,
        torch.inference_mode(),
    ):
        for caption, key in texts.items():
            if written.lacks(key):
                progress(0, total)
                context, pooled = encoders.text(caption)
                parts = {"context": context.half(), "pooled": None if pooled is None else pooled.half()}
                written.add(key, _numbers(parts, f"the caption {caption!r}", "CLIP"))
        for pair in dataset.pairs:
            for prepared in _prepared(pair, preparation, sizes, encoders.latent_id, hint_maker):
                progress(len(examples), total)
                if latents.lacks(prepared.latent):
                    mean, std = encoders.latent(_floats(prepared.image()))
                    parts = {"mean": mean.float(), "std": None if std is None else std.half()}
                    latents.add(prepared.latent, _numbers(parts, pair.name, "VAE"))
                if hints.lacks(prepared.hint):
                    hints.add(prepared.hint, {"hint": torch.from_numpy(prepared.control())})
                examples.append(prepared.example(texts[pair.caption]))
    progress(total, total)
    manifest = Manifest(
        tuple(examples),
        texts[""],
        preparation,
        hint_maker.identity if hint_maker else annotator,
        encoders.latent_id,
        encoders.text_id,
        encoders.latent_scale,
    )
    write_whole(folder / _MANIFEST, json.dumps(asdict(manifest), indent=1).encode())
    return Cache(folder)


def _check_owned(manifest: Path, shards: Mapping[str, Shards]) -> None:
    """Raise DataError where a file of a manifest's name is none, which must not be written over; beside
    shards it is one, if damaged."""
    try:
        found = json.loads(manifest.read_text("utf-8"))
    except OSError:
        # What is not there, or cannot be written either.
        return
    except (ValueError, RecursionError):
        found = None
    ours = isinstance(found, dict) and "examples" in found
    if not ours and not any(kind.paths for kind in shards.values()):
        raise DataError(
            f"{manifest} is no cache's, and would be written over. Choose another folder, or delete it."
        )


def _numbers(parts: Mapping[str, Tensor | None], what: str, encoder: str) -> dict[str, Tensor]:
    """Those that an encoder made; raises DataError where they are no numbers, which spoil every step that
    reads them."""
    made = {name: part for name, part in parts.items() if part is not None}
    if not all(part.isfinite().all() for part in made.values()):
        raise DataError(
            f"what the {encoder} made of {what} are no numbers (NaN or infinity), as happens in half "
            f"precision. Run the {encoder} in fp32 (ComfyUI's options --fp32-vae and --fp32-text-enc), or "
            "take this out."
        )
    return made


def _captions(dataset: Dataset) -> list[str]:
    return list(Counter(pair.caption for pair in dataset.pairs))


def _floats(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).float() / 255


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError as error:
        raise DataError(f"{path} is damaged and cannot be removed: {error.strerror}.") from error


class _Writer:
    """Collects entries into shards; on the way out, by an interruption too, the last one is written."""

    def __init__(self, shards: Shards):
        self.shards = shards
        self.pending: dict[str, Mapping[str, Tensor]] = {}

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After a DataError the disk may be what is wrong.
        if self.pending and not isinstance(error, DataError):
            self.flush()

    def lacks(self, key: str) -> bool:
        return key not in self.shards and key not in self.pending

    def add(self, key: str, parts: Mapping[str, Tensor]) -> None:
        self.pending[key] = parts
        if len(self.pending) == _PER_SHARD:
            self.flush()

    def flush(self) -> None:
        self.shards.add(self.pending)
        self.pending = {}


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps([_FORMAT, *parts]).encode()).hexdigest()[:32]


def _content(of: Path | np.ndarray) -> str:
    """Hash of a file's bytes, or of pixels."""
    if isinstance(of, Path):
        try:
            return hashlib.sha256(of.read_bytes()).hexdigest()
        except OSError as error:
            raise DataError(f"{of} cannot be read: {error.strerror}.") from error
    return hashlib.sha256(repr(of.shape).encode() + of.tobytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class _Prepared:
    """One pair as it will be trained on, mirrored or not: its keys, and its pixels when asked for."""

    pair: Pair
    kind: HintKind | None
    size: tuple[int, int]
    original: tuple[int, int]
    crop: tuple[int, int]
    mirrored: bool
    latent: str
    hint: str
    maker: HintMaker | None

    def image(self) -> np.ndarray:
        pixels = self.pair.picture()
        # Before it is cut, as the hint, so that both lose the same where the middle is half a pixel off.
        return fitted(mirrored(pixels) if self.mirrored else pixels, *self.size)

    def control(self) -> np.ndarray:
        if self.maker is not None:
            made = self.maker.make(_floats(self.image())[None])[0]
            if made.shape != (self.size[1], self.size[0], 3):
                raise DataError(
                    f"the annotator made a hint of shape {tuple(made.shape)} from a picture of "
                    f"{self.size[0]}x{self.size[1]}; expected the picture's size and three channels."
                )
            return (made.clamp(0, 1) * 255).round().byte().cpu().numpy()
        pixels = self.pair.control()
        assert pixels is not None
        if self.mirrored:
            assert self.kind is not None
            # Before it is scaled, which mixes colours.
            pixels = mirrored_hint(pixels, self.kind, self.pair.name)
        return fitted(pixels, *self.size, flat=self.kind == "areas")

    def example(self, text: str) -> Example:
        name = f"{self.pair.name} (mirrored)" if self.mirrored else self.pair.name
        sizes = (*self.size, self.original, self.crop)
        return Example(name, self.pair.caption, self.latent, self.hint, text, *sizes)


def _prepared(
    pair: Pair,
    preparation: Preparation,
    sizes: list[tuple[int, int]],
    latent_id: str,
    maker: HintMaker | None,
) -> Iterator[_Prepared]:
    width, height = pair.size()
    size = bucket_of(width, height, sizes)
    left, top, wide, _ = window(width, height, *size)
    crop = (round(left * size[0] / wide), round(top * size[0] / wide))
    image, kind = _content(pair.image), preparation.hint_kind
    if maker is None and pair.hint is None:
        raise DataError(f"{pair.name} has no hint; add hints, or choose an annotator that makes them.")
    for turned in (False, True) if preparation.mirror else (False,):
        # What was once cut before it was mirrored is another picture where more is cut at the right.
        how_turned = "mirrored, then cut" if turned and (width - wide) % 2 else turned
        if maker is not None:
            hint = _key("made", image, size, how_turned, maker.identity)
        else:
            assert pair.hint is not None
            # The kind counts only where it changes the pixels.
            how = kind if turned or kind == "areas" else None
            hint = _key("hint", _content(pair.hint), size, turned, how)
        latent = _key("latent", image, size, how_turned, latent_id)
        yield _Prepared(pair, kind, size, (width, height), crop, turned, latent, hint, maker)


def _read_manifest(path: Path) -> Manifest:
    try:
        values = json.loads(path.read_text("utf-8"))
        examples = [
            Example(**{**e, "original": tuple(e["original"]), "crop": tuple(e["crop"])})
            for e in values["examples"]
        ]
        preparation = Preparation(**values["preparation"])
        manifest = Manifest(**{**values, "examples": tuple(examples), "preparation": preparation})
    except FileNotFoundError:
        raise DataError(
            f"{path.parent} holds no finished cache (no {path.name}). Cache the data first: "
            "python -m cnet_core.training cache, or the Cache Training Data node."
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}). Cache the data again.") from error
    return manifest

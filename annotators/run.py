"""Annotate pictures of any shape, size and number: what is the same for all annotators."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import fit
from .depth import prepared_depth
from .errors import AnnotatorError, ParameterError
from .fit import Mode, Size
from .networks import PIXELS_ON_A_CPU, PIXELS_WITHOUT_A_NETWORK, pixels_at_once
from .registry import Annotation, Annotator

_BITS_OF_1 = 0x3F800000


@dataclass
class Hints:
    """What B pictures became. image: [B,H,W,3] in 0..1, float32, on the CPU (an inpaint hint is -1 where it
    is to be painted). depth, labels, mask [B,H,W], lines and keypoints: as in `Annotation`, at the image's
    size, None where the annotator makes none."""

    image: Tensor
    depth: Tensor | None = None
    labels: Tensor | None = None
    mask: Tensor | None = None
    lines: list[Tensor] | None = None
    keypoints: list[dict[str, Any]] | None = None


def annotate(
    annotator: Annotator,
    images: Tensor,
    values: Mapping[str, Any] | None = None,
    *,
    net: torch.nn.Module | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    masks: Tensor | None = None,
    size: Size | None = None,
    resize: Mode = "crop",
    resolution: int | None = None,
    chunk: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Hints:
    """Hints of pictures [B,H,W,C], float (C: 1 grey, 2 grey with opacity, 3 RGB, 4 RGB with opacity).

    What is transparent is black, NaN is 0, and values are clamped to 0..1; depth maps that reach beyond it
    are first brought there by the range of each, where an annotator takes depth maps. Hints have the
    pictures' size, or exactly `size` (height, width), into which `resize` fits them; pictures are then looked
    at pixel perfectly (see `fit.pixel_perfect`), or in any case at a short side of `resolution`. Pictures
    never change their shape for it: sides are padded to the annotator's multiple and cut back.

    values: the annotator's parameters by name; what is missing is default. net: what `annotator.build` made,
    in any dtype, on `device` (by default where its first parameter is). seed: picture i gets seed + i, modulo
    2**64. masks: [H,W], [1,H,W] or [B,H,W] for annotators that take them; by default what is transparent in
    the pictures.
    chunk: pictures that go through at once, by default as many as likely fit; halved when memory runs out.
    progress: called with (pictures done, all of them) before the first and after each chunk; it may raise.
    Raises ParameterError and AnnotatorError.
    """
    checked = annotator.checked(values or {})
    _check(annotator, images, net)
    source = (images.shape[1], images.shape[2])
    looked = _looked_at(source, size, resize, resolution)
    placement = replace(fit.place(source, size or source, resize), source=looked)
    device = torch.device(device) if device is not None else _device_of(net)
    given: dict[str, Any] = {} if net is None else {"net": net}
    masks = _masks(annotator, images, masks)

    def made(start: int, stop: int) -> Annotation:
        # Pictures are resized on the CPU; where they are not, the device does everything.
        place = device if looked == source else torch.device("cpu")
        some = images[start:stop].detach().to(place)
        some = prepared_depth(some) if annotator.reads == "depth" else some
        pictures = _prepared(some, opaque=annotator.masked)
        call = dict(given)
        if annotator.seedable:
            call["seeds"] = [(seed + i) % 2**64 for i in range(start, stop)]
        if masks is not None:
            part = masks[start:stop] if len(masks) > 1 else masks.expand(stop - start, -1, -1, -1)
            if looked != source:
                # What is masked may be of any colour, which must not mix with the rest.
                pictures = fit.resize_around(pictures, (part > 0.5).to(pictures), looked)
            call["masks"] = _padded(fit.resize(part, looked, "depth").to(device), annotator.multiple)
        pictures = fit.resize(pictures, looked, annotator.reads).to(device)
        annotation = annotator.annotate(_padded(pictures, annotator.multiple), **call, **checked)
        return _cut(annotation, looked)

    with torch.no_grad():
        parts = _in_chunks(made, len(images), chunk or _chunk(annotator, looked, device), progress)
        # The range of a sequence is known at its end only; anything else gets its size at once.
        placed = parts if annotator.finish else (_placed(part, placement, annotator) for part in parts)
        whole = _joined(placed, len(images))
        if annotator.finish:
            whole = _placed(annotator.finish(whole, **checked), placement, annotator)
    return _hints(whole)


def _check(annotator: Annotator, images: Tensor, net: torch.nn.Module | None) -> None:
    if images.ndim != 4 or 0 in images.shape or images.shape[-1] > 4:
        raise AnnotatorError(
            f"the pictures have shape {tuple(images.shape)}; expected [pictures, height, width, channels] "
            "with 1 to 4 channels and sides of at least one pixel. Connect an IMAGE."
        )
    if not images.is_floating_point():
        raise AnnotatorError(
            f"the pictures hold {images.dtype}; expected floating point from 0 to 1. Divide by the maximum."
        )
    if annotator.build is not None and net is None:
        raise AnnotatorError(f"{annotator.id} needs its network; pass what its build() returned as net.")


def _looked_at(source: Size, size: Size | None, mode: Mode, resolution: int | None) -> Size:
    """The size at which an annotator looks at pictures of size `source`."""
    if resolution is not None:
        if resolution < 1:
            raise ParameterError(f"resolution is {resolution}; expected at least 1 pixel for the short side.")
        return fit.short_side(source, resolution)
    return source if size is None else fit.pixel_perfect(source, size, mode)


def _device_of(net: torch.nn.Module | None) -> torch.device:
    first = None if net is None else next(net.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def _chunk(annotator: Annotator, size: Size, device: torch.device) -> int:
    if not annotator.batchable:
        return 1
    usual = PIXELS_WITHOUT_A_NETWORK if annotator.build is None else PIXELS_ON_A_CPU
    return max(1, pixels_at_once(device, annotator.cpu_pixels or usual) // (size[0] * size[1]))


def _prepared(images: Tensor, opaque: bool = False) -> Tensor:
    """Pictures [B,3,H,W] in 0..1, float32, of images [B,H,W,C].

    opaque: opacity is not applied.
    """
    pixels = images.float()
    # As whole numbers their bits are in the floats' order, but NaN is outermost: twice as fast.
    low, high = pixels.view(torch.int32).aminmax()
    if low < 0 or high > _BITS_OF_1:
        pixels = torch.nan_to_num(pixels, nan=0.0).clamp_(0.0, 1.0)
    if pixels.shape[-1] in (2, 4):
        colours, opacity = pixels[..., :-1], pixels[..., -1:]
        pixels = colours if opaque else colours * opacity
    return pixels.movedim(-1, 1).expand(-1, 3, -1, -1)


def _masks(annotator: Annotator, images: Tensor, masks: Tensor | None) -> Tensor | None:
    """Masks [M,1,H,W] in 0..1 at the pictures' size, M 1 or their number; None for annotators without."""
    if not annotator.masked:
        if masks is not None:
            raise ParameterError(f"{annotator.id} takes no mask; leave it away.")
        return None
    if masks is None:
        if images.shape[-1] in (2, 4):
            opacity = torch.nan_to_num(images[..., -1].detach().cpu().float()).clamp(0.0, 1.0)
            return 1.0 - opacity[:, None]
        return torch.zeros(1, 1, *images.shape[1:3])
    masks = masks[None] if masks.ndim == 2 else masks
    if masks.ndim != 3 or len(masks) not in (1, len(images)):
        raise ParameterError(
            f"the masks have shape {tuple(masks.shape)}; expected [masks, height, width] with one mask, or "
            f"one for each of {len(images)} pictures."
        )
    masks = torch.nan_to_num(masks.detach().cpu().float()).clamp(0.0, 1.0)[:, None]
    return fit.fit(masks, (images.shape[1], images.shape[2]), "stretch", "depth")


def _padded(maps: Tensor, multiple: int) -> Tensor:
    """Maps whose last row and column are repeated until the sides are multiples of `multiple`."""
    down, right = (-side % multiple for side in maps.shape[-2:])
    return F.pad(maps, (0, right, 0, down), mode="replicate") if down or right else maps


def _cut(annotation: Annotation, size: Size) -> Annotation:
    """An annotation without what padding added: maps on the CPU."""
    height, width = size
    maps = {
        name: None if value is None else value[..., :height, :width].cpu()
        for name in ("depth", "labels", "mask")
        for value in [getattr(annotation, name)]
    }
    picture = annotation.picture
    if picture is not None:
        # Laid out by the device as hints are: one copy is all that is left to do for a large batch.
        pixels = picture[..., :height, :width].float().movedim(1, -1).contiguous()
        picture = pixels.cpu().movedim(-1, 1)
    return replace(annotation, picture=picture, **maps)


def _placed(annotation: Annotation, placement: fit.Placement, annotator: Annotator) -> Annotation:
    """An annotation at the size of the placement's canvas."""

    def placed(maps: Tensor | None, kind: fit.Kind) -> Tensor | None:
        if maps is None:
            return None
        if maps.ndim == 3:
            return fit.laid(fit.resize(maps[:, None], placement.scaled, kind), placement, kind)[:, 0]
        return fit.laid(fit.resize(maps, placement.scaled, kind), placement, kind)

    picture = placed(annotation.picture, annotator.kind)
    return Annotation(
        picture,
        placed(annotation.depth, "depth"),
        placed(annotation.labels, "areas"),
        placed(annotation.mask, "depth"),
        annotation.lines
        and [placement.points(one.reshape(-1, 2, 2)).reshape(-1, 4) for one in annotation.lines],
        annotation.keypoints and [_placed_frame(frame, placement) for frame in annotation.keypoints],
    )


def _placed_frame(frame: dict[str, Any], placement: fit.Placement) -> dict[str, Any]:
    """A frame of OpenPose keypoints on the placement's canvas: flat lists of x, y and score, all 0 where a
    point was not found."""

    def moved(value: Any) -> Any:
        if not isinstance(value, list) or not value or isinstance(value[0], dict):
            return value
        triples = torch.tensor(value, dtype=torch.float64).reshape(-1, 3)
        points = placement.points(triples[:, :2])
        found = triples[:, 2:] > 0
        return torch.where(found, torch.cat([points, triples[:, 2:]], 1), 0.0).flatten().tolist()

    people = [
        {key: moved(value) if key.endswith("keypoints_2d") else value for key, value in person.items()}
        for person in frame.get("people", [])
    ]
    height, width = placement.size
    return {**frame, "people": people, "canvas_width": width, "canvas_height": height}


def _in_chunks(
    made: Callable[[int, int], Annotation],
    count: int,
    chunk: int,
    progress: Callable[[int, int], None] | None,
) -> Iterator[Annotation]:
    """Annotations of pictures start to stop, for all of them in chunks; half as large, and for good, where
    one was too large for the memory."""
    done = 0
    if progress:
        progress(done, count)
    while done < count:
        stop = min(done + chunk, count)
        try:
            part = made(done, stop)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error) or stop - done == 1:
                raise
            part = None
        if part is None:
            # Only here, where the exception and the tensors of its frames are gone.
            chunk = (stop - done) // 2
            _empty_caches()
            continue
        yield part
        done = stop
        if progress:
            progress(done, count)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return any(words in str(error).lower() for words in ("out of memory", "can't allocate memory"))


def _empty_caches() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _joined(parts: Iterable[Annotation], count: int) -> Annotation:
    """The annotations of `count` pictures as one. Parts are let go as they come: less memory, and the next
    one gets that of the last, still in the caches."""
    maps: dict[str, Any] = {}
    lists: dict[str, Any] = {}
    done = size = 0
    for part in parts:
        for name, value in vars(part).items():
            if isinstance(value, list):
                lists.setdefault(name, []).extend(value)
                size = len(value)
            elif value is not None:
                size = len(value)
                # Channels are last, as in hints.
                rows = value.movedim(1, -1) if value.ndim == 4 else value
                if size == count:
                    maps[name] = rows
                    continue
                if name not in maps:
                    # NumPy asks the system for large pages, which it gives many times as fast.
                    memory = torch.from_numpy(np.empty(count * rows[0].nbytes, np.uint8))
                    maps[name] = memory.view(rows.dtype).view(count, *rows.shape[1:])
                maps[name][done : done + size] = rows
        done += size
    laid = {name: rows.movedim(-1, 1) if rows.ndim == 4 else rows for name, rows in maps.items()}
    return Annotation(**laid, **lists)


def _hints(annotation: Annotation) -> Hints:
    if annotation.picture is None:
        raise AnnotatorError("the annotator made no picture")
    image = annotation.picture.float().movedim(1, -1).contiguous()
    return Hints(
        image, annotation.depth, annotation.labels, annotation.mask, annotation.lines, annotation.keypoints
    )

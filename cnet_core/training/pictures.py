"""Pictures of training data: read from files, cropped to their bucket, mirrored."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin

from ..errors import DataError
from .skeletons import mirrored_skeleton

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
# What a hint's pixels are, in the annotators' words. It decides how they may be scaled and mirrored.
# Normals are BAE's and OpenGL's, with x in red; midas_normals, of the first release, have it in blue.
HintKind = Literal["lines", "soft", "photo", "depth", "normals", "midas_normals", "areas", "skeleton"]
HINT_KINDS: tuple[HintKind, ...] = get_args(HintKind)
_X_CHANNELS = {"normals": 0, "midas_normals": 2}
# Its tags ImageWidth and ImageLength.
_TIFF_SIZE = 256, 257


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        # Of a path, Pillow maps some TIFFs that it has turned in the size that they had.
        with path.open("rb") as file, Image.open(file) as opened:
            yield opened
    # Pillow's decoders raise what they like on damaged data: OSError, SyntaxError, zlib.error, ...
    except Exception as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        reason = found or type(error).__name__
        raise DataError(f"{path} cannot be read as a picture: {reason}. Replace or remove it.") from error


def picture_size(path: Path) -> tuple[int, int]:
    """(width, height) of a picture file as `read_picture` turns it. Raises DataError as that does."""
    with _opened(path) as opened:
        width, height = opened.size
        if isinstance(opened, TiffImagePlugin.TiffImageFile):
            # Newer Pillows have turned these sizes already.
            width, height = (int(opened.tag_v2[tag]) for tag in _TIFF_SIZE)
        sideways = opened.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    return (height, width) if sideways else (width, height)


def read_picture(path: Path) -> np.ndarray:
    """Pixels, uint8 [H,W,3] RGB, of a picture file: turned as its EXIF says, opacity over black, 16 bits
    rounded to 8.

    Raises DataError naming the file if it is missing, damaged or no picture.
    """
    with _opened(path) as opened:
        picture = ImageOps.exif_transpose(opened)
        picture.load()
    if picture.mode == "F":
        raise DataError(
            f"{path} holds floating-point numbers, of which none says what is black and what is white. Save "
            "it in 8 or 16 bits."
        )
    if picture.mode.startswith("I"):
        # Pillow would clip these to 255 instead of scaling them.
        grey = np.clip(np.rint(np.asarray(picture, np.float64) / 257), 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, 2)
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture)
    return np.array(picture.convert("RGB"))


def window(columns: int, rows: int, width: int, height: int) -> tuple[int, int, int, int]:
    """(left, top, width, height) of the middle of a picture that has the shape of width x height, in whole
    pixels of the picture."""
    scale = max(width / columns, height / rows)
    wide, high = min(columns, max(1, round(width / scale))), min(rows, max(1, round(height / scale)))
    return (columns - wide) // 2, (rows - high) // 2, wide, high


def fitted(pixels: np.ndarray, width: int, height: int, flat: bool = False) -> np.ndarray:
    """A picture [H,W,C] scaled until it covers width x height, and cut to it from the centre.

    Image and hint of one shape are cut alike, whatever their sizes. flat: only colours of the picture may
    come out (areas of a segmentation); otherwise shrinking averages and enlarging interpolates.
    """
    left, top, wide, high = window(pixels.shape[1], pixels.shape[0], width, height)
    part = np.ascontiguousarray(pixels[top : top + high, left : left + wide])
    if (wide, high) == (width, height):
        return part
    smooth = cv2.INTER_AREA if width < wide else cv2.INTER_CUBIC
    return cv2.resize(part, (width, height), interpolation=cv2.INTER_NEAREST_EXACT if flat else smooth)


def mirrored(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels[:, ::-1])


def mirrored_hint(pixels: np.ndarray, kind: HintKind, name: str) -> np.ndarray:
    """A hint [H,W,3] of the mirrored picture.

    Normals: x changes its sign; it is in red, in MiDaS' order in blue. Skeletons: left and right change their
    colours. Raises DataError where that cannot be told, see `mirrored_skeleton`.
    """
    pixels = mirrored(pixels)
    if kind == "skeleton":
        return mirrored_skeleton(pixels, name)
    if kind in _X_CHANNELS:
        pixels[..., _X_CHANNELS[kind]] = 255 - pixels[..., _X_CHANNELS[kind]]
    return pixels

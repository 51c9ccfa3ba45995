"""Pictures of training data: read from files, cropped to their bucket, mirrored."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps

from ..errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
# What a hint's pixels are, in the annotators' words. It decides how they may be scaled and mirrored.
HintKind = Literal["lines", "soft", "photo", "depth", "normals", "areas", "skeleton"]
HINT_KINDS: tuple[HintKind, ...] = ("lines", "soft", "photo", "depth", "normals", "areas", "skeleton")


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as opened:
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


# OpenPose's colours, by joint in COCO's order of 18, and by limb at 60 % of their brightness.
_COLOURS = np.array(
    [
        *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0)),
        *((0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255)),
        *((0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85)),
    ],
    np.int16,
)
# Which joint or limb (17 of them) becomes which when left and right are changed.
_JOINTS = (0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16)
_LIMBS = (1, 0, 4, 5, 2, 3, 9, 10, 11, 6, 7, 8, 12, 15, 16, 13, 14)
_LIMB_COLOURS = (_COLOURS[:17] * 0.6).astype(np.int16)
_BLACK = np.zeros((1, 3), np.int16)
_PALETTE = np.concatenate([_BLACK, _COLOURS, _LIMB_COLOURS])
_SWAPPED = np.concatenate([_BLACK, _COLOURS[list(_JOINTS)], _LIMB_COLOURS[list(_LIMBS)]]).astype(np.uint8)
# Rounding of 60 % differs by one between drawers.
_NEAR = 2
_STRANGE = 0.02


def mirrored_hint(pixels: np.ndarray, kind: HintKind, name: str) -> np.ndarray:
    """A hint [H,W,3] of the mirrored picture.

    Normals: x, in red, changes its sign. Skeletons: left and right change their colours, which can be told
    only from exact colours: DataError if more than 2 % of what is drawn has none of OpenPose's (JPEG, a
    scaled or anti-aliased drawing, hands or faces).
    """
    pixels = mirrored(pixels)
    if kind == "normals":
        pixels[..., 0] = 255 - pixels[..., 0]
    if kind != "skeleton":
        return pixels
    colours, index = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    distance = np.abs(colours[:, None].astype(np.int16) - _PALETTE[None]).max(-1)
    nearest = distance.argmin(1)
    strange = distance.min(1) > _NEAR
    counts = np.bincount(index.reshape(-1), minlength=len(colours))
    drawn = counts[colours.any(1)].sum()
    if counts[strange].sum() > _STRANGE * drawn:
        share = 100 * counts[strange].sum() / drawn
        raise DataError(
            f"{name}: {share:.0f} % of the skeleton's pixels have colours that are not exactly OpenPose's, "
            "so left and right cannot be told apart. Train without mirroring, let an annotator make the "
            "hints (it sees the mirrored picture), or draw them without smoothing, hands and faces, as PNG."
        )
    return _SWAPPED[nearest][index.reshape(-1)].reshape(pixels.shape)

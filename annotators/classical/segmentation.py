"""Segmentation hints of label maps, masks and roughly coloured pictures, in ADE20K's colours."""

import numpy as np
import torch
from torch import Tensor

from .. import ade20k
from ..parameters import Choice
from ..pixels import as_bytes
from ..registry import Annotation, Annotator

# Colours that are compared with the palette at once.
_AT_ONCE = 1 << 16


def to_palette(pictures: Tensor, read_as: str = "colours", mask_class: str = "person") -> Annotation:
    """ADE20K's colours for pictures [B,3,H,W] that show classes in some other way.

    read_as: "colours": each pixel gets the nearest colour of the palette, black stays black (no class);
    "labels": brightness, of 255, is the class, 0 wall to 149 flag; "labels from 1": as in ADE20K's own files,
    1 wall to 150 flag, 0 nothing; "mask": bright is `mask_class`, dark nothing. What is of no class is -1 in
    the labels.
    """
    array = as_bytes(pictures)
    if read_as == "colours":
        labels = np.stack([_nearest(picture) for picture in array])
    elif read_as == "mask":
        labels = np.where(array.max(-1) > 127, ade20k.NAMES.index(mask_class), -1)
    else:
        labels = array[..., 0].astype(np.int64) - (read_as == "labels from 1")
        labels[labels >= len(ade20k.NAMES)] = -1
    found = torch.from_numpy(labels.astype(np.int64))
    return Annotation(ade20k.coloured(found), labels=found)


def _nearest(picture: np.ndarray) -> np.ndarray:
    """The class [H,W] of the nearest colour of each pixel of a picture uint8 [H,W,3]; -1 is black."""
    # A picture has far more pixels than colours, if it is a segmentation at all.
    packed = picture.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    colours: np.ndarray
    colours, place = np.unique(packed, return_inverse=True)
    rgb = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], -1).astype(np.float32)
    palette = np.array([*ade20k.PALETTE, (0, 0, 0)], np.float32)
    # Squared distances, less what is the same for all colours of the palette; of a photo in pieces.
    squares = (palette**2).sum(-1)
    pieces = np.split(rgb, range(_AT_ONCE, len(rgb), _AT_ONCE))
    classes = np.concatenate([(squares - 2 * piece @ palette.T).argmin(-1) for piece in pieces])
    classes[classes == len(ade20k.PALETTE)] = -1
    return classes[place].reshape(picture.shape[:2])


ANNOTATOR = Annotator(
    id="ade20k_colours",
    title="Segmentation Colours",
    condition="segmentation",
    kind="areas",
    reads="areas",
    description=(
        "A label map, a mask or a rough painting in exactly the colours that segmentation ControlNets know."
    ),
    convention="ADE20K's 150 colours; black is no class",
    annotate=to_palette,
    parameters=(
        Choice(
            "read_as",
            "colours",
            ("colours", "labels", "labels from 1", "mask"),
            "colours: each becomes the nearest of the palette. labels: brightness of 255 is the class. "
            "labels from 1: the same, 0 is no class. mask: white is the class below.",
        ),
        Choice("mask_class", "person", ade20k.NAMES, "What a mask shows; only for masks."),
    ),
    makes=("labels",),
    suits=("lllyasviel/control_v11p_sd15_seg", "lllyasviel/sd-controlnet-seg"),
    aliases=("segmentation", "seg", "labels", "ade20k", "palette"),
)

"""What several networks need: the way in and out of other number formats, soft edges, depth as a picture."""

import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import weights
from ..errors import AnnotatorError, DependencyError, WeightsError, install
from ..parameters import Choice, Int
from ..registry import Annotation, WeightFile

# The colours of ImageNet.
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)

# A line of three pixels in each direction.
_ROW = np.array([[0, 0, 0], [1, 1, 1], [0, 0, 0]], np.uint8)
_FALLING = np.eye(3, dtype=np.uint8)
_DIRECTIONS = (_ROW, _ROW.T.copy(), _FALLING, np.fliplr(_FALLING).copy())

SAFE = Int(
    "safe",
    0,
    0,
    8,
    "Keep only so many levels of grey, lest faint traces of the picture leak into the hint; 0 keeps all, 2 "
    "is what soft edge ControlNets know as safe.",
)
SPAN = Choice(
    "span",
    "picture",
    ("picture", "sequence"),
    "What black and white are: the farthest and nearest of each picture, or of the whole sequence, so that a "
    "video does not flicker.",
    advanced=True,
)


def in_annotators(file: str, licence: str, sha256: str | None = None) -> WeightFile:
    """A file of the repository that the authors of ControlNet gathered annotators in."""
    return WeightFile("lllyasviel/Annotators", file, licence, sha256)


def ask(net: torch.nn.Module, pictures: Tensor) -> Any:
    """What a network says to pictures, given in its own number format; tensors come back as of `sound`."""
    dtype = next(net.parameters()).dtype
    # As images come, their channels are last; whether that is faster differs, so networks choose by weights.
    return sound(net(pictures.to(dtype).contiguous()))


def standardised(pictures: Tensor) -> Tensor:
    """Pictures [B,3,H,W] less ImageNet's mean, by its deviation, of each channel."""
    mean, deviation = pictures.new_tensor([_MEAN, _DEVIATION])[..., None, None]
    return (pictures - mean) / deviation


def as_picture(values: Tensor) -> Tensor:
    """Values [B,H,W] or [B,1,H,W] as grey pictures [B,3,H,W], within 0..1."""
    values = values[:, None] if values.ndim == 3 else values
    return values.clamp(0.0, 1.0).expand(-1, 3, -1, -1)


def fused(sides: Sequence[Tensor], height: int, width: int) -> Tensor:
    """Soft edges [B,1,H,W] in 0..1 from the logits [B,1,h,w] that a network finds at several scales."""
    size = (height, width)
    scaled = [F.interpolate(side, size, mode="bilinear", align_corners=False) for side in sides]
    return torch.stack(scaled).mean(0).sigmoid()


def in_levels(edges: Tensor, levels: int) -> Tensor:
    """Edges in 0..1, cut down to so many steps above black, as the hints of soft edge ControlNets were."""
    return (edges * (levels + 1)).floor().div(levels).clamp(max=1.0) if levels else edges


def scribbled(edges: Tensor) -> Tensor:
    """Thick strokes [B,1,H,W], 0 or 1, along the ridges of soft edges [B,1,H,W]: scribbles as ControlNets
    learned them, by non-maximum suppression at a scale of 3 pixels."""
    strokes = [_strokes(one) for one in (edges[:, 0].cpu().numpy() * 255.0).clip(0, 255)]
    return torch.from_numpy(np.stack(strokes))[:, None]


def _strokes(edges: np.ndarray) -> np.ndarray:
    """Strokes of one map [H,W] in 0..255."""
    smooth = cv2.GaussianBlur(edges.astype(np.float32), (0, 0), 3.0)
    ridges = np.any([cv2.dilate(smooth, line) == smooth for line in _DIRECTIONS], axis=0)
    thin = np.where(ridges & (smooth > 127), np.float32(255), np.float32(0))
    # Above 4 of 255, in rounded bytes.
    return (cv2.GaussianBlur(thin, (0, 0), 3.0) > 4.5).astype(np.float32)


def ranged(depth: Tensor, span: str, low: float = 0.0, high: float = 100.0) -> Tensor:
    """Depth [B,H,W] in 0..1: from its `low` to its `high` percentile, of each picture or of the sequence.

    A depth that is everywhere the same is 0.
    """
    values = depth.numpy()
    axes = (1, 2) if span == "picture" else (0, 1, 2)
    bottom, top = (np.percentile(values, one, axis=axes, keepdims=True) for one in (low, high))
    extent = top - bottom
    scaled = (values - bottom) / np.where(extent > 0, extent, 1.0)
    return torch.from_numpy(scaled.astype(np.float32)).clamp_(0.0, 1.0)


def depth_finish(annotation: Annotation, span: str) -> Annotation:
    """The picture of a depth: nearest white, farthest black."""
    assert annotation.depth is not None
    annotation.picture = as_picture(ranged(annotation.depth, span))
    return annotation


def library(name: str, mend: str) -> Any:
    """A library that an annotator needs. Raises DependencyError, which ends with how to install it, if it is
    not there or fails to load."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        missing = name if error.name == name else f"what {name} needs ({error})"
        raise DependencyError(f"this annotator needs {missing}, which is not installed. {mend}") from error
    # Libraries, and those that they load, fail in ways of their own.
    except Exception as error:
        raise DependencyError(
            f"{name} is installed, but fails to load: {type(error).__name__}: {error}. {mend}"
        ) from error


def transformers() -> Any:
    """The library, for the networks that come from it. Raises DependencyError as `library` does."""
    return library("transformers", f"Install it beside the pack: {install('transformers>=4.44')}.")


def from_transformers(network: str, config: Any, path: Path, optional: str | None = None) -> torch.nn.Module:
    """A network of transformers with the tensors of a file, which the library renames as its version needs.

    optional: a pattern of names that the file may have too many. Raises WeightsError.
    """
    library = transformers()
    logging = library.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    held = weights.read(path)
    try:
        logging.set_verbosity(logging.CRITICAL)
        logging.disable_progress_bar()
        net, about = getattr(library, network).from_pretrained(
            None, config=config, state_dict=held, output_loading_info=True
        )
    # Of whichever kind: the file is another network's.
    except Exception as error:
        raise WeightsError(
            f"{path} does not hold the weights of {network}: {error}. "
            "Put the file there that the annotator names, or fetch it."
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    more = [name for name in about["unexpected_keys"] if not re.search(optional or r"(?!)", name)]
    if wrong := [f"lacks {name}" for name in about["missing_keys"]] + [f"has {name}" for name in more]:
        raise WeightsError(
            f"{path} does not hold the weights of {network}: it {wrong[0]}, one of {len(wrong)} faults. "
            "Put the file there that the annotator names, or fetch it."
        )
    return net.float()


def sound(value: Any) -> Any:
    """A network's answer, a tensor or lists of them, in float32; anything else comes back as it is.

    Raises AnnotatorError for values that are not finite, which comparisons would make a clean hint of.
    """
    if isinstance(value, list | tuple):
        return [sound(one) for one in value]
    if not isinstance(value, Tensor):
        return value
    value = value.float()
    # The sum says so far sooner, but may overflow by itself.
    if not value.sum().isfinite() and not value.isfinite().all():
        raise AnnotatorError(
            "the network answered with values that are not finite numbers (NaN or infinity), as some do "
            "in 16 bits: let it compute in fp32. If it does, its weights are damaged: remove the file, and "
            "fetch it again."
        )
    return value

"""The table of annotators. Each is one file that describes itself, for nodes, shell, README and tests.

An annotator is a function from pictures to hints and an `Annotator` that describes it. The function gets
pictures [B,3,H,W], float32 RGB without NaN in 0..1, and its parameters by name. The pictures may be the
user's own: they stay as they are, and no hint shares their memory. `annotators.run` takes care of everything
around: other channels and value ranges, sizes, padding, chunks, devices, progress.
`annotators.table` finds the annotators, `annotators.pixels` has the ways to OpenCV and back.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from .errors import ParameterError
from .parameters import Parameter

# What a hint's pixels are, which decides how it may be resized: thin lines of one pixel, soft lines, a photo
# or anything smooth, a depth map, unit vectors, areas of flat colours, a drawn skeleton, a photo with -1
# where it is to be painted.
Kind = Literal["lines", "soft", "photo", "depth", "normals", "areas", "skeleton", "inpaint"]

# What hints show, in the order of menus and tables.
CONDITIONS = (
    "canny",
    "lines",
    "soft edge",
    "scribble",
    "line art",
    "anime line art",
    "pose",
    "face",
    "depth",
    "normals",
    "segmentation",
    "shuffle",
    "tile",
    "blur",
    "recolor",
    "inpaint",
    "tool",
)

# What annotations may hold beside the picture.
RAW = ("depth", "labels", "mask", "lines", "keypoints")


@dataclass(frozen=True)
class WeightFile:
    """A file on the model hub: repository, path in it, licence of the weights, hash where known."""

    repository: str
    file: str
    licence: str
    sha256: str | None = None


@dataclass
class Annotation:
    """What an annotator made of B pictures; what it has not made is None.

    picture: the hint [B,3,H,W] in 0..1 (of kind "inpaint" -1 where it is to be painted); None only until
    `Annotator.finish` has made it.
    depth: [B,H,W], larger is nearer, of any scale. labels: [B,H,W] int64, classes or regions. mask: [B,H,W]
    in 0..1. lines: for each picture [N,4] segments x0, y0, x1, y1 in pixels. keypoints: for each picture a
    frame in OpenPose's format (people, canvas_width, canvas_height) in pixels.
    """

    picture: Tensor | None = None
    depth: Tensor | None = None
    labels: Tensor | None = None
    mask: Tensor | None = None
    lines: list[Tensor] | None = None
    keypoints: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Annotator:
    """One way from pictures to hints.

    id: its name in the shell and in nodes; title: in menus; condition: what the hint shows, of CONDITIONS.
    convention: polarity, axes or palette of the hint, in words.
    annotate: (pictures [B,3,H,W], **parameters) -> Annotation of the same H and W. It is also given `net=`,
    what `build` returned, if there is a `build`; `seeds=`, one int per picture, if `seedable`; and `masks=`
    [B,1,H,W] in 0..1 if `masked`. Pictures are on the network's device; the network may have another dtype.
    finish: (Annotation of a whole batch, **parameters) -> Annotation, after all chunks; for what belongs to
    a sequence, such as the range of a depth map.
    build: from the paths of `weights` (by file name) to the network, in eval mode, on the CPU, in float32.
    It must follow `.to(device, dtype)`.
    multiple: `annotate` takes sides that are multiples of it; pictures are padded to one and cut back.
    cpu_pixels: how many pixels go through at once on a CPU. So few as by default keep what is computed in the
    caches; of more, large weights are read less often, and what each call begins with is begun less often.
    reads: what its pictures show, so how they are scaled before it looks at them. Of depth maps those that
    reach beyond 0..1, as raw depth does, are brought there by their own range, and 8 bits are made smooth.
    regions: its labels are the numbers of a picture's regions from 1, 0 where there is none; else they are
    classes from 0, -1 where there is none.
    batchable: False where pictures are annotated one by one whatever the chunk.
    makes: what its annotations hold beside the picture, of RAW.
    suits: published ControlNets whose hints these are.
    """

    id: str
    title: str
    condition: str
    kind: Kind
    description: str
    convention: str
    annotate: Callable[..., Annotation]
    parameters: tuple[Parameter, ...] = ()
    finish: Callable[..., Annotation] | None = None
    build: Callable[[Mapping[str, Path]], torch.nn.Module] | None = None
    weights: tuple[WeightFile, ...] = ()
    # What must be installed beside the pack's own requirements: the name of the pack's extra.
    extra: str | None = None
    multiple: int = 1
    makes: tuple[str, ...] = ()
    cpu_pixels: int | None = None
    batchable: bool = True
    seedable: bool = False
    masked: bool = False
    reads: Kind = "photo"
    regions: bool = False
    suits: tuple[str, ...] = ()
    aliases: tuple[str, ...] = field(default=())

    @property
    def node(self) -> str:
        """The id of its node: "hed_scribble" is CNetHedScribble."""
        return "CNet" + "".join(word.capitalize() for word in self.id.split("_"))

    def checked(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters by name: these values, and the defaults of the others. Raises ParameterError."""
        known = {parameter.name: parameter for parameter in self.parameters}
        if unknown := [name for name in values if name not in known]:
            raise ParameterError(
                f"{self.id} has no parameter {unknown[0]!r}; it has {', '.join(known) or 'none'}."
            )
        return {name: p.check(values.get(name, p.default)) for name, p in known.items()}

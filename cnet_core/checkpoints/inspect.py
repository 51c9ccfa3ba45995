"""What a checkpoint file is, for people and programs, without loading its weights."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..networks.config import UNetConfig
from ..networks.union import UNION_TYPES, type_name
from .bases import base_name
from .detect import FAMILIES, identify
from .family import Family
from .host_sizes import host_sizes
from .load import UNET_FAMILIES, unet_of
from .read import StateFile, read_state_dict
from .text import printable
from .weights import refuse_quantised

_PRECISIONS = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float8_e4m3fn: "fp8 e4m3",
    torch.float8_e5m2: "fp8 e5m2",
}
_LOADERS = {
    "native": "this pack: the Load ControlNet (CNet) node.",
    "host": "ComfyUI's own ControlNet loader.",
    "other": "another node.",
    "unknown": "no node that this pack knows.",
}
_ENTRIES = 40


_NEEDS = {
    "unet": "the base model: its weights add to that model's. Connect it to the loader's model input.",
    "controlnet": "the base ControlNet that it was trained on. Choose that in the loader's base_control_net.",
}


@dataclass(frozen=True)
class Inspection:
    """What a file holds.

    family: the id in the table of families, "unknown" if none matches; name: what people call it.
    loader: who loads it: "native" (this pack), "host" (the host's own ControlNet loader), "other" (the node
    that `mend` names) or "unknown". base: the base model's name, None where the sizes do not tell it.
    precision: number of parameters by precision, the most common first. parameters, tensors: their numbers,
    without what is in the file beside a ControlNet. size: bytes on disk.
    hint_channels, encoded_channels, global_average_pooling: None where the family has no such thing or its
    file does not tell; encoded_channels: of the hint that the base's VAE has encoded, a mask's included.
    union_types: the kinds of hint that one file serves; union_modes: their number where it has no names
    for them. needs: whose weights the loader must be given
    besides, a base model's ("unet") or a base ControlNet's ("controlnet"); None for most.
    metadata: the safetensors header's own, uncut: a stranger's text, see `printable`.
    """

    path: str
    family: str
    name: str
    loader: str
    mend: str
    base: str | None
    precision: Mapping[str, int]
    parameters: int
    tensors: int
    size: int
    hint_channels: int | None
    encoded_channels: int | None
    union_types: tuple[str, ...]
    union_modes: int | None
    global_average_pooling: bool | None
    needs: str | None
    metadata: Mapping[str, str]

    def to_json(self) -> str:
        """All fields as one line of JSON. Metadata is whole; control characters are escaped."""
        return json.dumps(asdict(self)).replace("\x7f", "\\u007f")

    def to_text(self) -> str:
        """All that is known in lines for people, fit for a terminal: metadata is cut and cleaned."""
        rows = [("family", self.name)]
        if self.base is not None:
            rows.append(("base", self.base))
        rows.append(("precision", self._precisions()))
        rows.append(
            ("parameters", f"{count(self.parameters)} in {self.tensors} tensors, {self.size:,} bytes")
        )
        if self.hint_channels is not None:
            rows.append(("hint channels", str(self.hint_channels)))
        if self.encoded_channels is not None:
            rows.append(("hint channels", f"{self.encoded_channels}, as the base's VAE has encoded it"))
        if self.union_modes is not None:
            rows.append(("union types", f"{self.union_modes}; the file has no names for them"))
        if self.union_types:
            # Several kinds may share a type.
            types = dict.fromkeys(
                type_name(UNION_TYPES[kind]) if kind in UNION_TYPES else kind for kind in self.union_types
            )
            rows.append(("union types", f"{len(types)}: {', '.join(types)}"))
        if self.global_average_pooling is not None:
            rows.append(("average pooling", "global" if self.global_average_pooling else "no"))
        if self.needs:
            rows.append(("needs", _NEEDS[self.needs]))
        rows.append(("loaded by", " ".join(part for part in (_LOADERS[self.loader], self.mend) if part)))
        for i, (key, value) in enumerate(sorted(self.metadata.items())[:_ENTRIES]):
            rows.append(("" if i else "metadata", f"{printable(key)}: {printable(value)}"))
        if not self.metadata:
            rows.append(("metadata", "none"))
        elif len(self.metadata) > _ENTRIES:
            rows.append(("", f"and {len(self.metadata) - _ENTRIES} more entries"))
        lines = [f"  {name:<15}  {printable(value, None)}" for name, value in rows]
        return "\n".join([printable(self.path, None), *lines])

    def _precisions(self) -> str:
        """ "fp16", or shares where the file mixes several."""
        if len(self.precision) < 2:
            return next(iter(self.precision), "none")
        total = sum(self.precision.values())
        return ", ".join(f"{name} {share(number / total)}" for name, number in self.precision.items())


def inspect(path: str | Path, families: Sequence[Family] = FAMILIES) -> Inspection:
    """What the file is, from the names, shapes and header of its tensors; no weights are read.

    A readable file of no known family is reported as "unknown". Raises CheckpointError, naming the file and
    the mend, if it is missing, truncated or no checkpoint, or a damaged file of a family of this pack.
    """
    file = read_state_dict(path)
    try:
        family: Family | None = identify(file, families)
    except CheckpointError:
        family = None
    opened = family.open(file, family) if family is not None and family.open is not None else None
    if opened is not None:
        opened.check()
    elif family is not None and family.host:
        refuse_quantised(file.path, file.tensors)
    tensors: Mapping[str, Tensor] = getattr(opened, "tensors", file.tensors)
    precisions: Counter[str] = Counter()
    for tensor in tensors.values():
        precisions[precision(tensor.dtype)] += tensor.numel()
    told = None if family is None else host_sizes(family.id, tensors)
    pooling = getattr(opened, "global_average_pooling", None)
    return Inspection(
        path=str(file.path),
        family="unknown" if family is None else family.id,
        name=_unknown(file) if family is None else family.name,
        loader="unknown" if family is None else family.kind,
        mend="" if family is None or family.kind == "native" else family.mend,
        base=_base(file, family, opened) if told is None else told.base,
        # Marks without content ("difference", "lora_controlnet") have no precision.
        precision={name: number for name, number in precisions.most_common() if number},
        parameters=precisions.total(),
        tensors=len(tensors),
        size=file.path.stat().st_size,
        hint_channels=getattr(opened or told, "hint_channels", None),
        encoded_channels=getattr(told, "encoded_channels", None),
        union_types=tuple(str(kind) for kind in getattr(opened, "union_types", None) or ()),
        union_modes=getattr(told, "union_modes", None),
        global_average_pooling=None if pooling is None else bool(pooling),
        needs=None if opened is None else opened.needs,
        metadata=dict(file.metadata),
    )


def precision(dtype: torch.dtype) -> str:
    """A dtype's common name, like "fp16"."""
    return _PRECISIONS.get(dtype, str(dtype).removeprefix("torch."))


def count(number: int) -> str:
    """A number as people say it: "361.3 M"; below a million all its digits."""
    if number >= 1e9:
        return f"{number / 1e9:.2f} G"
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number:,}"


def share(part: float) -> str:
    return f"{part:.1%}" if 0.001 <= part <= 0.999 else ("<0.1%" if part < 0.5 else ">99.9%")


def _unknown(file: StateFile) -> str:
    names = ", ".join(printable(name, 80) for name in sorted(file.tensors)[:3])
    return f"unknown kind of network; its tensors are {names}{', ...' if len(file.tensors) > 3 else ''}"


def _base(file: StateFile, family: Family | None, opened: Any) -> str | None:
    config = getattr(opened, "config", None)
    if family is not None and family.id in UNET_FAMILIES:
        try:
            _, config = unet_of(file, family)
        except (ValueError, IndexError, ArithmeticError):
            return None  # A full checkpoint of another architecture: the sizes of a UNet are not there.
    if isinstance(config, UNetConfig):
        return base_name(config)
    named = getattr(opened, "base", None)
    return named if isinstance(named, str) else None

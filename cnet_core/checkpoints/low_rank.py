"""What the families of low-rank ControlNets share: opening such a file, and merging it with its base."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..errors import BaseMismatchError, CheckpointError
from .bases import base_name, check_base
from .control_file import ControlFile, control_file, reading
from .family import Family
from .shapes import block_number, encoder_config
from .weights import BaseWeight, Weight, base_weights, low_rank

# Modules of the base that a ControlNet has too.
ENCODER = ("time_embed.", "label_emb.", "input_blocks.", "middle_block.")


@dataclass(frozen=True, eq=False)
class LowRank:
    """The content of a file: tensors that are whole, and {weight: (up, down)} of those that are not."""

    whole: dict[str, Tensor]
    pairs: dict[str, tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, path: Path, tensors: Mapping[str, Tensor], up: str, down: str) -> "LowRank":
        """Told apart by how names end; what replaces `up` and `down` in a weight's name is `.weight`.

        Raises CheckpointError for a half without the other, or two that do not fit.
        """
        stems = [name.removesuffix(end) for name in tensors for end in (up, down) if name.endswith(end)]
        pairs = {}
        for stem in dict.fromkeys(stems):
            if missing := [stem + end for end in (up, down) if stem + end not in tensors]:
                raise CheckpointError(
                    f"{path} is damaged or incomplete: of the LoRA of {stem} it has no {missing[0]}. "
                    "Download it again."
                )
            a, b = tensors[stem + up], tensors[stem + down]
            if a.ndim < 2 or b.ndim < 2 or a.numel() != a.shape[0] * b.shape[0] or not a.numel():
                raise CheckpointError(
                    f"{path} is damaged: the LoRA of {stem} is {tuple(a.shape)} and {tuple(b.shape)}, which "
                    "cannot be multiplied. Download it again."
                )
            pairs[f"{stem}.weight"] = a, b
        whole = {name: tensor for name, tensor in tensors.items() if not name.endswith((up, down))}
        return cls(whole, pairs)

    @property
    def shapes(self) -> dict[str, Tensor]:
        """Empty tensors of the shapes that the weights have when merged."""
        return {**self.whole, **{name: _empty(_shape(*pair)) for name, pair in self.pairs.items()}}

    def merged(self, base: Mapping[str, Tensor]) -> dict[str, Weight]:
        """The network's weights: the file's where it has them, the base's where not, changed by the LoRA.

        base: by LDM names, with all weights that the LoRA changes.
        """
        tensors = {**base, **self.whole}
        merged: dict[str, Weight] = dict(self.whole)
        merged |= {n: BaseWeight(t, tuple(t.shape)) for n, t in base.items() if n not in self.whole}
        for name, pair in self.pairs.items():
            merged[name] = BaseWeight(tensors[name], tuple(tensors[name].shape), low_rank(*pair))
        return merged


def open_low_rank(
    path: Path,
    family: Family,
    tensors: Mapping[str, Tensor],
    content: LowRank,
    metadata: Mapping[str, str],
    needs: Literal["unet", "controlnet"],
    prefixes: Sequence[str],
    missing: str,
    prefix: str = "",
) -> ControlFile:
    """A ControlFile of the LoRA in `content`, merged with the base when it is built.

    tensors: the file's own, by its names without `prefix`. needs, prefixes: what the base is, and how its
    names may begin. missing: the message's end where no base is given, or one without a UNet's encoder.
    """

    def join(file: ControlFile, base: Mapping[str, Tensor] | None) -> ControlFile:
        theirs = base_weights(base, prefixes)
        if theirs is None:
            given = "none was given" if base is None else "what was given has no input_blocks.0.0.weight"
            raise CheckpointError(f"{path} is a {family.name}: it needs {missing}, and {given}.")
        if needs == "controlnet" and any(name.startswith("input_hint_block.") for name in theirs):
            raise CheckpointError(
                f"{path} is a {family.name}: it needs {missing}, and what was given is an ordinary "
                "ControlNet, with a hint encoder of its own."
            )
        parts = ENCODER if needs == "unet" else (*ENCODER, "zero_convs.", "middle_block_out.")
        theirs = {
            name: tensor
            for name, tensor in theirs.items()
            if name.startswith(parts) and ".lora_layer." not in name
        }
        try:
            config = encoder_config(theirs, metadata)
        except (ValueError, IndexError, ArithmeticError) as error:
            raise CheckpointError(
                f"the base given for {path} is no UNet or ControlNet that this pack knows: {error}."
            ) from error
        check_base(file.config, config, str(path))
        for name, pair in content.pairs.items():
            weight, ours = content.whole.get(name, theirs.get(name)), _shape(*pair)
            if weight is None or _squeezed(weight.shape) != _squeezed(ours):
                found = "missing" if weight is None else str(tuple(weight.shape))
                raise BaseMismatchError(
                    f"{path} was made for {base_name(file.config)}, but the base is {base_name(config)} of "
                    f"other sizes: {name} is {ours} in the file, {found} in the base. Use the {family.name} "
                    "with the base that it was made for."
                )
        return replace(file, config=config, tensors=content.merged(theirs), needs=None, join=None)

    with reading(path, family, lambda name: prefix + name):
        outlined = outline(path, content.shapes)
    file = control_file(path, family, outlined, metadata, needs, join, lambda name: prefix + name)
    return replace(file, tensors=tensors)


def outline(path: Path, shapes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The shapes with those added that give the size of a network, and that a file may leave to its base.

    Each block's width is that of its zero convolution; a block of which the file has nothing is the one that
    halves the size, which has neither norms nor linear layers.
    """
    outlined = dict(shapes)
    groups = {".".join(name.split(".", 4)[:length]) for name in shapes for length in (2, 4)}
    found = (re.match(r"zero_convs\.(\d+)\.", name) for name in shapes)
    for i in range(1 + max((block_number(match[1]) for match in found if match), default=-1)):
        if f"zero_convs.{i}.0.weight" not in shapes:
            raise CheckpointError(
                f"{path} is damaged or incomplete: it has no zero_convs.{i}.0.weight, which gives the size "
                "of the network. Download it again."
            )
        width = shapes[f"zero_convs.{i}.0.weight"].shape[0]
        if i == 0:
            outlined.setdefault("input_blocks.0.0.weight", _empty((width, 4, 3, 3)))
        elif f"input_blocks.{i}" not in groups:
            outlined[f"input_blocks.{i}.0.op.weight"] = _empty((width, width, 3, 3))
        elif f"input_blocks.{i}.0.op" not in groups:
            outlined.setdefault(f"input_blocks.{i}.0.out_layers.3.weight", _empty((width, width, 3, 3)))
    return outlined


def _shape(up: Tensor, down: Tensor) -> tuple[int, ...]:
    return (up.shape[0], *down.shape[1:])


def _squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    """Without the sides of a 1x1 convolution, which elsewhere is a linear layer."""
    return tuple(shape[:2]) if all(side == 1 for side in shape[2:]) else tuple(shape)


def _empty(shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, device="meta")

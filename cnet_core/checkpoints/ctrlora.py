"""CtrLoRA (arXiv 2410.09400): one base ControlNet for many conditions, and a small LoRA file for each."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from ..errors import CheckpointError
from .control_file import ControlFile, control_file
from .family import Family
from .ldm_controlnet import ldm_names
from .low_rank import LowRank, open_low_rank
from .read import StateFile
from .weights import CONTROL_PREFIXES


def open_ctrlora(file: StateFile, family: Family) -> ControlFile:
    """LDM names with or without `control_model.`, and `X.lora_layer.up.weight` and `.down.` beside X.weight.

    A file of LoRA, zero convolutions and norms needs the base's. A file with all weights is a network by
    itself, a base or a finetuned one: a LoRA of its own is merged, and what `build` is given is not used.
    """
    prefix, tensors = ldm_names(file)
    content = LowRank.of(file.path, tensors, ".lora_layer.up.weight", ".lora_layer.down.weight")
    if "input_blocks.0.0.weight" not in tensors:
        return open_low_rank(
            file.path,
            family,
            tensors,
            content,
            file.metadata,
            needs="controlnet",
            prefixes=CONTROL_PREFIXES,
            missing="the base ControlNet that it was trained on (choose that file as its base)",
            prefix=prefix,
        )

    shape = tensors["input_blocks.0.0.weight"].shape
    if len(shape) == 4 and shape[1] != 4:
        raise CheckpointError(
            f"{file.path} has no hint encoder, as CtrLoRA has none, and reads {shape[1]} channels where that "
            "reads the latent's 4: it is another network, such as DiffBIR's, which no node of this pack runs."
        )

    def join(whole: ControlFile, base: Mapping[str, Tensor] | None) -> ControlFile:
        return replace(whole, tensors=content.merged({}), join=None)

    opened = control_file(
        file.path, family, content.shapes, file.metadata, None, join, lambda name: prefix + name
    )
    return replace(opened, tensors=tensors)

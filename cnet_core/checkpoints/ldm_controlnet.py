"""ControlNets in the original release's layout, whole or as differences to the base."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from ..errors import CheckpointError
from .bases import base_name
from .control_file import ControlFile, control_file
from .family import Family
from .read import StateFile
from .weights import UNET_PREFIXES, BaseWeight, Weight, base_weights, difference

_PREFIX = "control_model."


def open_ldm(file: StateFile, family: Family) -> ControlFile:
    """Names with or without `control_model.`; a base model beside prefixed ones is left out."""
    prefix, tensors = ldm_names(file)
    opened = control_file(file.path, family, tensors, file.metadata, name_in_file=lambda name: prefix + name)
    if "difference" in file.tensors:
        opened = replace(opened, needs="unet", join=_add_to_base)
    return opened


def ldm_names(file: StateFile) -> tuple[str, dict[str, Tensor]]:
    """The prefix of the ControlNet's names in a file, and its tensors without it."""
    prefix = _PREFIX if any(name.startswith(_PREFIX) for name in file.tensors) else ""
    tensors = {
        name.removeprefix(prefix): tensor
        for name, tensor in file.tensors.items()
        if name.startswith(prefix) and name != "difference"
    }
    return prefix, tensors


def _add_to_base(file: ControlFile, base: Mapping[str, Tensor] | None) -> ControlFile:
    """Weights with names of the base UNet are differences to it; joins and hint encoder are whole."""
    if base is None:
        raise CheckpointError(
            f"{file.path} is a difference ControlNet: its weights are differences to the base model's, "
            "which were not given. Connect the model that it is applied to, to the loader's model input."
        )
    theirs = base_weights(base, UNET_PREFIXES)
    if theirs is None:
        raise CheckpointError(
            f"{file.path} is a difference ControlNet, and the model given as its base is no Stable "
            "Diffusion UNet (it has no input_blocks.0.0.weight). Apply it to an SD1.5, SD2.x or SDXL "
            "model."
        )
    tensors: dict[str, Weight] = dict(file.tensors)
    for name, ours in file.tensors.items():
        weight = theirs.get(name)
        if weight is None:
            continue
        if weight.numel() != ours.numel():
            raise CheckpointError(
                f"{file.path} is a difference ControlNet for {base_name(file.config)}, and the model is "
                f"another: {name} is {tuple(ours.shape)} in the file, {tuple(weight.shape)} in the "
                f"model. Apply it to a model of the {base_name(file.config)} family."
            )
        tensors[name] = BaseWeight(weight, ours.shape, difference(ours))
    return replace(file, tensors=tensors, needs=None, join=None)

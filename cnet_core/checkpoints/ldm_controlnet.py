"""ControlNets in the original release's layout, whole or as differences to the base."""

from .control_file import ControlFile, control_file
from .family import Family
from .read import StateFile

_PREFIX = "control_model."


def open_ldm(file: StateFile, family: Family) -> ControlFile:
    """Names with or without `control_model.`; a base model beside prefixed ones is left out."""
    needs_base = "difference" in file.tensors
    prefix = _PREFIX if any(name.startswith(_PREFIX) for name in file.tensors) else ""
    tensors = {
        name.removeprefix(prefix): tensor
        for name, tensor in file.tensors.items()
        if name.startswith(prefix) and name != "difference"
    }
    return control_file(file.path, family, tensors, file.metadata, needs_base, lambda name: prefix + name)

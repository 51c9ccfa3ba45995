"""ControlNets for SD1.5, SD2.x and SDXL in diffusers layout."""

from .control_file import ControlFile, control_file, reading
from .convert import Structure, from_diffusers, name_pairs, rename
from .family import Family
from .read import StateFile


def open_diffusers(file: StateFile, family: Family) -> ControlFile:
    """The same network under other names."""
    with reading(file.path, family, str):
        modules = dict(name_pairs(Structure.of_diffusers(file.tensors)))
        tensors = from_diffusers(file.tensors)
    return control_file(
        file.path,
        family,
        tensors,
        file.metadata,
        name_in_file=lambda name: rename(name, modules),
    )

"""ControlNets for SD1.5, SD2.x and SDXL in diffusers layout."""

from .control_file import ControlFile, control_file
from .convert import Structure, from_diffusers, name_pairs, rename
from .family import Family
from .read import StateFile


def open_diffusers(file: StateFile, family: Family) -> ControlFile:
    """The same network under other names."""
    modules = dict(name_pairs(Structure.of_diffusers(file.tensors)))
    return control_file(
        file.path,
        family,
        from_diffusers(file.tensors),
        file.metadata,
        name_in_file=lambda name: rename(name, modules),
    )

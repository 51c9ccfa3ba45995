"""Union ControlNets (xinsir's files, ProMax, and others of their kind) for SDXL and SD1.5."""

from dataclasses import replace
from functools import partial

from ..networks.union import UnionControlNet, type_ids
from .control_file import ControlFile, reading
from .diffusers_controlnet import open_diffusers
from .family import Family
from .ldm_controlnet import open_ldm
from .read import StateFile
from .shapes import union_sizes


def open_union(file: StateFile, family: Family) -> ControlFile:
    """A ControlNet with a few modules more. Released files have diffusers names, those we save LDM names."""
    released = any(name.startswith("controlnet_cond_embedding.") for name in file.tensors)
    plain = (open_diffusers if released else open_ldm)(file, family)

    def name_in_file(name: str) -> str:
        # torch's own attention layer joins its names by an underscore.
        return plain.name_in_file(name.replace(".attn.in_proj.", ".attn.in_proj_") if released else name)

    tensors = {name.replace(".attn.in_proj_", ".attn.in_proj."): t for name, t in plain.tensors.items()}
    with reading(file.path, family, name_in_file):
        types, layers, type_channels = union_sizes(tensors)
    return replace(
        plain,
        tensors=tensors,
        name_in_file=name_in_file,
        network=partial(UnionControlNet, types=types, layers=layers, type_channels=type_channels),
        union_types=type_ids(types),
    )

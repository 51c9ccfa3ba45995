"""From a file to a network and back. Nodes mostly need `open_control` and its `build`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import CheckpointError
from ..files import put
from ..networks.blocks import Attention, sdpa
from ..networks.config import UNetConfig
from ..networks.controlnet import ControlNet
from ..networks.unet import UNet
from .control_file import ControlFile, check_tensors
from .convert import from_diffusers
from .detect import identify, refuse
from .family import Family, OpenedFile
from .read import StateFile, read_state_dict
from .shapes import config_metadata, unet_config
from .weights import UNET_PREFIXES

# Families that hold a UNet.
UNET_FAMILIES = ("checkpoint", "ldm_unet", "diffusers_unet")


def open_control(path: str | Path) -> OpenedFile:
    """Open a control network of a family that this pack runs itself.

    Raises CheckpointError, saying what the file is and where it belongs, for anything else. To let the host
    load the families it knows, ask `identify(read_state_dict(path)).kind` first.
    """
    file = read_state_dict(path)
    family = identify(file)
    if family.open is None:
        raise refuse(file, family)
    return family.open(file, family)


def load_controlnet(
    path: str | Path,
    dtype: torch.dtype | None = None,
    operations: Any = nn,
    attention: Attention = sdpa,
    base: Mapping[str, Tensor] | None = None,
) -> ControlNet:
    """The network of a ControlNet file, on the CPU, for inference; arguments as in ControlFile.build.

    Other control networks (T2I-Adapter, ControlNet-LLLite) are opened by open_control and refused here.
    """
    file = open_control(path)
    if not isinstance(file, ControlFile):
        raise CheckpointError(
            f"{file.path} holds another kind of network: {file.label}. Expected a ControlNet."
        )
    return file.build(base, dtype, operations, attention)


def load_unet(
    path: str | Path, dtype: torch.dtype | None = None, operations: Any = nn, attention: Attention = sdpa
) -> UNet:
    """The UNet of a bare UNet file or a full SD1.5, SD2.x or SDXL checkpoint, LDM or diffusers layout.

    Mapped from the file as ControlFile.build does it; raises CheckpointError likewise.
    """
    file = read_state_dict(path)
    family = identify(file)
    if family.id not in UNET_FAMILIES:
        raise CheckpointError(
            f"{file.path} holds another kind of network: {family.name}. Expected an SD1.5, SD2.x or SDXL "
            "model."
        )
    try:
        tensors, config = unet_of(file, family)
        outline = UNet(config, attention=attention, device=torch.device("meta"))
    except (ValueError, IndexError, ArithmeticError) as error:
        raise CheckpointError(f"{file.path} is not a UNet that this pack knows: {error}.") from error
    check_tensors(file.path, tensors, outline)
    if dtype is not None:
        tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    net = outline if operations is nn else UNet(config, operations, attention, dtype, torch.device("meta"))
    net.load_state_dict(tensors, assign=True)
    return net.eval().requires_grad_(False)


def unet_of(file: StateFile, family: Family) -> tuple[dict[str, Tensor], UNetConfig]:
    """The UNet's tensors in LDM names, and its sizes, of a file of one of UNET_FAMILIES.

    Raises CheckpointError, ValueError or IndexError if the sizes cannot be read from the shapes.
    """
    if family.id == "diffusers_unet":
        tensors = from_diffusers(file.tensors)
    else:
        prefix = next((p for p in UNET_PREFIXES if f"{p}input_blocks.0.0.weight" in file.tensors), "")
        tensors = {
            name.removeprefix(prefix): tensor
            for name, tensor in file.tensors.items()
            if name.startswith(prefix)
        }
    return tensors, unet_config(tensors, file.metadata)


def save_network(
    net: nn.Module,
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a network as safetensors, replacing the file at once or not at all.

    metadata: entries of the header. dtype: cast to it (fp16 halves the file). Folders are made as needed.
    """
    tensors = {
        name: tensor.detach().to(dtype=dtype or tensor.dtype) for name, tensor in net.state_dict().items()
    }
    write_tensors(path, tensors, metadata)


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors as safetensors: at every moment the old file is there or the new one, never a part.

    Folders are made as needed. Raises OSError or SafetensorError if it cannot be written, and then the old
    file is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # In the same folder, because a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        # safetensors 0.8 makes files that only their owner can read; a file made here has the usual mode.
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(plain, temporary, dict(metadata or {}))
        temporary.chmod(mode)
        # Else a crash of the machine may leave the new name with nothing behind it.
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        put(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_controlnet(
    net: ControlNet,
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a ControlNet in LDM names, with its configuration, as save_network does."""
    config = config_metadata(net.config, hint_channels=net.hint_channels, hint_widths=net.hint_widths)
    save_network(net, path, {**(metadata or {}), **config}, dtype)


def save_unet(
    net: UNet, path: str | Path, metadata: Mapping[str, str] | None = None, dtype: torch.dtype | None = None
) -> None:
    """Write a UNet, with its configuration, as save_network does."""
    save_network(net, path, {**(metadata or {}), **config_metadata(net.config)}, dtype)

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
from ..networks.blocks import Attention, sdpa
from ..networks.controlnet import ControlNet
from ..networks.unet import UNet
from .control_file import UNET_PREFIXES, ControlFile, check_tensors, size_label
from .convert import from_diffusers
from .detect import identify, refuse
from .family import OpenedFile
from .read import read_state_dict
from .shapes import config_metadata, unet_config


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
    if family.id not in ("checkpoint", "ldm_unet", "diffusers_unet"):
        raise CheckpointError(
            f"{file.path} holds another kind of network: {family.name}. Expected an SD1.5, SD2.x or SDXL "
            "model."
        )
    if family.id == "diffusers_unet":
        tensors = from_diffusers(file.tensors)
    else:
        prefix = next((p for p in UNET_PREFIXES if f"{p}input_blocks.0.0.weight" in file.tensors), "")
        tensors = {
            name.removeprefix(prefix): tensor
            for name, tensor in file.tensors.items()
            if name.startswith(prefix)
        }
    try:
        config = unet_config(tensors, file.metadata)
        net = UNet(config, operations, attention, dtype, torch.device("meta"))
    except (ValueError, IndexError) as error:
        raise CheckpointError(f"{file.path} is not a UNet that this pack knows: {error}.") from error
    check_tensors(file.path, tensors, net)
    if dtype is not None:
        tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    net.load_state_dict(tensors, assign=True)
    return net.eval().requires_grad_(False)


def save_controlnet(
    net: ControlNet,
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a ControlNet as safetensors in LDM names, replacing the file at once or not at all.

    metadata: further entries of the header. dtype: cast to it (fp16 halves the file).
    """
    config = config_metadata(net.config, hint_channels=net.hint_channels, hint_widths=net.hint_widths)
    _save(net, path, {**(metadata or {}), **config}, dtype)


def save_unet(
    net: UNet, path: str | Path, metadata: Mapping[str, str] | None = None, dtype: torch.dtype | None = None
) -> None:
    """Write a UNet as save_controlnet does."""
    _save(net, path, {**(metadata or {}), **config_metadata(net.config)}, dtype)


def describe(path: str | Path) -> str:
    """What a file is, in one line: family, base model, precision, size. Raises if it is no checkpoint."""
    file = read_state_dict(path)
    try:
        family = identify(file)
    except CheckpointError:
        return f"unknown kind of network, {size_label(file.tensors)}"
    if family.open is None:
        return f"{family.name}, {size_label(file.tensors)}"
    return family.open(file, family).label


def _save(net: nn.Module, path: str | Path, metadata: dict[str, str], dtype: torch.dtype | None) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().to("cpu", dtype or tensor.dtype).contiguous()
        for name, tensor in net.state_dict().items()
    }
    # In the same folder, because a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        save_file(tensors, temporary, metadata)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

"""From a file of the host's controlnet folders to a CONTROL_NET."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import comfy.controlnet
from torch import Tensor

from ...cnet_core.checkpoints import OpenedFile, identify, read_state_dict, refuse
from ...cnet_core.errors import CheckpointError
from ...cnet_core.networks.lllite import LLLite
from .control import Control
from .folders import controlnet_path
from .lllite import LLLiteControl
from .models import LoadedNetwork, attention_for, base_config, encoder_tensors, place_of_work


def load_control(
    name: str,
    model: Any = None,
    precision: str = "auto",
    pooling: str = "auto",
    base_control_net: str | None = None,
) -> Any:
    """A CONTROL_NET from a file of the host's controlnet folders.

    model: a MODEL, for files whose weights add to their base model's. base_control_net: another file, for
    those whose weights add to another ControlNet's. precision: a key of PRECISIONS; pooling: global average
    pooling of the residuals, "auto" as the file's metadata says, "on" or "off".
    Families that the host knows and we do not are made by the host. Raises CheckpointError for all others.
    """
    path = controlnet_path(name)
    file = read_state_dict(path)
    family = identify(file)
    if family.open is not None:
        opened = family.open(file, family)
        base: Mapping[str, Tensor] | None = None
        if opened.needs == "unet" and model is not None:
            opened.check_base(base_config(model.model), name)
            base = encoder_tensors(model)
        elif opened.needs == "controlnet" and base_control_net is not None:
            base = read_state_dict(controlnet_path(base_control_net)).tensors
        return load_native(opened, name, base, precision, pooling)
    loader = getattr(comfy.controlnet, "load_controlnet", None)
    if family.kind == "host" and loader is not None:
        control = loader(path)
        if control is None:
            raise CheckpointError(f"{path} looks like a {family.name}, but the host could not load it.")
        return control
    raise refuse(file, family)


def load_native(
    file: OpenedFile,
    name: str,
    base: Mapping[str, Tensor] | None = None,
    precision: str = "auto",
    pooling: str = "auto",
) -> Control:
    """The CONTROL_NET of an opened file; base: the weights that it `needs`."""
    weights, work, operations = place_of_work(file.dtype, precision)
    attention = attention_for(getattr(getattr(file, "config", None), "context_dim", 0))
    net = file.build(base, dtype=weights, operations=operations, attention=attention)
    label = f"{name} ({file.label})"
    stated = getattr(file, "global_average_pooling", False)
    sizes = without_weights(file)
    kind = LLLiteControl if isinstance(net, LLLite) else Control
    control = kind(LoadedNetwork(net, work, label, lambda config: sizes.check_base(config, label)))
    control.global_average_pooling = stated if pooling == "auto" else pooling == "on"
    return control


def without_weights(file: Any) -> OpenedFile:
    """The sizes of an opened file alone: what is kept of it must hold neither memory nor the file itself."""
    changes: dict[str, Any] = {"tensors": {}, "join": None, "name_in_file": str}
    names = {field.name for field in dataclasses.fields(file)}
    return dataclasses.replace(file, **{name: value for name, value in changes.items() if name in names})

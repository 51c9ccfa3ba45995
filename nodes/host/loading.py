"""From a file of the host's controlnet folders to a CONTROL_NET."""

from typing import Any

import comfy.controlnet

from ...cnet_core.checkpoints import identify, read_state_dict, refuse
from ...cnet_core.errors import CheckpointError
from ...cnet_core.networks.lllite import LLLite
from .controls import Control
from .folders import controlnet_path
from .lllite import LLLiteControl
from .models import LoadedNetwork, base_config, place_of_work


def load_control(name: str, model: Any = None, precision: str = "auto", pooling: str = "auto") -> Any:
    """A CONTROL_NET from a file of the host's controlnet folders.

    model: a MODEL, for files that hold differences to their base; precision: a key of PRECISIONS; pooling:
    global average pooling of the residuals, "auto" as the file's metadata says, "on" or "off".
    Families that the host knows and we do not are made by the host. Raises CheckpointError for all others.
    """
    path = controlnet_path(name)
    file = read_state_dict(path)
    family = identify(file)
    if family.open is not None:
        return load_native(family.open(file, family), name, model, precision, pooling)
    loader = getattr(comfy.controlnet, "load_controlnet", None)
    if family.kind == "host" and loader is not None:
        control = loader(path)
        if control is None:
            raise CheckpointError(f"{path} looks like a {family.name}, but the host could not load it.")
        return control
    raise refuse(file, family)


def load_native(
    file: Any, name: str, model: Any = None, precision: str = "auto", pooling: str = "auto"
) -> Control:
    weights, work, operations = place_of_work(file.dtype, precision)
    base = None
    if file.needs_base and model is not None:
        file.check_base(base_config(model.model), name)
        base = model.model.diffusion_model.state_dict()
    net = file.build(base, dtype=weights, operations=operations)
    label = f"{name} ({file.label})"
    kind = LLLiteControl if isinstance(net, LLLite) else Control
    control = kind(LoadedNetwork(net, work, label, lambda config: file.check_base(config, label)))
    stated = getattr(file, "global_average_pooling", False)
    control.global_average_pooling = stated if pooling == "auto" else pooling == "on"
    return control

"""From a file of the host's controlnet folders to a CONTROL_NET."""

import dataclasses
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import comfy.controlnet
import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ...cnet_core.checkpoints import OpenedFile, identify, read_state_dict, refuse
from ...cnet_core.checkpoints.control_file import VARIANT
from ...cnet_core.checkpoints.text import printable
from ...cnet_core.checkpoints.weights import refuse_quantised
from ...cnet_core.errors import CheckpointError
from ...cnet_core.networks.lllite import LLLite
from .control import Control
from .folders import controlnet_path
from .foreign import network_of
from .lllite import LLLiteControl
from .models import (
    FASTEST,
    LoadedNetwork,
    attention_for,
    base_config,
    device_pace,
    dtype_of,
    encoder_tensors,
    place_of_work,
)

# What controls of these classes of the host take from the base model at the beginning of a run.
_FROM_THE_BASE = {"ControlNetSD35": ("x_embedder.", "orig_y_embedder.")}

# Networks that are in use, by file and settings: a file loaded twice is one copy, and its controls run as one
# batch where they are merged.
_LOADED: WeakValueDictionary[Any, LoadedNetwork] = WeakValueDictionary()


def load_control(
    name: str,
    model: Any = None,
    precision: str = "auto",
    pooling: str = "auto",
    base_control_net: str | None = None,
    compiled: bool = False,
    overlap: bool = False,
) -> Any:
    """A CONTROL_NET from a file of the host's controlnet folders.

    model: a MODEL, for files whose weights add to their base model's. base_control_net: another file, for
    those whose weights add to another ControlNet's. precision: a key of PRECISIONS; pooling: global average
    pooling of the residuals, "auto" as the file's metadata says, "on" or "off". compiled: by torch.compile,
    when it first runs. overlap: it runs beside the UNet's encoder, on CUDA.
    Inputs that have no effect on the file are named in the log.
    Families that the host knows and we do not are made by the host, those of a newer host too. Raises
    CheckpointError for all others.
    """
    path = controlnet_path(name)
    file = read_state_dict(path)
    name_ineffective = partial(
        _name_ineffective, precision=precision, pooling=pooling, compiled=compiled, overlap=overlap
    )
    try:
        family = identify(file)
    except CheckpointError as unknown:
        # A newer host may know it.
        control, _ = _made_by_the_host(path, unknown)
        name_ineffective(f"{name} is of a family that only the host knows", control)
        return control
    opened = None if family.open is None else family.open(file, family)
    for given, value, need in (
        ("model", model, "unet"),
        ("base_control_net", base_control_net, "controlnet"),
    ):
        if value is not None and getattr(opened, "needs", None) != need:
            logging.warning(
                f"{name} is a {family.name}, whose weights do not add to those at {given}: that input has no "
                "effect, disconnect or clear it."
            )
    if opened is not None:
        unsaid = getattr(opened, "global_average_pooling", False) is None
        if pooling == "auto" and unsaid and "shuffle" in os.path.basename(name).lower():
            raise CheckpointError(
                f"{name} does not say whether its residuals are averaged over the picture, without which the "
                "shuffle ControlNet draws wrongly. Set the loader's global_average_pooling: on if it is the "
                "shuffle ControlNet, off if not."
            )
        base: Mapping[str, Tensor] | None = None
        if opened.needs == "unet" and model is not None:
            opened.check_base(base_config(model.model), name)
            base = encoder_tensors(model)
        elif opened.needs == "controlnet" and base_control_net is not None:
            base = read_state_dict(controlnet_path(base_control_net)).tensors
        return load_native(opened, name, base, precision, pooling, compiled, overlap)
    if family.kind == "host" and _hosts_loader() is not None:
        refuse_quantised(file.path, file.tensors)
        weights = dtype_of(precision)
        # HunyuanDiT's network has layers that compute only in the precision of their weights.
        cast = comfy.model_management.unet_manual_cast(
            weights or torch.float32, comfy.model_management.get_torch_device()
        )
        told = weights is not None and not (family.id == "hunyuan_dit" and cast)
        failed = CheckpointError(
            f"{path} looks like a {family.name}, but the host could not load it. Download it again, and if "
            "it is complete, update ComfyUI."
        )
        control, missing = _made_by_the_host(path, failed, model_options={"dtype": weights} if told else {})
        later = _FROM_THE_BASE.get(type(control).__name__, ())
        missing = [tensor for tensor in missing if not tensor.startswith(later)]
        if missing:
            raise CheckpointError(
                f"{path} is a damaged or incomplete {family.name}: {len(missing)} missing: "
                f"{', '.join(printable(tensor, 200) for tensor in missing[:3])}. {VARIANT}"
            )
        name_ineffective(f"{name} is a {family.name}, which the host loads and runs", control)
        return control
    raise refuse(file, family)


def _hosts_loader() -> Any:
    """The host's own loader of ControlNets; minihost has none."""
    return getattr(comfy.controlnet, "load_controlnet", None)


def _made_by_the_host(path: str, otherwise: CheckpointError, **options: Any) -> tuple[Any, list[str]]:
    """The control that the host's own loader makes of a file, and the names of the network's tensors that the
    file has not; the error `otherwise` where it makes none."""
    if (loader := _hosts_loader()) is None:
        raise otherwise
    try:
        with _hearing_of_missing() as missing:
            control = loader(path, **options)
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # Loaders fail in many ways on what they do not know.
        raise CheckpointError(
            f"{otherwise} ComfyUI's own loader fails on it: {printable(repr(error))}"
        ) from error
    if control is None:
        raise otherwise
    return control, missing


@contextmanager
def _hearing_of_missing() -> Iterator[list[str]]:
    """The names of tensors that a file lacks, which the host's loader tells nobody but the log."""
    missing: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if (said := record.getMessage()).startswith("missing controlnet keys:"):
                missing.extend(re.findall(r"'([^']+)'", said))

    ear, root = Ear(), logging.getLogger()
    level, disabled = root.level, root.manager.disable
    root.addHandler(ear)
    # Also where the host was started to log errors only.
    root.setLevel(min(level, logging.WARNING))
    logging.disable(min(disabled, logging.INFO))
    try:
        yield missing
    finally:
        logging.disable(disabled)
        root.setLevel(level)
        root.removeHandler(ear)


def _name_ineffective(
    what: str, control: Any, precision: str, pooling: str, compiled: bool, overlap: bool
) -> None:
    """Warn of settings that a host's control does not follow."""
    weights = dtype_of(precision)
    refused = {
        "precision": weights is not None and weights not in _dtypes(control),
        "global_average_pooling": pooling == "on",
        "compile": compiled,
        "overlap": overlap,
    }
    for setting in (name for name, given in refused.items() if given):
        logging.warning(f"{what}: {setting} has no effect on it, set it back to its default.")


def _dtypes(control: Any) -> set[torch.dtype]:
    """Those of the weights of a host's control."""
    network = network_of(control)
    return set() if network is None else {weight.dtype for weight in network.parameters()}


def load_native(
    file: OpenedFile,
    name: str,
    base: Mapping[str, Tensor] | None = None,
    precision: str = "auto",
    pooling: str = "auto",
    compiled: bool = False,
    overlap: bool = False,
) -> Control:
    """The CONTROL_NET of an opened file; base: the weights that it `needs`."""
    status = os.stat(file.path)
    key = (os.path.realpath(file.path), status.st_mtime_ns, status.st_size, name, precision, compiled)
    # What a network shares with a base is another one with every base.
    network = _LOADED.get(key) if base is None else None
    if network is None:
        network = _network(file, name, base, precision, compiled)
        if base is None:
            _LOADED[key] = network
    if isinstance(network.net, LLLite):
        # Part of the UNet's own layers: there is nothing to run beside them.
        control: Control = LLLiteControl(network)
    else:
        control = Control(network)
        control.overlap = overlap
    stated = getattr(file, "global_average_pooling", False)
    control.global_average_pooling = bool(stated) if pooling == "auto" else pooling == "on"
    return control


def _network(
    file: OpenedFile, name: str, base: Mapping[str, Tensor] | None, precision: str, compiled: bool
) -> LoadedNetwork:
    weights, work, operations = place_of_work(file.dtype, precision)
    attention = attention_for(getattr(getattr(file, "config", None), "context_dim", 0))
    net = file.build(base, dtype=weights, operations=operations, attention=attention)
    if getattr(comfy.utils, "DISABLE_MMAP", False):
        # The host's --disable-mmap: nothing stays in a mapped file. What is a base model's is shared with it;
        # quantised weights of one are never shared.
        models = base.values() if base is not None and file.needs == "unet" else ()
        plain = (tensor for tensor in models if type(tensor.detach()) is Tensor)
        shared = {tensor.untyped_storage().data_ptr() for tensor in plain}
        for weight in net.parameters():
            if weight.untyped_storage().data_ptr() not in shared:
                weight.data = weight.data.clone()
    memory_format = torch.preserve_format
    if precision == FASTEST and (chosen := device_pace().fastest.memory_format) is torch.channels_last:
        memory_format = chosen
        net.to(memory_format=memory_format)
    label, sizes = f"{name} ({file.label})", without_weights(file)
    return LoadedNetwork(
        net,
        work,
        label,
        lambda config: sizes.check_base(config, label),
        compiled=compiled,
        memory_format=memory_format,
    )


def without_weights(file: Any) -> OpenedFile:
    """The sizes of an opened file alone: what is kept of it must hold neither memory nor the file itself."""
    changes: dict[str, Any] = {"tensors": {}, "join": None, "name_in_file": str}
    names = {field.name for field in dataclasses.fields(file)}
    return dataclasses.replace(file, **{name: value for name, value in changes.items() if name in names})

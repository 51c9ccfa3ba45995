"""What a training begins with: zero convolutions on a copy of the base, or an existing ControlNet."""

from pathlib import Path

import torch
from torch import nn

from ..checkpoints import ControlFile, base_name, open_control
from ..errors import TrainingError
from ..networks.controlnet import HINT_WIDTHS, ControlNet
from ..networks.unet import UNet
from ..networks.union import UNION_TYPES, UnionControlNet, check_types
from .config import Settings
from .low_rank import make_low_rank
from .order import mixed
from .step import PRECISIONS


def trainable(
    base: UNet,
    settings: Settings,
    init: str | Path | None = None,
    hint_channels: int = 3,
    hint_widths: tuple[int, ...] = HINT_WIDTHS,
) -> ControlNet:
    """The network to train, its trainable weights in fp32 and its own, on the base's device.

    init: a ControlNet file to go on from (a union network too, trained on settings.union_kind); without,
    a copy of the base's encoder with zero convolutions. hint_channels, hint_widths: of such a new one.
    Raises TrainingError, BaseMismatchError or CheckpointError if they do not go together.
    """
    generator = torch.Generator().manual_seed(mixed(settings.seed, 2))
    if init is None:
        if settings.union_kind:
            raise TrainingError(
                "union_kind is set, but a new network is no union network; give one as the initial one."
            )
        net = ControlNet.from_unet(base, hint_channels, hint_widths, generator).float()
    else:
        net = _from_file(base, settings, Path(init), hint_channels)
    net.train().requires_grad_(True)
    if settings.rank:
        if init is not None:
            raise TrainingError(
                "a Control-LoRA begins as a new network; leave out the initial ControlNet, or set rank 0."
            )
        low = PRECISIONS[settings.precision]
        # Under autocast, frozen weights may stay as the base has them.
        dtype = torch.float32 if low == torch.float32 else next(base.parameters()).dtype
        make_low_rank(net, base, settings.rank, generator, dtype)
    return net


def union_type(net: ControlNet, settings: Settings) -> int | None:
    """The type that a union network's hints are, None for another network. Raises as `trainable` does."""
    if not isinstance(net, UnionControlNet):
        if settings.union_kind:
            raise TrainingError("union_kind is set, but the network is no union network; leave it empty.")
        return None
    if not settings.union_kind:
        raise TrainingError(
            "the initial ControlNet is a union network; say by union_kind which of its kinds the hints are: "
            f"{', '.join(kind for kind, number in UNION_TYPES.items() if number < net.types)}."
        )
    number = UNION_TYPES[settings.union_kind]
    check_types((number,), net.types)
    return number


def _from_file(base: UNet, settings: Settings, init: Path, hint_channels: int) -> ControlNet:
    file = open_control(init)
    if not isinstance(file, ControlFile):
        raise TrainingError(f"{init} is no ControlNet but {file.label}; only ControlNets are trained here.")
    file.check_base(base.config, str(init))
    if file.config.transformer_depth != base.config.transformer_depth:
        # Its gradients would be right, but nobody could say which base it is a copy of.
        raise TrainingError(f"{init} has other transformers than the base, {base_name(base.config)}.")
    if file.needs == "controlnet" or not file.hint_widths:
        raise TrainingError(f"{init} is a {file.family.name}, which is not trained here.")
    if file.hint_channels != hint_channels:
        raise TrainingError(
            f"{init} takes hints of {file.hint_channels} channels, the data's have {hint_channels}."
        )
    net = file.build(base.state_dict() if file.needs else None, torch.float32)
    # Its weights may be the file's or the base's own memory.
    for name, parameter in list(net.named_parameters()):
        owner = net.get_submodule(name.rpartition(".")[0])
        own = parameter.detach().clone().to(next(base.parameters()).device)
        setattr(owner, name.rpartition(".")[2], nn.Parameter(own))
    return net

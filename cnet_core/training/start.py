"""What a training begins with: zero convolutions on a copy of the base, or an existing ControlNet."""

from pathlib import Path

import torch

from ..checkpoints import ControlFile, base_name, check_base, open_control
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
    init: str | Path | ControlNet | None = None,
    hint_widths: tuple[int, ...] = HINT_WIDTHS,
) -> ControlNet:
    """The network to train, its trainable weights in fp32 and its own, on the base's device.

    init: a ControlNet or its file to go on from (a union network too, trained on settings.union_kind);
    without, a copy of the base's encoder with zero convolutions, for hints of 3 channels. hint_widths: of a
    new one. For a Control-LoRA, a network that says nothing yet counts as none.
    Raises TrainingError, BaseMismatchError or CheckpointError if they do not go together.
    """
    hint_channels = 3
    if settings.rank and isinstance(init, ControlNet) and says_nothing(init):
        hint_channels, hint_widths, init = init.hint_channels, init.hint_widths, None
    generator = torch.Generator().manual_seed(mixed(settings.seed, 2))
    if init is None:
        if settings.union_kind:
            raise TrainingError(
                "union_kind is set, but a new network is no union network; give one as the initial one."
            )
        net = ControlNet.from_unet(base, hint_channels, hint_widths, generator).float()
    elif isinstance(init, ControlNet):
        net = _own_copy(init, base, "the initial ControlNet")
    else:
        net = _own_copy(_from_file(base, Path(init)), base, str(init))
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


def says_nothing(net: ControlNet) -> bool:
    """Whether all joins of a network are zero, as those of a new one are."""
    joins = (*net.zero_convs.parameters(), *net.middle_block_out.parameters())
    return not any(parameter.any() for parameter in joins)


def _from_file(base: UNet, init: Path) -> ControlNet:
    file = open_control(init)
    if not isinstance(file, ControlFile):
        raise TrainingError(f"{init} is no ControlNet but {file.label}; only ControlNets are trained here.")
    file.check_base(base.config, str(init))
    if file.needs == "controlnet" or not file.hint_widths:
        raise TrainingError(f"{init} is a {file.family.name}, which is not trained here.")
    return file.build(base.state_dict() if file.needs else None, torch.float32)


def _own_copy(net: ControlNet, base: UNet, name: str) -> ControlNet:
    """The network in plain torch and fp32, on the base's device; its weights nobody else's.

    Raises TrainingError or BaseMismatchError, calling it by `name`, if it is not for this base.
    """
    check_base(net.config, base.config, name)
    if net.config.transformer_depth != base.config.transformer_depth:
        # Its gradients would be right, but nobody could say which base it is a copy of.
        raise TrainingError(f"{name} has other transformers than the base, {base_name(base.config)}.")
    own = net.outline()
    device = next(base.parameters()).device
    weights = {name: t.detach().to(device, torch.float32, copy=True) for name, t in net.state_dict().items()}
    own.load_state_dict(weights, assign=True)
    return own

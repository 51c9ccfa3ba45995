"""Which base model a network belongs to, and whether a control network fits a base."""

from collections.abc import Callable
from dataclasses import replace

from ..errors import BaseMismatchError
from ..networks.config import SD15, SD21, SDXL, UNetConfig
from ..networks.t2i_adapter import AdapterConfig

SDXL_REFINER = UNetConfig(
    model_channels=384,
    transformer_depth=(0, 4, 4, 0),
    transformer_depth_middle=4,
    context_dim=1280,
    num_head_channels=64,
    use_linear_in_transformer=True,
    adm_in_channels=2560,
)

_BASES = {"SD1.5": SD15, "SD2.x": SD21, "SDXL": SDXL, "SDXL refiner": SDXL_REFINER}


def differences(control: UNetConfig, base: UNetConfig) -> list[str]:
    """Why a control network of the one cannot serve a base of the other; empty if it can.

    The transformers' depth may differ: a small control network serves a large base. So may the vector
    condition where the control reads none, and the number of latent channels where the base takes more.
    """
    found = []
    if control.residual_channels != base.residual_channels or control.residual_scales != base.residual_scales:
        found.append(f"its blocks are {_blocks(control)}, the model's {_blocks(base)}")
    if control.context_dim not in (0, base.context_dim):
        found.append(f"it reads text of width {control.context_dim}, the model {base.context_dim}")
    if control.adm_in_channels not in (None, base.adm_in_channels):
        theirs = base.adm_in_channels or "none"
        found.append(f"it reads a vector condition of width {control.adm_in_channels}, the model {theirs}")
    if control.in_channels > base.in_channels:
        found.append(f"it reads {control.in_channels} latent channels, the model {base.in_channels}")
    return found


def base_name(config: UNetConfig) -> str:
    """The base model's common name, or its sizes if it is none of those.

    Whatever else its UNet reads beside the latent, as inpainting models do.
    """
    for name, base in _BASES.items():
        alike = replace(config, in_channels=base.in_channels)
        if not differences(alike, base) and config.adm_in_channels == base.adm_in_channels:
            return name
    mults = ", ".join(str(mult) for mult in config.channel_mult)
    return f"custom width {config.model_channels} x ({mults}), text {config.context_dim}"


def bases_fitting(differences: Callable[[UNetConfig], list[str]]) -> str:
    """The common names of the bases to which a network does not differ, like "SD1.5 or SD2.x"."""
    return " or ".join(name for name, base in _BASES.items() if not differences(base)) or "a custom base"


def check_fit(differences: Callable[[UNetConfig], list[str]], base: UNetConfig, name: str) -> None:
    """Raise BaseMismatchError, naming both, if a network differs from its base.

    differences: why the network cannot serve a base, empty if it can; for networks that are no copy of one.
    """
    if found := differences(base):
        ours, theirs = bases_fitting(differences), base_name(base)
        raise BaseMismatchError(
            f"{name} was made for {ours}, but the model is {theirs}: {'; '.join(found)}. "
            f"Use one made for {theirs}, or a model of the {ours} family."
        )


def check_base(control: UNetConfig, base: UNetConfig, name: str = "This ControlNet") -> None:
    """Raise BaseMismatchError, naming both, if a control network was made for another base model.

    control, base: configurations of the two; name: how the message calls the network, usually its file.
    """
    if found := differences(control, base):
        ours, theirs = base_name(control), base_name(base)
        mend = f"Use a ControlNet made for {theirs}, or a model of the {ours} family."
        if ours == theirs:
            # Inpainting models read the masked picture and the mask beside the latent.
            ours += f" with {control.in_channels} latent channels"
            theirs = f"one with {base.in_channels}"
            mend = (
                "Use a ControlNet of as many channels, or the model that this one was made for (those for "
                "inpainting have 9)."
            )
        raise BaseMismatchError(
            f"{name} was made for {ours}, but the model is {theirs}: {'; '.join(found)}. {mend}"
        )


def go_together(one: object, other: object) -> bool:
    """Whether two control networks of these sizes add to the same blocks, so that one base can take both.

    one, other: the `config` of a network; of kinds whose sizes say nothing about blocks, everything goes.
    """
    match one, other:
        case UNetConfig(), UNetConfig():
            ours, theirs = ((c.residual_channels, c.residual_scales) for c in (one, other))
            return ours == theirs
        case AdapterConfig(), UNetConfig():
            return not one.differences(other)
        case UNetConfig(), AdapterConfig():
            return not other.differences(one)
        case AdapterConfig(), AdapterConfig():
            return one.layout == other.layout and one.channels == other.channels
    return True


def _blocks(config: UNetConfig) -> str:
    *downs, middle = config.residual_channels
    return f"{len(downs)} skips from {downs[0]} to {middle} channels"

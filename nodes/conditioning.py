"""From a CONTROL_NET and a hint to conditionings that carry the control."""

from collections.abc import Mapping
from itertools import combinations
from pathlib import PureWindowsPath
from typing import Any

from torch import Tensor

from ..cnet_core.checkpoints.bases import base_name, go_together
from ..cnet_core.control.reuse import EXACT, Reuse
from ..cnet_core.control.weighting import Weighting
from ..cnet_core.errors import BaseMismatchError, ControlError, HintError
from ..cnet_core.networks.config import UNetConfig
from ..cnet_core.networks.union import check_types
from .host import Control, HostControl, MergedControl, Steered, union_types


def check_conditioning(control: Steered, conditioning: list) -> None:
    """Raise BaseMismatchError if the prompt was encoded for another base model than the control's."""
    # Some networks read no text.
    width = getattr(control.config, "context_dim", 0)
    if width == 0:
        return
    for tokens, _ in conditioning:
        if tokens is not None and tokens.shape[-1] != width:
            raise BaseMismatchError(
                f"{_described(control)} reads prompts of width {width}, and this prompt has "
                f"width {tokens.shape[-1]} (SD1.5: 768, SD2.x: 1024, SDXL: 2048). Load a ControlNet made for "
                "the base model whose text encoder made the prompt."
            )


def check_together(controls: Mapping[str, Steered]) -> None:
    """Raise BaseMismatchError, naming both, for two controls that no base model can take together.

    controls: by the names of the inputs that they come from.
    """
    for (one, a), (other, b) in combinations(controls.items(), 2):
        kinds = {a.kind_of_base, b.kind_of_base} - {None}
        if len(kinds) > 1 or not go_together(a.config, b.config):
            raise BaseMismatchError(
                f"{one} holds {_described(a)}, and {other} holds {_described(b)}. Merge only controls made "
                "for the same base model."
            )


def _described(control: Steered) -> str:
    if isinstance(control, Control):
        return control.network.label
    if isinstance(control.config, UNetConfig):
        return f"a ControlNet for {base_name(control.config)}"
    return f"a control for {control.kind_of_base}"


def with_hint(
    control_net: Any, image: Tensor | None, weighting: Weighting, vae: Any = None, reuse: Reuse = EXACT
) -> Steered:
    """A copy of a CONTROL_NET, ours or the host's, that holds this hint IMAGE [B,H,W,C] and these settings.

    image: None for a CONTROL_NET that holds its hints already. Raises HintError for a missing hint, or one
    too many, and for a missing VAE or inpainting mask; ControlError for something else in place of the
    CONTROL_NET, and for a union type that its file lacks.
    """
    if not hasattr(control_net, "set_cond_hint"):
        # Loaders of other packs give None for a file that they do not know.
        raise ControlError(
            f"control_net holds no ControlNet but {control_net!r:.40}: the node that loads it did not know "
            "the file. Load it with Load ControlNet (CNet), which says what it is."
        )
    typed = getattr(control_net, "typed_hints", {})
    if image is None and not typed:
        raise HintError("this control has no hint; connect an image to the image input.")
    if getattr(control_net, "latent_format", None) is not None and vae is None:
        raise HintError(
            "this ControlNet reads its hint as a latent; connect the base model's VAE to the vae input."
        )
    masks = list(getattr(control_net, "extra_concat_orig", ()))
    if getattr(control_net, "concat_mask", False) and not masks:
        # Without one the host says that nothing is to be painted.
        raise HintError(
            "this ControlNet reads a mask of what is to be painted beside its image, which this node does "
            "not take; apply it with ComfyUI's Apply ControlNet Inpainting (AliMama), which chains with the "
            "others."
        )
    _check_type(control_net)
    control = control_net.copy()
    if not isinstance(control, Steered):
        control = HostControl(control)
    timing = weighting.timing
    span = (timing.start_percent, timing.end_percent)
    hint = next(iter(typed.values())) if image is None else image.movedim(-1, 1)
    control.set_cond_hint(hint, timing.strength, span, vae=vae, extra_concat=masks)
    control.weighting, control.reuse = weighting, reuse
    return control


def _check_type(control_net: Any) -> None:
    """Raise ControlError for a type that the host's Set Union ControlNet Type chose and the file lacks."""
    native = control_net.network.net if isinstance(control_net, Control) else None
    count = getattr(native, "types", 0) or union_types(control_net)
    # The host's node may be wired to any ControlNet, and tells those without types nothing.
    if count:
        check_types(control_net.extra_args.get("control_type") or [], count)


def attach(control: Any, positive: list, negative: list) -> tuple[list, list]:
    """Both conditionings with a control at the end of whatever chain they already hold.

    Entries with the same chain get the same object: only then does the host run cond and uncond as one batch.
    """
    chained: dict[Any, Any] = {}
    outputs = []
    for conditioning in (positive, negative):
        entries = []
        for tokens, options in conditioning:
            previous = options.get("control")
            if previous not in chained:
                chained[previous] = control.copy().set_previous_controlnet(previous)
            entries.append(
                [tokens, {**options, "control": chained[previous], "control_apply_to_uncond": False}]
            )
        outputs.append(entries)
    return outputs[0], outputs[1]


def chain_of(conditioning: list) -> list[Any]:
    """Every control that a conditioning carries, first to last, those inside merged ones too."""
    found: list[Any] = []
    for _, options in conditioning:
        control, chain = options.get("control"), []
        while control is not None:
            chain.append(control)
            control = control.previous_controlnet
        for link in reversed(chain):
            found += link.controls if isinstance(link, MergedControl) else [link]
    return list(dict.fromkeys(found))


def names_of(controls: list) -> list[str]:
    """Short names to tell controls apart: the network's file, or the class; numbered where they repeat."""
    names = [_name(control) for control in controls]
    return [
        name if names.count(name) == 1 else f"{name} {names[: i + 1].count(name)}"
        for i, name in enumerate(names)
    ]


def _name(control: Any) -> str:
    if isinstance(control, Control):
        return PureWindowsPath(control.network.label.split(" (")[0]).stem
    return type(control.inner if isinstance(control, HostControl) else control).__name__

"""What there is to know about controls that the host made: their hints, their bases, their peculiarities."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import ref

import comfy.controlnet
from torch import Tensor

from ...cnet_core.checkpoints import StateFile, identify
from ...cnet_core.control.merge import Part
from ...cnet_core.errors import BaseMismatchError, CheckpointError
from ..answers import Answer, Parts
from .kept import kept_for
from .models import UNET, base_config

# A hint as a control prepared it: the names of the host's attributes that hold it, and their values.
Prepared = dict[str, Any]

# Names of the layers that make a transformer's residuals, one for each of its blocks.
_TOKEN_JOINS = ("controlnet_blocks", "controlnet_single_blocks", "after_proj_list")
# The residuals of SD1.5's and SDXL's ControlNets together, in widths of their first block.
_UNET_VALUES = 5.125

_STATE = ("cond_hint", "control_input")

# Where the classes of control networks live; what a base that they fit has, or the host's class for it (packs
# that quantise put networks of their own into it); how users call it.
_BASES = (
    ("comfy.cldm.cldm", "input_blocks", "SDXL", UNET),
    ("comfy.t2i_adapter.", "input_blocks", "SDXL", UNET),
    ("comfy.ldm.flux.", "double_blocks", "Flux", "Flux"),
    ("comfy.cldm.mmdit", "joint_blocks", "SD3", "SD3 or SD3.5"),
    ("comfy.cldm.dit_embedder", "joint_blocks", "SD3", "SD3 or SD3.5"),
    ("comfy.ldm.qwen_image.", "transformer_blocks", "QwenImage", "Qwen-Image"),
    ("comfy.ldm.hydit.", "mlp_t5", "HunyuanDiT", "HunyuanDiT"),
    ("comfy.ldm.cascade.", "clip_txt_mapper", "StableCascade_C", "Stable Cascade's stage C"),
)


def network_of(inner: Any) -> Any:
    """The torch module of a host's control, or None (Control-LoRAs have theirs only while they run)."""
    return getattr(inner, "control_model", None) or getattr(inner, "t2i_model", None)


def hint_channels(inner: Any) -> int:
    """How many channels of hint a host's control reads."""
    weights = getattr(inner, "control_weights", None)
    if weights is not None:
        return int(weights["input_hint_block.0.weight"].shape[1])
    if hasattr(inner, "channels_in"):
        # Of those for one channel, the host itself takes the mean.
        return 3 if inner.channels_in == 1 else inner.channels_in
    block = getattr(network_of(inner), "input_hint_block", None)
    if inner.latent_format is not None or block is None:
        return 3
    return int(block[0].in_channels)


def union_types(inner: Any) -> int:
    """How many types of hint a host's union control tells apart; 0 for a control without types."""
    network = network_of(inner)
    names = ("num_union_modes", "num_control_type")
    return next((count for name in names if (count := getattr(network, name, None))), 0)


def steady(inner: Any) -> bool:
    """Whether a host's control says the same at every step: an adapter reads nothing but its hint."""
    return hasattr(inner, "t2i_model")


def residual_values(inner: Any) -> float:
    """How many values a host's control answers with, about, for each pixel of the latent."""
    network = network_of(inner)
    joins = [join for name in _TOKEN_JOINS for join in getattr(network, name, ())]
    if joins:
        # One token for four pixels.
        return sum(list(join.parameters())[-1].shape[0] for join in joins) / 4
    return _UNET_VALUES * getattr(network, "model_channels", 320)


def check_base(inner: Any, model: Any) -> None:
    """Raise BaseMismatchError if a host's control was made for another kind of base than this host model."""
    base = getattr(model, "diffusion_model", None)
    module = _module_of(inner)
    for place, attribute, kind, name in _BASES:
        if module.startswith(place) and not hasattr(base, attribute) and type(model).__name__ != kind:
            raise BaseMismatchError(
                f"this control was made for {name}, and the model is {type(model).__name__}. Load a "
                "ControlNet made for this model, or the model that this ControlNet was made for."
            )
    if module.startswith("comfy.cldm.cldm") and not _is_lora(inner):
        _check_sizes(network_of(inner), model)


def kind_of_base(inner: Any) -> str | None:
    """The kind of base model that a host's control was made for, as users call it; None if not known."""
    return next((name for place, _, _, name in _BASES if _module_of(inner).startswith(place)), None)


def config_of(inner: Any) -> Any:
    """The sizes of a host's control for a UNet, as its tensors tell them; None where they do not."""
    if kind_of_base(inner) != UNET:
        return None
    tensors = inner.control_weights if _is_lora(inner) else network_of(inner).state_dict()
    try:
        file = StateFile(Path(), tensors)
        family = identify(file)
        return None if family.open is None else getattr(family.open(file, family), "config", None)
    except CheckpointError:
        return None


def _module_of(inner: Any) -> str:
    """Where the class of a control's network lives; a Control-LoRA makes its own from a UNet's ControlNet."""
    return "comfy.cldm.cldm" if _is_lora(inner) else type(network_of(inner)).__module__


def _is_lora(inner: Any) -> bool:
    return hasattr(inner, "control_weights")


def _check_sizes(network: Any, model: Any) -> None:
    """A UNet's ControlNet and its base must have the same width, and read prompts of the same width."""
    config = base_config(model)
    text = [p.shape[1] for name, p in network.named_parameters() if name.endswith("attn2.to_k.weight")]
    found = {"width": network.model_channels, "width of prompts": text[0] if text else 0}
    expected = {"width": config.model_channels, "width of prompts": config.context_dim if text else 0}
    for what, value in found.items():
        if value != expected[what]:
            raise BaseMismatchError(
                f"this ControlNet does not fit the model: its {what} is {value}, the model's "
                f"{expected[what]} (prompts of SD1.5: 768, SD2.x: 1024, SDXL: 2048). Load a "
                "ControlNet made for this model."
            )


def responses(inner: Any, strengths: Sequence[float]) -> list[float]:
    """What strengths mean to a host's control: Qwen-Image Fun's grow by their square root."""
    if isinstance(inner, getattr(comfy.controlnet, "QwenFunControlNet", ())):
        return [math.sqrt(strength) for strength in strengths]
    return list(strengths)


def kept_hints(inner: Any, hint: Tensor, vae: Any, extra_concat: Sequence[Tensor]) -> dict[Any, Prepared]:
    """Where the prepared forms of this hint are kept: across runs, and across controls if a VAE made them."""
    if inner.latent_format is None or vae is None or extra_concat:
        return {}
    return kept_for(network_of(inner), hint, ref(vae))


def prepared_key(inner: Any, frames: Any, size: Any, window: Any, chunks: int) -> Any:
    """What the prepared hint depends on; adapters' features are made for a number of chunks."""
    return frames, size, window, chunks if hasattr(inner, "control_input") else None


def put_prepared(inner: Any, prepared: Prepared | None, device: Any) -> None:
    """Let a host's control find this hint prepared; None lets it prepare its hint."""
    for name in _STATE:
        if hasattr(inner, name):
            setattr(inner, name, _on(device, (prepared or {}).get(name)))


def take_prepared(inner: Any) -> Prepared:
    return {name: getattr(inner, name) for name in _STATE if hasattr(inner, name)}


def offloaded(prepared: Prepared, device: Any) -> Prepared:
    return {name: _on(device, value) for name, value in prepared.items()}


def _on(device: Any, value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _on(device, item) for key, item in value.items()}
    if isinstance(value, list):
        return [_on(device, item) for item in value]
    return value


def for_rows(answer: Answer, rows: int) -> Answer:
    """Every residual with a row per latent: adapters answer once for a hint that all latents share."""
    return {
        place: [t if t is None or t.shape[0] == rows else t.expand(rows, *t.shape[1:]) for t in residuals]
        for place, residuals in answer.items()
    }


def as_the_base_reads(parts: Parts, answer: Answer, inner: Any) -> Parts:
    """The weighed parts: a tensor at several places is weighed once, and no gap is left where none may be.

    HunyuanDiT adds every entry of its list without looking whether it is there.
    """
    gapless = type(network_of(inner)).__name__ == "HunYuanControlNet"
    shared: dict[Any, Part] = {}
    for place, residuals in answer.items():
        for i, (residual, part) in enumerate(zip(residuals, parts[place], strict=True)):
            if residual is not None and part is None and gapless:
                nothing = residual.new_zeros(())
                parts[place][i] = Part(nothing.expand_as(residual), 0.0, nothing)
            elif part is not None and not isinstance(part.weight, Tensor):
                parts[place][i] = shared.setdefault((id(residual), part.weight, part.block), part)
    return parts

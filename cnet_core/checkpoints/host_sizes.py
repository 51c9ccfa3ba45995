"""What the shapes in a control network that the host loads tell of it."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor


class HostSizes(NamedTuple):
    """base: the base model's name. union_modes: the number of kinds of hint that one file serves, or none.

    hint_channels: of the picture that it reads; encoded_channels: of the picture encoded by the base's VAE,
    with those of a mask. A network reads the one or the other; None where its first layer is missing.
    """

    base: str
    hint_channels: int | None = None
    encoded_channels: int | None = None
    union_modes: int | None = None


# Latents are read in tokens of 2x2 by linear layers, and by convolutions whose channels are their own.
_TOKEN = 4


def host_sizes(family: str, tensors: Mapping[str, Tensor]) -> HostSizes | None:
    """Those of a file of a family by its id; None for a family that this table has not."""

    def size(name: str, dimension: int) -> int | None:
        shape = tensors[name].shape if name in tensors else ()
        return shape[dimension] if len(shape) > dimension else None

    def channels(name: str) -> int | None:
        """How many channels this layer reads."""
        return size(name, 1)

    def tokens(name: str) -> int | None:
        return None if (width := channels(name)) is None else width // _TOKEN

    match family:
        case "flux_xlabs":
            return HostSizes("Flux", hint_channels=channels("input_hint_block.0.weight"))
        case "flux_mistoline":
            return HostSizes("Flux", hint_channels=channels("input_cond_block.encoder.0.weight"))
        case "flux_instantx":
            return HostSizes(
                "Flux",
                encoded_channels=tokens("controlnet_x_embedder.weight"),
                union_modes=size("controlnet_mode_embedder.weight", 0),
            )
        case "sd3":
            first = "pos_embed_input.proj.weight"
            return HostSizes(_sd3(size(first, 0)), encoded_channels=channels(first))
        case "qwen_instantx":
            return HostSizes("Qwen-Image", encoded_channels=tokens("controlnet_x_embedder.weight"))
        case "qwen_fun":
            return HostSizes("Qwen-Image", encoded_channels=tokens("control_img_in.weight"))
        case "hunyuan_dit":
            return HostSizes("HunyuanDiT", encoded_channels=channels("x_embedder.proj.weight"))
        case "cascade":
            read = channels("backbone.0.0.weight") or channels("backbone.0.weight")
            return HostSizes("Stable Cascade", hint_channels=read)
    return None


def _sd3(width: int | None) -> str:
    return {1536: "SD3 Medium or SD3.5 Medium", 2432: "SD3.5 Large"}.get(width or 0, "SD3")

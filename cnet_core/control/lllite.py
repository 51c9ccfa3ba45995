"""Running a ControlNet-LLLite by a host's attention patches and hooks of layers, for one call of its UNet."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ControlError
from ..networks.lllite import Block, LLLite, place_of
from ..networks.protocol import Features
from .rows import constants

# A layer's input [B,N,C] or [B,C,H,W], changed.
Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Patch:
    """The inputs [B,N,C] of an attention's three projections, changed, as the host calls it."""

    change: Callable[[Tensor, Tensor, Tensor, dict[str, Any]], tuple[Tensor, Tensor, Tensor]]

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self.change(q, k, v, extra_options)


@dataclass(frozen=True)
class Corrections:
    """What a network changes in one call of a UNet.

    attention: patches by their names in the host's options; layers: changes of the inputs of other layers, by
    their paths in the UNet.
    """

    attention: dict[str, Patch] = field(default_factory=dict)
    layers: dict[str, Change] = field(default_factory=dict)


@contextmanager
def layers_changed(unet: nn.Module, changes: Mapping[str, Change]) -> Iterator[None]:
    """Inside, the layers at these paths see their inputs changed. Nothing is left of it, whatever happens."""

    def hook(change: Change) -> Callable[[nn.Module, tuple], tuple]:
        return lambda module, inputs: (change(inputs[0]), *inputs[1:])

    with ExitStack() as hooks:
        for path, change in changes.items():
            hooks.enter_context(unet.get_submodule(path).register_forward_pre_hook(hook(change)))
        yield


def corrections(
    net: LLLite,
    embeddings: Features,
    weights: Sequence[float],
    mask: Tensor | None = None,
    block_weights: Mapping[Block, float] | None = None,
) -> Corrections:
    """The corrections that apply the network to the latents of one UNet call.

    embeddings: of encode_hint, with as many rows as the call has latents; weights: one factor per row, such
    as its strength, 0 where it is not controlled (such a row comes out bit for bit as it went in and costs
    nothing; if all are 0 there are none); mask: [1 or B,1,H,W] factors in 0..1 over the picture, resized
    by area to each layer; block_weights: a factor for each block of the UNet. Everything that depends on the
    run is held by the corrections. They raise ControlError where the tokens they are given are not those of
    the latents, because another patch rearranged them.
    """
    rows = [row for row, weight in enumerate(weights) if weight != 0]
    if not rows:
        return Corrections()
    first = embeddings[0]
    index = None if len(rows) == len(weights) else constants(rows, first.device, torch.long)
    mask = None if mask is None else mask.to(first)
    if index is not None:
        embeddings = tuple(embedding[index] for embedding in embeddings)
        mask = mask[index] if mask is not None and mask.shape[0] > 1 else mask
    active = [weights[row] for row in rows]
    # One factor for all needs no tensor, and 1 no multiplication.
    gain = active[0] if len(set(active)) == 1 else constants(active, first.device, first.dtype)[:, None, None]
    masks: dict[tuple[int, int], Tensor] = {}

    def mask_tokens(size: tuple[int, int]) -> Tensor:
        if size not in masks:
            assert mask is not None
            masks[size] = F.interpolate(mask, size, mode="area").flatten(2).transpose(1, 2)
        return masks[size]

    def weight_of(number: int) -> float:
        place = place_of(net.names[number])
        return 1.0 if block_weights is None or place is None else block_weights[place.block]

    def corrected(number: int, x: Tensor) -> Tensor:
        weight = weight_of(number)
        if weight == 0:
            return x
        embedding = embeddings[number]
        height, width = embedding.shape[-2:]
        if x.shape[:2] != (len(weights), height * width):
            raise ControlError(
                f"ControlNet-LLLite was given {x.shape[0]} rows of {x.shape[1]} tokens in "
                f"{net.names[number]}, expected {len(weights)} of {height * width}. Another patch of the "
                "model rearranges the tokens of its attention: remove it, or this control."
            )
        chosen = x if index is None else x[index]
        change = net.correction(net.names[number], chosen.to(embedding.dtype), embedding)
        if mask is not None:
            change = change * mask_tokens((height, width))
        if isinstance(gain, Tensor) or gain != 1:
            change = change * gain
        if weight != 1:
            change = change * weight
        change = change.to(x.dtype)
        return x + change if index is None else x.index_add(0, index, change)

    def patch_of(attention: str) -> Patch:
        def patch(q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]):
            place = (tuple(extra_options["block"]), extra_options["block_index"], attention)
            inputs = {"q": q, "k": k, "v": v}
            for projection, number in net.projections.get(place, {}).items():
                inputs[projection] = corrected(number, inputs[projection])
            return inputs["q"], inputs["k"], inputs["v"]

        return Patch(patch)

    def change_of(number: int) -> Change:
        def change(x: Tensor) -> Tensor:
            # The projections of SD1.5's transformers are 1x1 convolutions over maps.
            tokens = x.flatten(2).transpose(1, 2) if x.ndim == 4 else x
            changed = corrected(number, tokens)
            return changed if x.ndim == 3 else changed.transpose(1, 2).reshape(x.shape)

        return change

    attentions = sorted({attention for _, _, attention in net.projections})
    return Corrections(
        {f"{attention}_patch": patch_of(attention) for attention in attentions},
        {path: change_of(number) for path, number in net.others.items()},
    )


def add_patches(transformer_options: dict[str, Any], patches: dict[str, Patch]) -> None:
    """Put patches before those that the options of this call hold already, which stay as they are elsewhere.

    First, because others may merge or rearrange tokens, and these must meet the latents' own. Those of a
    network before it in the chain stay before it: what it corrects is what they have left.
    """
    merged = dict(transformer_options.get("patches", {}))
    for name, patch in patches.items():
        held = merged.get(name, [])
        before = sum(isinstance(other, Patch) for other in held)
        merged[name] = [*held[:before], patch, *held[before:]]
    transformer_options["patches"] = merged

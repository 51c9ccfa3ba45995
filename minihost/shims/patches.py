"""How the patches of `transformer_options` act on the attentions of the UNet's transformer blocks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor

from cnet_core.networks.blocks import CrossAttention, SpatialTransformer, TransformerBlock
from cnet_core.networks.unet import UNet

KINDS = ("attn1", "attn2")
_options: ContextVar[dict[str, Any]] = ContextVar("transformer_options")


@contextmanager
def patched(transformer_options: dict[str, Any] | None) -> Iterator[None]:
    """Let patchable attentions use these options' patches. ValueError for patches that minihost lacks."""
    options = transformer_options or {}
    known = {"patches": [f"{kind}_patch" for kind in KINDS], "patches_replace": KINDS}
    for group, names in known.items():
        found = [name for name, patches in options.get(group, {}).items() if patches and name not in names]
        if found:
            raise ValueError(
                f"minihost's UNet takes no transformer {group} of kind {found[0]!r}, only "
                f"{' and '.join(names)}; run this workflow in ComfyUI"
            )
    token = _options.set(options)
    try:
        yield
    finally:
        _options.reset(token)


class PatchableAttention(CrossAttention):
    """An attention that asks the patches of the call that runs, as the host's transformer blocks do.

    kind: of KINDS; block: as ("input", 4); index: the transformer within it.
    """

    kind: str
    block: tuple[str, int]
    index: int

    def forward(self, x: Tensor, context: Any = None) -> Tensor:
        options = _options.get()
        extra = {key: value for key, value in options.items() if key not in ("patches", "patches_replace")}
        extra |= {"block": self.block, "block_index": self.index, "n_heads": self.heads}
        extra |= {"dim_head": x.shape[-1] // self.heads, "attn_precision": None}
        keys = values = x if context is None else context
        for patch in options.get("patches", {}).get(f"{self.kind}_patch", ()):
            x, keys, values = patch(x, keys, values, extra)
        q, k, v = self.to_q(x), self.to_k(keys), self.to_v(values)
        replaced = options.get("patches_replace", {}).get(self.kind, {})
        replace = replaced.get((*self.block, self.index), replaced.get(self.block))
        found = self.attention(q, k, v, self.heads) if replace is None else replace(q, k, v, extra)
        (out,) = self.to_out
        return out(found)


def make_patchable(unet: UNet) -> None:
    """Turn the attentions of a UNet into patchable ones, in their places and with their weights."""
    blocks = {("input", i): block for i, block in enumerate(unet.input_blocks)}
    blocks |= {("output", i): block for i, block in enumerate(unet.output_blocks)}
    blocks["middle", 0] = unet.middle_block
    for name, block in blocks.items():
        transformers = (layer for layer in block.children() if isinstance(layer, SpatialTransformer))
        for transformer in transformers:
            for index, layer in enumerate(transformer.transformer_blocks):
                assert isinstance(layer, TransformerBlock)
                for kind in KINDS:
                    attention = getattr(layer, kind)
                    attention.__class__ = PatchableAttention
                    attention.kind, attention.block, attention.index = kind, name, index

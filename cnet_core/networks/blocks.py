"""The blocks that Stable Diffusion's UNet and its control networks share, under their LDM names.

Shapes: images and features [B,C,H,W], tokens [B,N,C], timestep embedding [B,4*model_channels].
Every block takes `operations`, the namespace its layers come from (torch.nn, or a host's own that casts and
offloads), and an `attention` function.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

Attention = Callable[[Tensor, Tensor, Tensor, int], Tensor]
# Runs a function on its arguments: as it is, or so that its backward pass computes it again (checkpointing).
Run = Callable[..., Any]


def sdpa(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Scaled dot-product attention of q [B,N,H*D] over k, v [B,M,H*D], by torch's fused kernel."""
    q, k, v = (rearrange(t, "b n (h d) -> b h n d", h=heads) for t in (q, k, v))
    return rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)")


@dataclass(frozen=True)
class Build:
    """What every layer is made with."""

    operations: Any = nn
    attention: Attention = sdpa
    dtype: torch.dtype | None = None
    device: torch.device | str | None = None
    norm_groups: int = 32

    @property
    def place(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "device": self.device}

    def conv(self, cin: int, cout: int, kernel: int, stride: int = 1) -> nn.Module:
        return self.operations.Conv2d(cin, cout, kernel, stride=stride, padding=kernel // 2, **self.place)

    def linear(self, cin: int, cout: int, bias: bool = True) -> nn.Module:
        return self.operations.Linear(cin, cout, bias=bias, **self.place)

    def group_norm(self, channels: int, eps: float = 1e-5) -> nn.Module:
        return self.operations.GroupNorm(self.norm_groups, channels, eps=eps, affine=True, **self.place)

    def layer_norm(self, channels: int) -> nn.Module:
        return self.operations.LayerNorm(channels, **self.place)


def timestep_embedding(timesteps: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Sinusoidal embedding [B,width] of timesteps [B] (0..999, fractions allowed): cosines, then sines.

    Transformer position encoding (arXiv 1706.03762, section 3.5) as DDPM uses it; computed in fp32.
    """
    half = width // 2
    # Multiplied before it is divided, as the field does: the other order moves late timesteps by 3e-5.
    exponent = torch.arange(half, dtype=torch.float32, device=timesteps.device) * -math.log(10000.0) / half
    angles = timesteps.float()[:, None] * exponent.exp()[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype)


class ResBlock(nn.Module):
    """Two normalised convolutions with the timestep added between them, plus the identity.

    emb: the timestep embedding after its last activation, which is the same for all blocks.
    """

    def __init__(self, cin: int, cout: int, emb_width: int, build: Build):
        super().__init__()
        # What does nothing keeps the LDM key numbers: the release has activations, and dropout, there.
        nothing = nn.Identity()
        self.in_layers = nn.ModuleList([build.group_norm(cin), nothing, build.conv(cin, cout, 3)])
        self.emb_layers = nn.ModuleList([nothing, build.linear(emb_width, cout)])
        self.out_layers = nn.ModuleList([build.group_norm(cout), nothing, nothing, build.conv(cout, cout, 3)])
        self.skip_connection = nn.Identity() if cin == cout else build.conv(cin, cout, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        norm_in, _, conv_in = self.in_layers
        _, shift = self.emb_layers
        norm_out, _, _, conv_out = self.out_layers
        h = conv_in(F.silu(norm_in(x))) + shift(emb)[..., None, None]
        return self.skip_connection(x) + conv_out(F.silu(norm_out(h)))


# Of one attention, [B,N,C] each.
KeysValues = tuple[Tensor, Tensor]


class Text:
    """A context [B,N,C] that stays the same over many steps: each layer's keys and values are computed once.

    Belongs to whoever runs the network, never to the network: its memory ends with the run.
    """

    def __init__(self, tokens: Tensor):
        self.tokens = tokens
        self.memo: dict[nn.Module, KeysValues] = {}
        self.index: Tensor | slice | None = None

    def rows(self, index: Tensor | slice) -> "Text":
        """These rows of it, as often as wanted [N,...], out of the same memory."""
        other = Text(self.tokens)
        other.memo, other.index = self.memo, index
        return other

    def keys_values(self, layer: "CrossAttention") -> KeysValues:
        if layer not in self.memo:
            self.memo[layer] = layer.to_k(self.tokens), layer.to_v(self.tokens)
        k, v = self.memo[layer]
        return (k, v) if self.index is None else (k[self.index], v[self.index])


class CrossAttention(nn.Module):
    """Attention of the tokens over a context or its keys and values, or over themselves without any."""

    def __init__(self, channels: int, context_dim: int, heads: int, build: Build):
        super().__init__()
        self.heads, self.attention = heads, build.attention
        self.to_q = build.linear(channels, channels, bias=False)
        self.to_k = build.linear(context_dim, channels, bias=False)
        self.to_v = build.linear(context_dim, channels, bias=False)
        self.to_out = nn.ModuleList([build.linear(channels, channels)])

    def forward(self, x: Tensor, context: Tensor | KeysValues | None = None) -> Tensor:
        context = x if context is None else context
        k, v = context if isinstance(context, tuple) else (self.to_k(context), self.to_v(context))
        (out,) = self.to_out
        return out(self.attention(self.to_q(x), k, v, self.heads))


class GEGLU(nn.Module):
    """Gated linear unit with a GELU gate (arXiv 2002.05202)."""

    def __init__(self, cin: int, cout: int, build: Build):
        super().__init__()
        self.proj = build.linear(cin, 2 * cout)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, channels: int, build: Build):
        super().__init__()
        inner = 4 * channels
        self.net = nn.ModuleList(
            [GEGLU(channels, inner, build), nn.Identity(), build.linear(inner, channels)]
        )

    def forward(self, x: Tensor) -> Tensor:
        gated, _, out = self.net
        return out(gated(x))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the text, and a feed-forward layer, each pre-normalised."""

    def __init__(self, channels: int, context_dim: int, heads: int, build: Build):
        super().__init__()
        self.attn1 = CrossAttention(channels, channels, heads, build)
        self.ff = FeedForward(channels, build)
        self.attn2 = CrossAttention(channels, context_dim, heads, build)
        self.norm1 = build.layer_norm(channels)
        self.norm2 = build.layer_norm(channels)
        self.norm3 = build.layer_norm(channels)

    def forward(self, x: Tensor, context: Tensor | KeysValues) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the positions of a feature map.

    SD1.5 projects in and out with 1x1 convolutions, SD2.x and SDXL with linear layers (`use_linear`); the
    arithmetic is the same, the shape of the weights is not.
    """

    def __init__(
        self, channels: int, depth: int, context_dim: int, heads: int, use_linear: bool, build: Build
    ):
        super().__init__()
        self.use_linear = use_linear
        self.norm = build.group_norm(channels, eps=1e-6)
        self.proj_in = build.linear(channels, channels) if use_linear else build.conv(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, context_dim, heads, build) for _ in range(depth)
        )
        self.proj_out = build.linear(channels, channels) if use_linear else build.conv(channels, channels, 1)

    def forward(self, x: Tensor, context: Tensor | Text) -> Tensor:
        height = x.shape[2]
        h = self.norm(x)
        if not self.use_linear:
            h = self.proj_in(h)
        h = h.flatten(2).transpose(1, 2).contiguous()
        if self.use_linear:
            h = self.proj_in(h)
        for block in self.transformer_blocks:
            # Asked for out here, because a compiled block must not depend on what a memory holds.
            attn2 = cast(CrossAttention, block.attn2)
            known = context.keys_values(attn2) if isinstance(context, Text) else context
            h = block(h, known)
        if self.use_linear:
            h = self.proj_out(h)
        h = h.transpose(1, 2).unflatten(2, (height, -1)).contiguous()
        if not self.use_linear:
            h = self.proj_out(h)
        return h + x


class Downsample(nn.Module):
    """Half the sides, rounded up, by a strided convolution."""

    def __init__(self, channels: int, build: Build):
        super().__init__()
        self.op = build.conv(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Nearest-neighbour enlargement to a given size (twice, or one less where a side was odd), then a
    convolution."""

    def __init__(self, channels: int, build: Build):
        super().__init__()
        self.conv = build.conv(channels, channels, 3)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


@dataclass
class Inputs:
    """What the blocks read beside the features: timestep embedding, activated, and text."""

    emb: Tensor
    context: Tensor | Text
    # Filled by the decoder only: the size that an Upsample must reach.
    size: tuple[int, int] = field(default=(0, 0))


def directly(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def run_block(block: nn.Module, h: Tensor, inputs: Inputs) -> Tensor:
    """Run one LDM block, a ModuleList of layers that differ in what they read."""
    for layer in cast(nn.ModuleList, block):
        if isinstance(layer, ResBlock):
            h = layer(h, inputs.emb)
        elif isinstance(layer, SpatialTransformer):
            h = layer(h, inputs.context)
        elif isinstance(layer, Upsample):
            h = layer(h, inputs.size)
        else:
            h = layer(h)
    return h

"""ControlNet-LLLite (kohya-ss, sd-scripts): small corrections to the inputs of a UNet's transformer layers.

It gives no residuals. Each hooked layer has an embedding of the hint, computed once per run, and a small
network that reads it beside the layer's input x and answers with a correction: the layer sees x + correction.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from ..control.hint import extended
from .blocks import Build
from .config import UNetConfig
from .protocol import Features

# Strides of the convolutions that embed the hint, by their number: 8, 16 and 32 pixels in all.
STRIDES = {1: (4, 2), 2: (4, 4), 3: (4, 4, 2)}


Block = tuple[str, int]


class Place(NamedTuple):
    """Where a hooked layer is.

    block: ("input", 4), ("middle", 0) or ("output", 2), as ComfyUI names the UNet's blocks to its patches;
    layer: its path within the block's spatial transformer, like "transformer_blocks.0.attn1.to_q" or
    "proj_in".
    """

    block: Block
    layer: str

    @property
    def path(self) -> str:
        """The layer's path in the UNet, by its LDM names."""
        kind, number = self.block
        return (
            f"middle_block.1.{self.layer}" if kind == "middle" else f"{kind}_blocks.{number}.1.{self.layer}"
        )

    @property
    def transformer(self) -> int:
        """The transformer within the block; 0 for the projections around them all."""
        return int(self.layer.split(".")[1]) if self.layer.startswith("transformer_blocks.") else 0

    @property
    def projection(self) -> tuple[str, str] | None:
        """("attn1", "q") and the like for what an attention's patches reach; None for any other layer."""
        match = re.fullmatch(r"transformer_blocks\.\d+\.(attn[12])\.to_([qkv])", self.layer)
        return None if match is None else (match[1], match[2])


# attn2's keys and values read the text, which has no place in the picture.
_LAYERS = {
    **{name: name for name in ("proj_in", "proj_out")},
    **{f"attn1_to_{part}": f"attn1.to_{part}" for part in "qkv"},
    "attn2_to_q": "attn2.to_q",
    **{f"attn{number}_to_out_0": f"attn{number}.to_out.0" for number in (1, 2)},
    "ff_net_0_proj": "ff.net.0.proj",
    "ff_net_2": "ff.net.2",
}
_NAME = re.compile(
    r"lllite_unet_(?:(input|output)_blocks_(\d+)|(middle)_block)_1_"
    rf"(?:transformer_blocks_(\d+)_)?({'|'.join(_LAYERS)})"
)


def place_of(name: str) -> Place | None:
    """The place of a hooked layer by its name in the file, like
    lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q; None for any other kind of layer."""
    match = _NAME.fullmatch(name)
    if match is None or match[5].startswith("proj_") != (match[4] is None):
        return None
    block = ("middle", 0) if match[3] else (str(match[1]), int(match[2]))
    layer = _LAYERS[match[5]]
    return Place(block, layer if match[4] is None else f"transformer_blocks.{int(match[4])}.{layer}")


@dataclass(frozen=True)
class LayerSizes:
    """channels: of the layer's input; depth: number of STRIDES; embedding, hidden: the two inner widths."""

    channels: int
    depth: int
    embedding: int
    hidden: int
    hint_channels: int = 3

    @property
    def stride(self) -> int:
        """Pixels of the hint per token."""
        return math.prod(STRIDES[self.depth])


class Layer(nn.Module):
    """Embedding and correction of one hooked layer."""

    def __init__(self, sizes: LayerSizes, operations: Any, build: Build):
        super().__init__()
        strides = STRIDES[sizes.depth]
        widths = [sizes.hint_channels, *[sizes.embedding // 2] * (len(strides) - 1), sizes.embedding]
        layers: list[nn.Module] = []
        for i, stride in enumerate(strides):
            layers += [nn.ReLU()] if i else []
            layers.append(
                operations.Conv2d(widths[i], widths[i + 1], kernel_size=stride, stride=stride, **build.place)
            )
        self.sizes = sizes
        self.conditioning1 = nn.Sequential(*layers)
        self.down = nn.Sequential(build.linear(sizes.channels, sizes.hidden), nn.ReLU())
        self.mid = nn.Sequential(build.linear(sizes.hidden + sizes.embedding, sizes.hidden), nn.ReLU())
        self.up = nn.Sequential(build.linear(sizes.hidden, sizes.channels))

    def embed(self, hint: Tensor) -> Tensor:
        return self.conditioning1(extended(hint, self.sizes.stride))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        tokens = rearrange(embedding, "b c h w -> b (h w) c")
        return self.up(self.mid(torch.cat([tokens, self.down(x)], dim=-1)))


class LLLite(nn.Module):
    """All layers of a file, by name. Holds nothing of a run: the embeddings belong to whoever runs it.

    operations: namespace of the layers (torch.nn, or a host's).
    """

    latent_hint = False

    def __init__(
        self,
        sizes: Mapping[str, LayerSizes],
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        build = Build(operations, dtype=dtype, device=device)
        self.hint_channels = next(iter(sizes.values())).hint_channels
        self.layers = nn.ModuleDict({name: Layer(s, operations, build) for name, s in sizes.items()})
        self.names = tuple(sizes)
        # The layers that an attention's patches reach: number in `names` by projection, by attention.
        self.projections: dict[tuple[Block, int, str], dict[str, int]] = {}
        # All others: number in `names` by path in the UNet.
        self.others: dict[str, int] = {}
        for number, name in enumerate(self.names):
            place = place_of(name)
            if place is None:
                raise ValueError(
                    f"{name} is no layer over the picture's tokens, and only those can be hooked"
                )
            if place.projection is None:
                self.others[place.path] = number
            else:
                attention, projection = place.projection
                hooked = self.projections.setdefault((place.block, place.transformer, attention), {})
                hooked[projection] = number

    def encode_hint(self, hint: Tensor) -> Features:
        """Embeddings [B,C,h,w], one per hooked layer in the order of `names`, of a hint [B,C,8H,8W] in 0..1.

        h, w: the sides of the layer's own feature map, rounded up as in the UNet; a hint that ends within a
        token is continued by its last pixels.
        """
        hint = 2 * hint - 1
        return tuple(self.layer(name).embed(hint) for name in self.names)

    def correction(self, name: str, x: Tensor, embedding: Tensor) -> Tensor:
        """What to add to the input x [B,N,channels] of the named layer.

        embedding: the layer's own, [B,C,h,w] with h*w = N.
        """
        return self.layer(name)(x, embedding)

    def layer(self, name: str) -> Layer:
        layer = self.layers[name]
        assert isinstance(layer, Layer)
        return layer


def differences(sizes: Mapping[str, LayerSizes], base: UNetConfig) -> list[str]:
    """Why layers of these sizes do not fit a base; empty if they do. Each block of the UNet is named once."""
    blocks, found = transformer_blocks(base), {}
    for name, layer in sizes.items():
        place = place_of(name)
        assert place is not None, name
        channels, scale, depth = blocks.get(place.block, (0, 0, 0))
        # The feed-forward network is four times as wide inside.
        channels *= 4 if place.layer.endswith("ff.net.2") else 1
        where = f"block {place.block[0]} {place.block[1]}"
        if place.transformer >= depth:
            found[where] = f"in {where} it hooks transformer {place.transformer}, the model has {depth} there"
        elif (layer.channels, layer.stride) != (channels, 8 * scale):
            found[where] = (
                f"in {where} it corrects {layer.channels} channels at 1/{layer.stride} of the picture's "
                f"size, the model has {channels} at 1/{8 * scale}"
            )
    return list(found.values())


def transformer_blocks(config: UNetConfig) -> dict[Block, tuple[int, int, int]]:
    """(channels, times smaller than the latent, transformers) of each block of a UNet that has any."""
    found: dict[Block, tuple[int, int, int]] = {}
    levels = list(zip(config.channel_mult, config.num_res_blocks, config.transformer_depth, strict=True))
    number = 1
    for level, (mult, count, depth) in enumerate(levels):
        for _ in range(count):
            found["input", number] = mult * config.model_channels, 2**level, depth
            number += 1
        # The downsampling between the levels is a block too.
        number += 1
    found["middle", 0] = (
        levels[-1][0] * config.model_channels,
        2 ** (len(levels) - 1),
        config.transformer_depth_middle,
    )
    number = 0
    for level, (mult, count, depth) in reversed(list(enumerate(levels))):
        for _ in range(count + 1):
            found["output", number] = mult * config.model_channels, 2**level, depth
            number += 1
    return {block: sizes for block, sizes in found.items() if sizes[2] > 0}

"""T2I-Adapter (arXiv 2302.08453): a small network that reads the hint alone and adds to the encoder's states.

Tensor names are those of the original release. Its three kinds differ in their blocks and in where their
features belong: "full" and "light" serve SD1.5 and SD2.x, "xl" serves SDXL.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..control.hint import extended
from ..control.residuals import Residuals
from .blocks import Build, Downsample, Text
from .config import UNetConfig
from .protocol import Features

Kind = Literal["full", "light", "xl"]
LEVELS = 4


@dataclass(frozen=True)
class Layout:
    """What a kind does alike at every width.

    unshuffle: how many pixels of a side become channels first; halved: the levels that begin by halving the
    sides; blocks: the input blocks after which features are added, the first levels' first; a level that is
    left goes to the middle block; input_blocks: how many the base has.
    """

    unshuffle: int
    halved: tuple[int, ...]
    blocks: tuple[int, ...]
    input_blocks: int


# After the last residual block of each of SD1.5's levels (section 3.2, figure 3). For SDXL after the first
# downsampling, then after the last residual block of the two levels with attention, then after the middle.
_SD = Layout(8, (1, 2, 3), (2, 5, 8, 11), 12)
LAYOUTS: dict[Kind, Layout] = {"full": _SD, "light": _SD, "xl": Layout(16, (2,), (3, 5, 8), 9)}


@dataclass(frozen=True)
class AdapterConfig:
    """Sizes of an adapter.

    channels: of the features, one entry per level; blocks: residual blocks per level. Only the full and XL
    kinds differ in the last two. kernel: of their 1x1 (or 3x3) convolutions; pooled: sides are halved by an
    average, else by a strided convolution.
    """

    kind: Kind = "full"
    hint_channels: int = 3
    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    blocks: int = 2
    kernel: int = 1
    pooled: bool = True

    def __post_init__(self) -> None:
        if len(self.channels) != LEVELS:
            raise ValueError(f"a T2I-Adapter has {LEVELS} levels, got {len(self.channels)}")

    @property
    def layout(self) -> Layout:
        return LAYOUTS[self.kind]

    def differences(self, base: UNetConfig) -> list[str]:
        """Why an adapter of these sizes cannot serve this base; empty if it can."""
        *downs, middle = zip(base.residual_channels, base.residual_scales, strict=True)
        layout = self.layout
        if len(downs) != layout.input_blocks:
            return [f"it adds to an encoder of {layout.input_blocks} blocks, the model's has {len(downs)}"]
        scale, found = layout.unshuffle // 8, []
        for level, channels in enumerate(self.channels):
            scale *= 2 if level in layout.halved else 1
            inside = level < len(layout.blocks)
            place = f"after block {layout.blocks[level]}" if inside else "in the middle"
            theirs = downs[layout.blocks[level]] if inside else middle
            if (channels, scale) != theirs:
                found.append(
                    f"{place} it adds {channels} channels at 1/{scale} of the latent's size, the model has "
                    f"{theirs[0]} at 1/{theirs[1]}"
                )
        return found


class T2IAdapter(nn.Module):
    """Reads only the hint: all its work is done once per run, a step merely places the features.

    operations: namespace of the layers (torch.nn, or a host's). It reads no text and has no attention.
    """

    def __init__(
        self,
        config: AdapterConfig,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        build = Build(operations, dtype=dtype, device=device)
        self.config = config
        self.hint_channels = config.hint_channels
        layout, widths = config.layout, config.channels
        pixels = config.hint_channels * layout.unshuffle**2
        if config.kind == "light":
            ins = (pixels, *widths[:-1])
            self.body = nn.ModuleList(
                LightLevel(ins[i], widths[i], config.blocks, i in layout.halved, build) for i in range(LEVELS)
            )
        else:
            self.conv_in = build.conv(pixels, widths[0], 3)
            ins = (widths[0], *widths[:-1])
            self.body = nn.ModuleList(
                FullBlock(ins[i], widths[i], i in layout.halved, config, build)
                if j == 0
                else FullBlock(widths[i], widths[i], False, config, build)
                for i in range(LEVELS)
                for j in range(config.blocks)
            )

    def encode_hint(self, hint: Tensor) -> Features:
        """One tensor [B,C_i,H_i,W_i] per level, of a hint [B,hint_channels,8H,8W] in 0..1.

        Sides that are no multiple of the unshuffling (XL: 16, where the latent's side is odd) are continued
        by their last pixels, so that every feature stays over its own part of the picture.
        """
        layout = self.config.layout
        x = F.pixel_unshuffle(extended(hint, layout.unshuffle), layout.unshuffle)
        per_level = 1
        if self.config.kind != "light":
            x, per_level = self.conv_in(x), self.config.blocks
        features = []
        for i, block in enumerate(self.body, start=1):
            x = block(x)
            if i % per_level == 0:
                features.append(x)
        return tuple(features)

    def forward(
        self,
        x: Tensor,
        features: Features,
        timesteps: Tensor,
        context: Tensor | Text,
        y: Tensor | None = None,
    ) -> Residuals:
        """The features at their places; nothing but the features is read (arguments as in ControlNetwork)."""
        layout = self.config.layout
        encoder: list[Tensor | None] = [None] * layout.input_blocks
        for block, feature in zip(layout.blocks, features, strict=False):
            encoder[block] = feature
        rest = features[len(layout.blocks) :]
        return Residuals(encoder=encoder, mid=rest[0] if rest else None)


def halve(x: Tensor) -> Tensor:
    """Average of 2x2; an odd side's last row counts whole, so n becomes (n+1)//2 as in the UNet."""
    return F.avg_pool2d(x, 2, ceil_mode=True)


class Halve(nn.Module):
    """`halve` as a layer without weights."""

    def forward(self, x: Tensor) -> Tensor:
        return halve(x)


class FullBlock(nn.Module):
    """A residual block of the full and XL kinds; the first of a level may halve, and changes the width."""

    def __init__(self, cin: int, cout: int, halved: bool, config: AdapterConfig, build: Build):
        super().__init__()
        self.down_opt: nn.Module = nn.Identity()
        if halved:
            self.down_opt = Halve() if config.pooled else Downsample(cin, build)
        self.in_conv = nn.Identity() if cin == cout else build.conv(cin, cout, config.kernel)
        self.block1 = build.conv(cout, cout, 3)
        self.block2 = build.conv(cout, cout, config.kernel)

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_conv(self.down_opt(x))
        return x + self.block2(F.relu(self.block1(x)))


class LightBlock(nn.Module):
    """A residual block of the light kind."""

    def __init__(self, channels: int, build: Build):
        super().__init__()
        self.block1 = build.conv(channels, channels, 3)
        self.block2 = build.conv(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block2(F.relu(self.block1(x)))


class LightLevel(nn.Module):
    """A level of the light kind: residual blocks at a quarter of the width, between 1x1 convolutions."""

    def __init__(self, cin: int, cout: int, blocks: int, halved: bool, build: Build):
        super().__init__()
        self.halved = halved
        self.in_conv = build.conv(cin, cout // 4, 1)
        self.body = nn.Sequential(*(LightBlock(cout // 4, build) for _ in range(blocks)))
        self.out_conv = build.conv(cout // 4, cout, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_conv(self.body(self.in_conv(halve(x) if self.halved else x)))

"""Stable Diffusion's UNet (SD1.5, SD2.x, SDXL, and any width of theirs), with LDM key names."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..control.residuals import Residuals
from .blocks import (
    Attention,
    Build,
    Downsample,
    Inputs,
    ResBlock,
    Run,
    SpatialTransformer,
    Text,
    Upsample,
    directly,
    run_block,
    sdpa,
    timestep_embedding,
)
from .config import UNetConfig


def plus(h: Tensor, addition: Tensor | None) -> Tensor:
    return h if addition is None else h + addition


def beside(items: Iterable, additions: Sequence[Tensor | None]) -> Iterator[tuple]:
    """Each item with its addition, as many as there are; without any, with None."""
    items = list(items)
    return zip(items, additions or [None] * len(items), strict=True)


class Encoder(nn.Module):
    """Timestep embedding, input blocks and middle block: what the UNet and its control networks share."""

    def __init__(self, config: UNetConfig, build: Build):
        super().__init__()
        self.config = config
        width, emb_width = config.model_channels, config.time_embed_dim
        self.time_embed = nn.Sequential(
            build.linear(width, emb_width), nn.SiLU(), build.linear(emb_width, emb_width)
        )
        if config.adm_in_channels is not None:
            self.label_emb = nn.Sequential(
                nn.Sequential(
                    build.linear(config.adm_in_channels, emb_width),
                    nn.SiLU(),
                    build.linear(emb_width, emb_width),
                )
            )
        blocks = [nn.ModuleList([build.conv(config.in_channels, width, 3)])]
        channels = width
        for level, (mult, count) in enumerate(zip(config.channel_mult, config.num_res_blocks, strict=True)):
            for _ in range(count):
                blocks.append(self.stage(channels, mult * width, config.transformer_depth[level], build))
                channels = mult * width
            if level + 1 < len(config.channel_mult):
                blocks.append(nn.ModuleList([Downsample(channels, build)]))
        self.input_blocks = nn.ModuleList(blocks)
        self.middle_block = nn.ModuleList([ResBlock(channels, channels, emb_width, build)])
        # Depth 0 is a transformer of projections only, as the small SDXL ControlNets have in the middle;
        # SSD-1B and Vega have none, nor what follows it.
        if config.transformer_depth_middle >= 0:
            self.middle_block.append(self.transformer(channels, config.transformer_depth_middle, build))
            self.middle_block.append(ResBlock(channels, channels, emb_width, build))

    def stage(self, cin: int, cout: int, depth: int, build: Build) -> nn.ModuleList:
        """A residual block, followed by a transformer where the level has one."""
        layers: list[nn.Module] = [ResBlock(cin, cout, self.config.time_embed_dim, build)]
        if depth > 0:
            layers.append(self.transformer(cout, depth, build))
        return nn.ModuleList(layers)

    def transformer(self, channels: int, depth: int, build: Build) -> SpatialTransformer:
        config = self.config
        return SpatialTransformer(
            channels,
            depth,
            config.context_dim,
            config.heads(channels),
            config.use_linear_in_transformer,
            build,
        )

    def embed(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | Text,
        y: Tensor | None,
        addition: Tensor | None = None,
    ) -> Inputs:
        """Timestep (and vector condition `y`) as one embedding [B,4*model_channels], activated, beside the
        text.

        addition: a network's own, [B,4*model_channels].
        """
        emb = self.time_embed(timestep_embedding(timesteps, self.config.model_channels, x.dtype))
        emb = plus(emb, addition)
        if self.config.adm_in_channels is not None:
            if y is None or y.shape[-1] != self.config.adm_in_channels:
                found = "none" if y is None else f"one of width {y.shape[-1]}"
                raise ValueError(
                    f"this network needs a vector condition y of width {self.config.adm_in_channels}, got "
                    f"{found}"
                )
            emb = emb + self.label_emb(y.to(x.dtype))
        return Inputs(F.silu(emb), context)


class UNet(Encoder):
    """The denoiser.

    operations: namespace of the layers (torch.nn, or a host's); attention: (q, k, v [B,N,C], heads) ->
    [B,N,C].
    """

    def __init__(
        self,
        config: UNetConfig,
        operations: Any = nn,
        attention: Attention = sdpa,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        build = Build(operations, attention, dtype, device, config.norm_groups)
        super().__init__(config, build)
        self.build = build
        skips = config.residual_channels[:-1]
        channels = config.residual_channels[-1]
        blocks = []
        for level in reversed(range(len(config.channel_mult))):
            for i in range(config.num_res_blocks[level] + 1):
                cout = config.channel_mult[level] * config.model_channels
                block = self.stage(channels + skips.pop(), cout, config.transformer_depth[level], build)
                if level > 0 and i == config.num_res_blocks[level]:
                    block.append(Upsample(cout, build))
                blocks.append(block)
                channels = cout
        self.output_blocks = nn.ModuleList(blocks)
        self.out = nn.Sequential(
            build.group_norm(channels), nn.SiLU(), build.conv(channels, config.out_channels, 3)
        )

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        y: Tensor | None = None,
        residuals: Residuals | None = None,
        run: Run = directly,
    ) -> Tensor:
        """Predict [B,out_channels,H,W] from a scaled noisy latent.

        x: [B,in_channels,H,W]; timesteps: [B], 0..999; context: [B,N,context_dim]; y: [B,adm_in_channels]
        where the configuration has it; residuals: added out of place, so neither the frozen encoder's
        activations nor the residuals are changed, and a frozen encoder builds no graph; run: how the
        decoder's blocks are run, the only ones through which training a control network takes gradients.
        """
        inputs = self.embed(x, timesteps, context, y)
        residuals = Residuals() if residuals is None else residuals
        skips, h = [], x
        for block, addition in beside(self.input_blocks, residuals.encoder):
            h = plus(run_block(block, h, inputs), addition)
            skips.append(h)
        h = plus(run_block(self.middle_block, h, inputs), residuals.mid)
        skips = [plus(skip, down) for skip, down in beside(skips, residuals.down)]
        for block in self.output_blocks:
            skip = skips.pop()
            # A copy for each block, because a block may be run again after the later ones.
            size = (skips[-1].shape[2], skips[-1].shape[3]) if skips else inputs.size
            h = run(_run_decoder_block, block, h, skip, replace(inputs, size=size))
        return self.out(h)


def _run_decoder_block(block: nn.Module, h: Tensor, skip: Tensor, inputs: Inputs) -> Tensor:
    return run_block(block, torch.cat([h, skip], dim=1), inputs)

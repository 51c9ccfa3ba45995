"""Names of the same tensors in LDM and in diffusers layout, derived from the structure of the network.

The tensors themselves are the same in both, shapes included, so converting renames and never copies.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from ..networks.config import UNetConfig
from .shapes import block_number

_RESNET = (
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
)


@dataclass(frozen=True)
class Structure:
    """What the names depend on: residual blocks and attention of each level, and the hint's sizes."""

    blocks: tuple[int, ...]
    attention: tuple[bool, ...]
    middle_attention: bool
    hint_sizes: int = 4

    @classmethod
    def of_config(cls, config: UNetConfig, hint_sizes: int = 4) -> "Structure":
        return cls(
            config.num_res_blocks,
            tuple(depth > 0 for depth in config.transformer_depth),
            config.transformer_depth_middle >= 0,
            hint_sizes,
        )

    @classmethod
    def of_diffusers(cls, names: Iterable[str]) -> "Structure":
        """The structure of a UNet or ControlNet with these diffusers names.

        Raises CheckpointError for names that count to more blocks than any has.
        """
        resnets: dict[int, int] = {}
        attention: set[int] = set()
        middle, hint_blocks = False, 0
        for name in names:
            if match := re.match(r"down_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.", name):
                level = block_number(match[1])
                if match[2] == "attentions":
                    attention.add(level)
                else:
                    resnets[level] = max(resnets.get(level, 0), block_number(match[3]) + 1)
            elif match := re.match(r"controlnet_cond_embedding\.blocks\.(\d+)\.", name):
                hint_blocks = max(hint_blocks, block_number(match[1]) + 1)
            elif name.startswith("mid_block.attentions.0."):
                middle = True
        block_number(sum(resnets.values()))
        levels = range(max(resnets, default=-1) + 1)
        blocks = tuple(resnets.get(level, 0) for level in levels)
        return cls(blocks, tuple(level in attention for level in levels), middle, (hint_blocks + 2) // 2)


def name_pairs(structure: Structure) -> Iterator[tuple[str, str]]:
    """(LDM, diffusers) names of every module of a UNet and of a ControlNet; below them the names agree."""
    yield "time_embed.0", "time_embedding.linear_1"
    yield "time_embed.2", "time_embedding.linear_2"
    yield "label_emb.0.0", "add_embedding.linear_1"
    yield "label_emb.0.2", "add_embedding.linear_2"
    yield "input_blocks.0.0", "conv_in"
    yield from _encoder(structure)
    yield from _resnet("middle_block.0", "mid_block.resnets.0")
    if structure.middle_attention:
        yield "middle_block.1", "mid_block.attentions.0"
        yield from _resnet("middle_block.2", "mid_block.resnets.1")
    yield from _decoder(structure)
    yield "out.0", "conv_norm_out"
    yield "out.2", "conv_out"
    yield from _control(structure)


def _encoder(structure: Structure) -> Iterator[tuple[str, str]]:
    number = 1
    for level, count in enumerate(structure.blocks):
        for i in range(count):
            yield from _resnet(f"input_blocks.{number}.0", f"down_blocks.{level}.resnets.{i}")
            if structure.attention[level]:
                yield f"input_blocks.{number}.1", f"down_blocks.{level}.attentions.{i}"
            number += 1
        if level + 1 < len(structure.blocks):
            yield f"input_blocks.{number}.0.op", f"down_blocks.{level}.downsamplers.0.conv"
            number += 1


def _decoder(structure: Structure) -> Iterator[tuple[str, str]]:
    number = 0
    for up, level in enumerate(reversed(range(len(structure.blocks)))):
        attention = structure.attention[level]
        for i in range(structure.blocks[level] + 1):
            yield from _resnet(f"output_blocks.{number}.0", f"up_blocks.{up}.resnets.{i}")
            if attention:
                yield f"output_blocks.{number}.1", f"up_blocks.{up}.attentions.{i}"
            number += 1
        if level > 0:
            yield f"output_blocks.{number - 1}.{1 + attention}.conv", f"up_blocks.{up}.upsamplers.0.conv"


def _control(structure: Structure) -> Iterator[tuple[str, str]]:
    inner = 2 * (structure.hint_sizes - 1)
    yield "input_hint_block.0", "controlnet_cond_embedding.conv_in"
    for i in range(inner):
        yield f"input_hint_block.{2 * i + 2}", f"controlnet_cond_embedding.blocks.{i}"
    yield f"input_hint_block.{2 * inner + 2}", "controlnet_cond_embedding.conv_out"
    for i in range(sum(structure.blocks) + len(structure.blocks)):
        yield f"zero_convs.{i}.0", f"controlnet_down_blocks.{i}"
    yield "middle_block_out.0", "controlnet_mid_block"


def _resnet(ldm: str, diffusers: str) -> Iterator[tuple[str, str]]:
    for a, b in _RESNET:
        yield f"{ldm}.{a}", f"{diffusers}.{b}"


def rename(name: str, modules: Mapping[str, str]) -> str:
    """The name with its module replaced; a name outside the table stays as it is."""
    end = len(name)
    while (end := name.rfind(".", 0, end)) > 0:
        if name[:end] in modules:
            return modules[name[:end]] + name[end:]
    return name


def from_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A UNet's or ControlNet's diffusers state dict under LDM names, sharing the tensors."""
    modules = {b: a for a, b in name_pairs(Structure.of_diffusers(state))}
    return {rename(name, modules): tensor for name, tensor in state.items()}


def to_diffusers(state: Mapping[str, Tensor], config: UNetConfig, hint_sizes: int = 4) -> dict[str, Tensor]:
    """The inverse of from_diffusers. hint_sizes: how many widths the hint encoder has (ControlNet only)."""
    modules = dict(name_pairs(Structure.of_config(config, hint_sizes)))
    return {rename(name, modules): tensor for name, tensor in state.items()}

"""Union ControlNet (ControlNetPlus, xinsir 2024): one network for several types of hint, several at once."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..control.residuals import Residuals
from ..errors import ControlError, HintError
from .blocks import Attention, Build, Run, Text, directly, sdpa, timestep_embedding
from .config import UNetConfig
from .controlnet import HINT_WIDTHS, ControlNet, zeroed
from .protocol import Features

# Kinds of hint and the type under which the release was trained on them. A network of n types has the first
# n: 6 in the first release, 8 in ProMax.
UNION_TYPES: dict[str, int] = {
    "openpose": 0,
    "depth": 1,
    "hed": 2,
    "pidi": 2,
    "scribble": 2,
    "ted": 2,
    "canny": 3,
    "lineart": 3,
    "anime_lineart": 3,
    "mlsd": 3,
    "normal": 4,
    "segment": 5,
    "tile": 6,
    "repaint": 7,
}


def type_ids(count: int) -> tuple[str, ...]:
    """The kinds of hint that a network of `count` types takes: keys of UNION_TYPES."""
    return tuple(name for name, number in UNION_TYPES.items() if number < count)


def type_name(number: int) -> str:
    """All kinds of one type, like "canny/lineart/anime_lineart/mlsd"."""
    return "/".join(name for name, n in UNION_TYPES.items() if n == number) or f"number {number}"


def check_types(types: Sequence[int], count: int) -> None:
    """Raise ControlError unless these are different types of a network that has `count` of them."""
    for number in types:
        if not 0 <= number < count:
            known = ", ".join(type_name(n) for n in range(count))
            raise ControlError(
                f"this union ControlNet has no type {type_name(number)}; it has {count} types: {known}. "
                "Choose one of these, or a file that has the type (of those for SDXL, ProMax has them all)."
            )
        if types.count(number) > 1:
            raise ControlError(
                f"the type {type_name(number)} is given {types.count(number)} times; a union ControlNet "
                "takes one hint of each type. Give the other hint its own type, or a ControlNet of its own."
            )


class TypeBlock(nn.Module):
    """A transformer block over one token [B,C], which says how a hint of this type and content is shifted.

    The release calls its attention without batch_first on tokens [B,N,C], so that it runs along the batch,
    whose rows carry the same hint: a token meets only copies of itself, never another hint or the latent.
    That is what the weights were trained for, and it makes the attention its value projection exactly.
    """

    def __init__(self, width: int, build: Build):
        super().__init__()
        self.ln_1, self.ln_2 = build.layer_norm(width), build.layer_norm(width)
        self.attn = nn.ModuleDict(
            {"in_proj": build.linear(width, 3 * width), "out_proj": build.linear(width, width)}
        )
        self.mlp = nn.ModuleDict(
            {"c_fc": build.linear(width, 4 * width), "c_proj": build.linear(4 * width, width)}
        )

    def forward(self, token: Tensor) -> Tensor:
        value = self.attn["in_proj"](self.ln_1(token)).chunk(3, dim=-1)[2]
        token = token + self.attn["out_proj"](value)
        hidden = self.mlp["c_fc"](self.ln_2(token))
        # The fast approximation of a GELU (arXiv 1606.08415, section 2).
        return token + self.mlp["c_proj"](hidden * torch.sigmoid(1.702 * hidden))


class UnionControlNet(ControlNet):
    """A ControlNet that is told what type of hint it is given, and takes one hint of each type at once.

    types: how many it has; layers: transformer blocks; type_channels: width of each type's embedding. The
    other arguments are ControlNet's. Everything that concerns the hints is in their features: a step costs
    what a plain ControlNet's does, however many hints there are.
    """

    def __init__(
        self,
        config: UNetConfig,
        hint_channels: int = 3,
        hint_widths: tuple[int, ...] = HINT_WIDTHS,
        operations: Any = nn,
        attention: Attention = sdpa,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        types: int = 8,
        layers: int = 1,
        type_channels: int = 256,
    ):
        super().__init__(config, hint_channels, hint_widths, operations, attention, dtype, device)
        build = Build(operations, attention, dtype, device, config.norm_groups)
        width, emb_width = config.model_channels, config.time_embed_dim
        self.types, self.type_channels = types, type_channels
        self.task_embedding = nn.Parameter(torch.empty(types, width, **build.place))
        # Not drawn where there is nothing to fill: for 8 bits, torch needs many seconds to find that out.
        if not self.task_embedding.is_meta:
            nn.init.normal_(self.task_embedding, std=width**0.5)
        # The release's own name.
        self.transformer_layes = nn.Sequential(*(TypeBlock(width, build) for _ in range(layers)))
        self.spatial_ch_projs = zeroed(build.linear(width, width))
        self.control_add_embedding = nn.ModuleDict(
            {
                "linear_1": build.linear(types * type_channels, emb_width),
                "linear_2": build.linear(emb_width, emb_width),
            }
        )

    def outline(
        self, operations: Any = nn, attention: Attention = sdpa, dtype: torch.dtype | None = None
    ) -> ControlNet:
        return type(self)(
            self.config,
            self.hint_channels,
            self.hint_widths,
            operations,
            attention,
            dtype,
            torch.device("meta"),
            self.types,
            len(self.transformer_layes),
            self.type_channels,
        )

    def encode_hint(self, hint: Tensor) -> Features:
        """Features of one hint whose type is not told, as ComfyUI's "auto": added as a plain ControlNet does.

        hint: [B,hint_channels,8H,8W] in 0..1. With a type the network follows better: see encode_hints.
        """
        features = self.input_hint_block(hint)
        return features, self.embed_types((), features)

    def encode_hints(self, hints: Sequence[Tensor], types: Sequence[int]) -> Features:
        """Features of several hints at once, all added up: compute them once, and use them at every step.

        hints: each [B,hint_channels,8H,8W] in 0..1, all of one size and batch (or of one image, for all
        rows); types: their types, values of UNION_TYPES. The result is the fused hint [B,model_channels,H,W]
        and the embedding of the types [B,4*model_channels].
        Raises ControlError for a type that this network lacks or that comes twice, and for another number of
        types than hints; HintError for hints of different sizes.
        """
        types = tuple(types)
        check_types(types, self.types)
        if not types or len(types) != len(hints):
            raise ControlError(
                f"{len(hints)} hints were given with {len(types)} types; a union ControlNet takes at least "
                "one hint, each with its type."
            )
        sizes = {tuple(hint.shape[1:]) for hint in hints}
        batches = {hint.shape[0] for hint in hints} - {1}
        if len(sizes) > 1 or len(batches) > 1:
            raise HintError(
                f"the hints of one union ControlNet have the shapes {[tuple(h.shape) for h in hints]}; they "
                "must have the same size and the same number of images, or one image."
            )
        fused = reduce(torch.add, map(self.encode_typed, hints, types))
        return fused, self.embed_types(types, fused)

    def encode_typed(self, hint: Tensor, number: int) -> Tensor:
        """One hint's features, shifted by what its mean and its type say: [B,model_channels,H,W]."""
        features = self.input_hint_block(hint)
        # A host may keep bare parameters on another device, in another precision.
        token = features.mean(dim=(2, 3)) + self.task_embedding[number].to(features)
        return features + self.spatial_ch_projs(self.transformer_layes(token))[:, :, None, None]

    def embed_types(self, types: Sequence[int], like: Tensor) -> Tensor:
        """The addition [B,4*model_channels] to the timestep embedding that says which types there are.

        Each type is a flag 0 or 1, embedded as timesteps are. like: features, whose batch, device and
        precision it takes.
        """
        flags = torch.tensor([float(number in types) for number in range(self.types)], device=like.device)
        h = timestep_embedding(flags, self.type_channels, like.dtype).flatten()[None]
        linear_1, linear_2 = self.control_add_embedding.values()
        return linear_2(F.silu(linear_1(h))).expand(like.shape[0], -1)

    def forward(
        self,
        x: Tensor,
        features: Features,
        timesteps: Tensor,
        context: Tensor | Text,
        y: Tensor | None = None,
        run: Run = directly,
    ) -> Residuals:
        """Residuals for a UNet of the same configuration; features of encode_hint or encode_hints."""
        hint, types = features
        return self.residuals(x, hint, self.embed(x, timesteps, context, y, types), run)

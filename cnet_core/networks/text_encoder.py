"""A text encoder over a closed vocabulary, for the mini Stable Diffusion."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .blocks import Build, TransformerBlock


@dataclass(frozen=True)
class WordEncoderConfig:
    """`length`: tokens of every text, padding included; `width`: channels of the context."""

    vocabulary: tuple[str, ...]
    length: int = 20
    width: int = 64
    layers: int = 2
    heads: int = 2


class WordEncoder(nn.Module):
    """Texts to contexts [B,length,width]: words (order counts), two transformer blocks, a norm.

    Token 0 is padding, token 1 any word outside the vocabulary; "" is all padding.
    """

    def __init__(self, config: WordEncoderConfig):
        super().__init__()
        self.config = config
        self.ids = {word: i + 2 for i, word in enumerate(config.vocabulary)}
        self.words = nn.Embedding(len(config.vocabulary) + 2, config.width)
        self.positions = nn.Parameter(torch.randn(config.length, config.width) * 0.1)
        self.blocks = nn.ModuleList(
            TransformerBlock(config.width, config.width, config.heads, Build()) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids, int64 [B,length]; case and punctuation do not count, words past the end are cut."""
        rows = []
        for text in texts:
            ids = [self.ids.get(word, 1) for word in re.findall(r"[a-z]+", text.lower())][
                : self.config.length
            ]
            rows.append(ids + [0] * (self.config.length - len(ids)))
        return torch.tensor(rows, dtype=torch.int64)

    def forward(self, tokens: Tensor) -> Tensor:
        """Context [B,length,width] of token ids [B,length]."""
        h = self.words(tokens) + self.positions
        for block in self.blocks:
            h = block(h, h)
        return self.norm(h)

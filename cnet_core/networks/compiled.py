"""Compiling control networks by torch.compile, block by block."""

from collections.abc import Callable
from typing import Any

from torch import nn

from .blocks import ResBlock, TransformerBlock

# What a network consists of many times over.
REPEATED = (ResBlock, TransformerBlock)


def compile_blocks(net: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
    """Let the repeated blocks of a network be compiled when they first run; its weights stay where they are.

    Blocks of the same sizes share their code, also between networks, so that of one family there is one set
    of graphs however many networks are loaded; sizes of pictures and batches are dynamic. A copy of the
    network (`copy.deepcopy`) is not compiled.
    """
    for module in net.modules():
        if isinstance(module, REPEATED):
            module.compile(backend=backend, dynamic=True)

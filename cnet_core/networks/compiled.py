"""Compiling control networks by torch.compile, block by block."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from ..errors import ControlError
from .blocks import ResBlock, TransformerBlock

# What a network consists of many times over.
REPEATED = (ResBlock, TransformerBlock)
# Graphs of one class of blocks: for each width of channels up to four, because torch makes others for square
# pictures and for batches of one. Beyond its own limit of 8 it runs the rest uncompiled.
GRAPHS = 64
# Inductor would run convolutions on a CPU in channels_last and bring their weights there at each call, which
# takes longer than the convolutions of deep blocks do. On GPUs it leaves them where they are by itself,
# because sizes are dynamic.
INDUCTOR = {"layout_optimization": False}


@lru_cache
def check_compiles(device: torch.device) -> None:
    """Compile a sum, which takes seconds where anything is compiled for the first time.

    Raises ControlError where it fails: a network's blocks would, with no word of what to switch off, once
    sampling has begun.
    """
    try:
        torch.compile(torch.add)(torch.ones(8, device=device), 1)
    # Each of its parts fails in a way of its own.
    except Exception as error:
        cause = getattr(error, "inner_exception", error)
        reason = f"{type(cause).__name__}: {cause}".strip().splitlines()[0]
        raise ControlError(
            f"torch cannot compile for {device.type} here ({reason}). Switch compile off, or mend that: a "
            "C++ compiler is needed, on a GPU Triton too (on Windows the package triton-windows)."
        ) from error


def compile_blocks(net: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
    """Let the repeated blocks of a network be compiled when they first run; its weights stay where they are.

    Blocks of the same sizes share their code, also between networks, so that of one family there is one set
    of graphs however many networks are loaded; sizes of pictures and batches are dynamic, but for a first
    square picture and a first batch of one. A copy of the network (`copy.deepcopy`) is not compiled.
    """
    # The name that all versions know.
    torch._dynamo.config.cache_size_limit = max(torch._dynamo.config.cache_size_limit, GRAPHS)
    options = INDUCTOR if backend == "inductor" else None
    for module in net.modules():
        if isinstance(module, REPEATED):
            module.compile(backend=backend, dynamic=True, options=options)

"""How fast a device runs the blocks of control networks by precision and memory layout: measured."""

import functools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import ControlError
from .blocks import Build, Inputs, ResBlock, SpatialTransformer

# One residual block and one transformer, as SD1.5 has them, for cond and uncond at a quarter of 512 pixels.
_CHANNELS, _CONTEXT, _HEADS, _TOKENS, _SIDE = 320, 768, 8, 77, 16
_ROUNDS = 5
# What is simpler (first in the list) stays unless another is faster by this share: timing wavers.
_WORTH = 0.1


@dataclass(frozen=True)
class Way:
    """Precision of weights and arithmetic, and the order of a feature map's values in memory."""

    dtype: torch.dtype = torch.float32
    memory_format: torch.memory_format = torch.contiguous_format

    def __str__(self) -> str:
        name = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.dtype]
        return name + (" channels_last" if self.memory_format is torch.channels_last else "")


@dataclass(frozen=True)
class Pace:
    """What was measured on a device, in the order of simplicity: seconds of the two blocks by each way."""

    device: torch.device
    seconds: dict[Way, float]

    @property
    def fastest(self) -> Way:
        return fastest(self.seconds)

    def __str__(self) -> str:
        times = ", ".join(f"{way} {1000 * second:.1f} ms" for way, second in self.seconds.items())
        best, plain = self.seconds[self.fastest], self.seconds[Way()]
        gain = "" if self.fastest == Way() else f", {plain / best:.1f} times as fast as fp32"
        return f"{self.fastest}{gain} on {self.device} (a residual and a transformer block: {times})"


def fastest(seconds: dict[Way, float]) -> Way:
    """The first way, or the fastest one that is worth the change from those before it."""
    chosen = next(iter(seconds))
    for way, second in seconds.items():
        if second < (1 - _WORTH) * seconds[chosen]:
            chosen = way
    return chosen


def ways(device: torch.device) -> Sequence[Way]:
    """Those that a device may have; fp16 on a CPU is there to keep weights in, not to compute with."""
    dtypes = [torch.float32, torch.bfloat16] + ([] if device.type == "cpu" else [torch.float16])
    formats = [torch.contiguous_format, torch.channels_last]
    return [Way(dtype, memory_format) for dtype in dtypes for memory_format in formats]


@functools.cache
def pace(device: torch.device) -> Pace:
    """Measured once per device and process, in about a second on a CPU; ways that fail are left out.

    Raises torch's error where memory is short, to be measured another time, and ControlError where the device
    cannot even compute in fp32.
    """
    runs = {}
    for way in ways(device):
        try:
            run = _blocks(device, way)
            run()
        except torch.cuda.OutOfMemoryError:
            raise
        except (RuntimeError, NotImplementedError):
            continue
        runs[way] = run
    if Way() not in runs:
        raise ControlError(f"{device} does not run a ControlNet's blocks in fp32; choose another device.")
    times: dict[Way, list[float]] = {way: [] for way in runs}
    # All take turns, so that a device that grows slower favours none.
    for _ in range(_ROUNDS):
        for way, run in runs.items():
            start = time.perf_counter()
            run()
            times[way].append(time.perf_counter() - start)
    return Pace(device, {way: statistics.median(found) for way, found in times.items()})


def _blocks(device: torch.device, way: Way):
    """A function that runs the two blocks and waits for the device."""
    build = Build(dtype=way.dtype, device=device)
    layers = [
        ResBlock(_CHANNELS, _CHANNELS, 4 * _CHANNELS, build),
        SpatialTransformer(_CHANNELS, 1, _CONTEXT, _HEADS, False, build),
    ]
    for layer in layers:
        layer.to(memory_format=way.memory_format)
    like: dict[str, Any] = {"device": device, "dtype": way.dtype}
    x = torch.zeros(2, _CHANNELS, _SIDE, _SIDE, **like).to(memory_format=way.memory_format)
    inputs = Inputs(torch.zeros(2, 4 * _CHANNELS, **like), torch.zeros(2, _TOKENS, _CONTEXT, **like))

    @torch.inference_mode()
    def run() -> float:
        h = layers[1](layers[0](x, inputs.emb), inputs.context)
        return float(h.flatten()[0])

    return run

"""Control networks beside the UNet's encoder: on CUDA they may run on a stream of their own."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..answers import Answer

# One for each device, for all controls: more would only make them wait for each other.
_STREAMS: dict[torch.device, torch.cuda.Stream] = {}


def stream_of(device: torch.device) -> torch.cuda.Stream | None:
    """The stream that computes now; None where there is one only."""
    return torch.cuda.current_stream(device) if device.type == "cuda" else None


class Awaited(list):
    """Residuals that another stream computes; whoever takes one waits for them first.

    The host's UNet takes the first when its encoder is through.
    """

    def __init__(self, residuals: Iterable[Tensor | None], wait: Callable[[], None]):
        super().__init__(residuals)
        # No part of a compiled UNet, which would wait for the first step's residuals at all steps. Not at the
        # top, because torch's compiler takes seconds to import.
        self.wait = torch.compiler.disable(wait)

    def pop(self, *place: Any) -> Any:
        self.wait()
        return super().pop(*place)

    def __getitem__(self, place: Any) -> Any:
        self.wait()
        return super().__getitem__(place)

    def __iter__(self) -> Iterator[Any]:
        self.wait()
        return super().__iter__()


def beside(ask: Callable[[], Answer | None], given: Iterable[Tensor], device: torch.device) -> Answer | None:
    """What a control answers, computed on a stream of its own, for which the caller's does not yet wait.

    given: what of the caller's is read; its memory is not used again before that. Elsewhere than on CUDA
    there is one stream, and this is `ask`.
    """
    if device.type != "cuda":
        return ask()
    if device not in _STREAMS:
        _STREAMS[device] = torch.cuda.Stream(device)
    stream, caller = _STREAMS[device], torch.cuda.current_stream(device)
    stream.wait_stream(caller)
    _used(given, stream)
    with torch.cuda.stream(stream):
        answer = ask()
    if answer is None:
        return None
    ready = stream.record_event()
    _used((r for residuals in answer.values() for r in residuals if r is not None), caller)

    def wait() -> None:
        torch.cuda.current_stream(device).wait_event(ready)

    return {place: Awaited(residuals, wait) for place, residuals in answer.items()}


def _used(tensors: Iterable[Tensor], stream: torch.cuda.Stream) -> None:
    for tensor in tensors:
        if tensor.device == stream.device:
            tensor.record_stream(stream)

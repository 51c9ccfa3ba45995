"""What the host asks a control at a sampling step, and what a control keeps during a run."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ...cnet_core.control.hint import cut_to_shape
from ...cnet_core.control.rows import pick
from ...cnet_core.control.schedule import Clock
from ...cnet_core.networks.blocks import Text
from ...cnet_core.networks.protocol import Features

# Noise levels read from tensors: reading one makes the host wait for its device, so all controls of a call
# share it. Entries go with their tensors.
_SIGMAS = WeakTensorKeyDictionary()
# Latents that are sampled at once, at most, in estimates of memory: context windows seldom have more.
AT_ONCE = 16


@dataclass
class Call:
    """One question of the host: latents x [chunks*B,C,H,W] at noise levels t [chunks*B].

    A chunk is the prompt's or the negative's side (options["cond_or_uncond"]).
    """

    x: Tensor
    t: Tensor
    cond: dict
    chunks: int
    options: dict

    @property
    def batch(self) -> int:
        return self.x.shape[0] // self.chunks

    @cached_property
    def sigma(self) -> float:
        key = self.options.get("sigmas", self.t)
        sigma = _SIGMAS.get(key)
        if sigma is None:
            sigma = _SIGMAS[key] = float(key.flatten()[0])
        return sigma

    @property
    def sides(self) -> list[int]:
        return list(self.options.get("cond_or_uncond", range(self.chunks)))

    @cached_property
    def window(self) -> tuple[int, tuple[int, ...]] | None:
        """(dimension of the latent, indices in the whole) of the context window that is being sampled."""
        window = self.options.get("context_window")
        if window is None:
            return None
        indices = tuple(window.index_list)
        # The host's "causal window fix" puts a frame before the window, which it drops afterwards.
        anchor = getattr(window, "causal_anchor_index", None)
        return window.dim, indices if anchor is None or anchor < 0 else (anchor, *indices)

    @cached_property
    def frames(self) -> tuple[int, ...]:
        """For each latent of the batch its index in the whole batch."""
        if self.window is not None and self.window[0] == 0:
            return self.window[1]
        return tuple(range(self.batch))

    @property
    def total(self) -> int:
        """How many latents the whole batch has, of which a context window may be a part."""
        if self.window is not None and self.window[0] == 0:
            return self.options["context_window"].total_frames
        return self.batch

    @cached_property
    def row_names(self) -> list[Hashable]:
        """For each row what tells it from all others of a run: its prompt, its place, its frame.

        Where a prompt is drawn into an area, the host gives the other side the same id.
        """
        sides = self.sides
        prompts = zip(sides, self.options.get("uuids", sides), strict=True)
        # Frames count for themselves, whichever windows they come in; other windows are places.
        window = None if self.window is None or self.window[0] == 0 else self.window
        place = tuple(self.x.shape[1:]), window
        return [(*prompt, place, frame) for prompt in prompts for frame in self.frames]

    def at_rows(self, rows: Sequence[int], chunks: Sequence[int]) -> "Call":
        """The same question for some of its rows, equally many of each of these chunks."""
        if list(rows) == list(range(self.x.shape[0])):
            return self

        def picked(value: Any) -> Any:
            if isinstance(value, Tensor) and value.ndim and value.shape[0] == self.x.shape[0]:
                return pick(value, rows)
            # Reference latents come as lists of batches.
            return [picked(item) for item in value] if isinstance(value, list) else value

        options = dict(self.options)
        for name in ("cond_or_uncond", "uuids"):
            if name in options:
                options[name] = [options[name][c] for c in chunks]
        cond = {n: picked(v) if n != "transformer_options" else options for n, v in self.cond.items()}
        asked = Call(picked(self.x), picked(self.t), cond, len(chunks), options)
        asked.frames = tuple(self.frames[row % self.batch] for row in rows[: asked.batch])
        return asked


@dataclass(eq=False)
class Run:
    """What a control keeps while one picture is sampled, and forgets afterwards.

    model: the host model that is sampled with; runs that are interrupted are not cleaned up, and must not
    keep it alive. loaded: whether the control has had its late networks loaded.
    """

    sampling: Any
    clock: Callable[[], Clock]
    model: ref
    latent_format: Any = None
    features: dict[Any, Features] = field(default_factory=dict)
    texts: dict[Any, Text] = field(default_factory=dict)
    # By batch of texts, the row of the same text that stands for each row.
    alike: dict[Any, list[int]] = field(default_factory=dict)
    masks: dict[Any, Tensor] = field(default_factory=dict)
    # By the picture's size, for each mask whether it leaves anything.
    seen: dict[Any, list[bool]] = field(default_factory=dict)
    # What was said at earlier steps, of a control that is not computed at each.
    past: Any = None
    loaded: bool = False
    # What else is to be let go.
    also: Callable[[], None] = lambda: None

    def forget(self) -> None:
        """Let go of everything; the host asks no more."""
        self.features, self.texts, self.alike, self.masks, self.seen = {}, {}, {}, {}, {}
        self.past = None
        self.also()


def window_of(image: Tensor, call: Call) -> Tensor:
    """The part [...,H,W] of a hint or mask that a context window over rows or columns covers."""
    if call.window is None:
        return image
    dim, indices = call.window
    axis = dim - call.x.ndim
    if axis < -2:
        return image
    whole = call.options["context_window"].total_frames
    size = list(call.x.shape[-2:])
    size[axis] = whole
    # Of the whole picture's shape before it is cut into windows.
    image = cut_to_shape(image, *size)
    length = image.shape[axis]
    # A window of a closed loop goes on at the beginning.
    ends = [i for i in range(1, len(indices)) if indices[i] < indices[i - 1]]
    parts = []
    for begin, end in pairwise([0, *ends, len(indices)]):
        run = indices[begin:end]
        start = min(length - 1, round(min(run) * length / whole))
        stop = max(start + 1, round((max(run) + 1) * length / whole))
        parts.append(image.narrow(axis, start, stop - start))
    return parts[0] if len(parts) == 1 else torch.cat(parts, axis)

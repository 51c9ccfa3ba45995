"""Settings for graphics cards of 8, 12, 16 and 24 GB, and the memory that a training takes.

The estimate runs one step on torch's meta device, where tensors have shapes and no memory, and counts what
the backward pass will need. It assumes CUDA's autocast and fused attention.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints import base_name
from ..control.residuals import Residuals
from ..errors import TrainingError
from ..networks.blocks import directly
from ..networks.config import UNetConfig
from ..networks.controlnet import HINT_WIDTHS, ControlNet
from ..networks.unet import UNet
from .config import Settings
from .low_rank import make_low_rank
from .step import PRECISIONS, Trainee

GB = 1e9
PRESETS = {"8 GB": 8 * GB, "12 GB": 12 * GB, "16 GB": 16 * GB, "24 GB": 24 * GB}
# Of a text that CLIP reads at once.
TOKENS = 77
# Examples per optimizer step of every preset.
_EXAMPLES = 8
# Ways to train, the fastest first. A step of each learns from as many examples; which go together differs
# where pictures are of several shapes.
_WAYS: tuple[dict[str, Any], ...] = tuple(
    {"optimizer": optimizer, "recompute": recompute, "batch": batch, "accumulation": _EXAMPLES // batch}
    for optimizer in ("adamw", "adamw8bit")
    for recompute, batch in (
        *(("none", 8), ("none", 4), ("control", 8), ("control", 4), ("none", 2), ("all", 4)),
        *(("control", 2), ("all", 2), ("none", 1), ("control", 1), ("all", 1)),
    )
)
# What CUDA and its libraries keep for themselves.
_LIBRARIES = 1.0 * GB


@dataclass(frozen=True)
class Estimate:
    """Bytes on the graphics card, by what they are for."""

    base: float
    network: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        return self.base + self.network + self.optimizer + self.activations + _LIBRARIES

    def __str__(self) -> str:
        return (
            f"about {self.total / GB:.1f} GB: base {self.base / GB:.1f}, network with gradients "
            f"{self.network / GB:.1f}, optimizer {self.optimizer / GB:.1f}, activations "
            f"{self.activations / GB:.1f}, CUDA {_LIBRARIES / GB:.1f}"
        )


def preset(
    name: str,
    config: UNetConfig,
    settings: Settings,
    height: int = 512,
    width: int = 512,
    hint_widths: tuple[int, ...] = HINT_WIDTHS,
    tokens: int = TOKENS,
) -> Settings:
    """The fastest settings whose estimate fits a card of PRESETS, for a base and pictures of a size.

    settings: all else; tokens: of the longest text. Raises TrainingError if nothing fits.
    """
    if name not in PRESETS:
        raise TrainingError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}.")
    tried = settings = replace(settings, precision="bf16")
    weights: dict[str, Estimate] = {}
    activations: dict[tuple[str, int], float] = {}
    for way in _WAYS:
        tried = replace(settings, **way)
        if tried.optimizer not in weights:
            weights[tried.optimizer] = _weights(config, tried, hint_widths)
        left = PRESETS[name] - weights[tried.optimizer].total
        if left <= 0:
            continue
        key = tried.recompute, tried.batch
        if key not in activations:
            activations[key] = _activations(config, tried, height, width, hint_widths, tokens)
        if activations[key] <= left:
            return tried
    # The last way takes the least.
    least = estimate(config, tried, height, width, hint_widths, tokens)
    smaller = "" if settings.rank else " A Control-LoRA (rank 128) takes much less."
    raise TrainingError(
        f"a ControlNet for {base_name(config)} at {width}x{height} does not fit {name}: at least "
        f"{least}.{smaller} Or train at a smaller resolution."
    )


def estimate(
    config: UNetConfig,
    settings: Settings,
    height: int = 512,
    width: int = 512,
    hint_widths: tuple[int, ...] = HINT_WIDTHS,
    tokens: int = TOKENS,
) -> Estimate:
    """Memory of a training on pictures of height x width and texts of so many tokens, the base in the
    training's own precision."""
    used = _activations(config, settings, height, width, hint_widths, tokens)
    return replace(_weights(config, settings, hint_widths), activations=used)


def _weights(config: UNetConfig, settings: Settings, hint_widths: tuple[int, ...]) -> Estimate:
    """The estimate without activations."""
    half = 4 if settings.precision == "fp32" else 2
    base, net = _networks(config, settings, hint_widths)
    frozen = sum(p.numel() for p in base.parameters())
    if settings.rank:
        make_low_rank(net, base, settings.rank, torch.Generator(), torch.float32)
    trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
    # Two moments, in fp32 or in 8 bits.
    moments = 2 if settings.optimizer == "adamw8bit" else 8
    average = 4 if settings.ema else 0
    return Estimate(frozen * half, trained * (4 + 4 + average), trained * moments, 0.0)


def _networks(
    config: UNetConfig, settings: Settings, hint_widths: tuple[int, ...]
) -> tuple[UNet, ControlNet]:
    low, meta = PRECISIONS[settings.precision], torch.device("meta")
    base = UNet(config, attention=_fused, dtype=low, device=meta).requires_grad_(False)
    return base, ControlNet(config, 3, hint_widths, _autocast(low), _fused, None, meta)


def _activations(
    config: UNetConfig, settings: Settings, height: int, width: int, hint_widths: tuple[int, ...], tokens: int
) -> float:
    """What the backward pass keeps of one forward pass."""
    base, net = _networks(config, settings, hint_widths)
    low, rows = PRECISIONS[settings.precision], settings.batch
    counter = _Counter([*base.parameters(), *net.parameters()])
    trainee = Trainee(net)
    if settings.recompute != "none":
        trainee.run = counter.recomputed
    with torch.device("meta"), counter.counting():
        x = torch.empty(rows, config.in_channels, height // 8, width // 8)
        hints = torch.empty(rows, 3, height, width)
        timesteps, context = torch.empty(rows), torch.empty(rows, tokens, config.context_dim)
        y = None if config.adm_in_channels is None else torch.empty(rows, config.adm_in_channels)
        *down, mid = trainee(x, hints, timesteps, context, y)
        residuals = Residuals(down, mid).each(lambda t: t.to(low))
        run = counter.recomputed if settings.recompute == "all" else directly
        y = None if y is None else y.to(low)
        predicted = base(x.to(low), timesteps, context.to(low), y, residuals, run)
    del predicted
    return counter.kept + counter.largest


class _Counter:
    """Bytes of the different tensors that autograd keeps, weights left out."""

    def __init__(self, weights: Sequence[Tensor]):
        self.weights = weights
        # Held, so that no storage's place is taken by another.
        self.seen: dict[int, Tensor] = {}
        self.ignored = {_place(weight) for weight in weights}
        self.kept = 0
        # The most that a recomputed part keeps while its backward pass runs.
        self.largest = 0

    def add(self, tensor: Tensor) -> None:
        if _place(tensor) not in self.ignored and _place(tensor) not in self.seen:
            self.seen[_place(tensor)] = tensor
            self.kept += tensor.untyped_storage().nbytes()

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Within, what autograd would keep is counted; it keeps nothing, and no backward pass can run."""
        try:
            with torch.autograd.graph.saved_tensors_hooks(self.add, lambda nothing: nothing):
                yield
        finally:
            # What was seen holds the graph, and that this: a ring that Python cannot see.
            self.seen.clear()

    def recomputed(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Runs a part whose activations are not kept, but its inputs are."""
        part = _Counter(self.weights)
        with part.counting():
            result = function(*arguments)
        self.largest = max(self.largest, part.kept)
        for argument in arguments:
            if isinstance(argument, Tensor):
                self.add(argument)
        return result


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class _Fused(torch.autograd.Function):
    """The shapes of attention that keeps its inputs and its output only."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise NotImplementedError


def _fused(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    return _Fused.apply(q, k, v)


def _autocast(low: torch.dtype) -> Any:
    """torch.nn with CUDA's autocast built in: products in `low`, norms in fp32."""

    class Conv2d(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            bias = None if self.bias is None else self.bias.to(low)
            return self._conv_forward(x.to(low), self.weight.to(low), bias)

    class Linear(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x.to(low), self.weight.to(low), None if self.bias is None else self.bias.to(low))

    class GroupNorm(nn.GroupNorm):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.float())

    class LayerNorm(nn.LayerNorm):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.float())

    return SimpleNamespace(Conv2d=Conv2d, Linear=Linear, GroupNorm=GroupNorm, LayerNorm=LayerNorm)

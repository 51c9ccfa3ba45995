"""Weights per block: how much a control says about structure (deep blocks) and detail (outer blocks)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import ControlError

# From the number of blocks to their weights, from the outermost (finest) to the deepest.
PRESETS: dict[str, Callable[[int], list[float]]] = {
    "even": lambda count: [1.0] * count,
    # The release's balance (gradio apps, `strength * (0.825 ** float(12 - i))`), section 3.4 of the paper:
    # over its 13 blocks. A transformer's dozens fall no further from end to end.
    "soft": lambda count: [0.825 ** ((count - 1 - i) * 12 / max(12, count - 1)) for i in range(count)],
    "structure first": lambda count: [_way(i, count) for i in range(count)],
    "detail first": lambda count: [1 - _way(i, count) for i in range(count)],
}


def _way(i: int, count: int) -> float:
    return i / max(1, count - 1)


@dataclass(frozen=True)
class BlockWeights:
    """A weight for each residual of a control, from the outermost block to the deepest.

    preset: a key of PRESETS; values: weights of one's own instead, each from 0 upwards, stretched over the
    blocks there are (SD1.5 has 13, SDXL 10, transformers one per block).
    Raises ControlError for an unknown preset, and for values that are negative or not finite.
    """

    preset: str = "even"
    values: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ControlError(f"preset {self.preset!r} is unknown; choose one of {', '.join(PRESETS)}.")
        for i, value in enumerate(self.values):
            if not (math.isfinite(value) and value >= 0):
                raise ControlError(f"the weight of block {i} is {value}; expected a number from 0 upwards.")

    def of(self, count: int) -> list[float]:
        """The weights of `count` blocks."""
        if not self.values:
            return PRESETS[self.preset](count)
        if len(self.values) == count:
            return list(self.values)
        places = [_way(i, count) * (len(self.values) - 1) for i in range(count)]
        return [self._between(place) for place in places]

    @property
    def silent(self) -> bool:
        """Whether all blocks have the weight 0, however many there are."""
        return bool(self.values) and not any(self.values)

    def of_unet(self, inputs: int) -> dict[tuple[str, int], float]:
        """The weights of a UNet's own blocks, by the host's names, for what acts inside them.

        inputs: number of input blocks (12 for SD1.5 and SD2.x, 9 for SDXL), as many as output blocks. A
        decoder block has the weight of the skip that it reads.
        """
        *skips, middle = self.of(inputs + 1)
        weights = {("input", i): weight for i, weight in enumerate(skips)}
        weights |= {("output", inputs - 1 - i): weight for i, weight in enumerate(skips)}
        return {**weights, ("middle", 0): middle}

    def _between(self, place: float) -> float:
        below = min(int(place), len(self.values) - 1)
        above = min(below + 1, len(self.values) - 1)
        return self.values[below] + (self.values[above] - self.values[below]) * (place - below)

    def __mul__(self, other: "BlockWeights") -> "BlockWeights":
        """Both, multiplied."""
        return _Product(factors=(self, other))


@dataclass(frozen=True)
class _Product(BlockWeights):
    factors: tuple[BlockWeights, ...] = ()

    @property
    def silent(self) -> bool:
        return any(factor.silent for factor in self.factors)

    def of(self, count: int) -> list[float]:
        return [math.prod(weights) for weights in zip(*(f.of(count) for f in self.factors), strict=True)]

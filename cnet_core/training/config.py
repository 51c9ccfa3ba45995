"""The settings of a training, one table for the shell's flags, its TOML, and the nodes."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from ..errors import TrainingError
from ..networks.union import UNION_TYPES
from .diffusion import Prediction
from .step import Objective, Precision

Schedule = Literal["constant", "cosine"]
OptimizerKind = Literal["adamw", "adamw8bit"]
Recompute = Literal["none", "control", "all"]

# What those that are words may be.
CHOICES: dict[str, tuple[str, ...]] = {
    "schedule": get_args(Schedule),
    "prediction": get_args(Prediction),
    "precision": get_args(Precision),
    "recompute": get_args(Recompute),
    "optimizer": get_args(OptimizerKind),
    "union_kind": ("", *UNION_TYPES),
}


HELP = {
    "steps": "optimizer steps; a ControlNet begins to follow its hints after some hundreds to thousands",
    "batch": "examples computed at a time in each process: what memory allows",
    "accumulation": "batches whose gradients are added up for one step, as if it were one large batch",
    "rate": "learning rate",
    "schedule": "of the learning rate after the warm-up",
    "warm_up": "steps over which the learning rate rises from 0",
    "weight_decay": "of AdamW",
    "clip": "largest norm of the gradient; 0: it is not clipped",
    "prediction": "what the base predicts: eps (SD1.5, SDXL, SD2.x at 512) or v (SD2.x at 768, mini model)",
    "min_snr": "gamma of min-SNR weighting, 5 in its paper; 0: all timesteps count alike",
    "drop": "share of captions replaced by the empty prompt, so that the network learns to read its hints",
    "precision": "of the arithmetic; weights are fp32 always. fp16 for cards without bf16, fp32 for a CPU",
    "recompute": "activations computed twice, not kept (gradient checkpointing), of the control network or "
    "of the base too: less memory, the same result",
    "optimizer": "adamw8bit keeps its state in 8 bits; it needs the extra adam8bit, best on an NVIDIA GPU",
    "ema": "decay of a moving average of the weights, 0.999 say, which is then the result; 0: none",
    "rank": "0: a whole ControlNet; else a Control-LoRA of this rank, 128 say",
    "union_kind": "for a union network: which of its kinds the hints are",
    "seed": "of everything that is drawn",
    "show_every": "steps between reports of the loss",
    "save_every": "steps between the states from which a training can go on",
    "keep": "how many of these states are kept",
    "probe_every": "steps between pictures drawn with the network; 0: none",
    "probes": "how many such pictures",
}

# (least, most) of the numbers.
_BOUNDS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("steps", "batch", "accumulation", "show_every", "save_every", "keep"), (1, math.inf)),
    **dict.fromkeys(("rate", "warm_up", "weight_decay", "clip", "min_snr", "rank"), (0, math.inf)),
    **dict.fromkeys(("seed", "probe_every"), (0, math.inf)),
    **dict.fromkeys(("drop", "ema"), (0, 1)),
    "probes": (1, 16),
}


@dataclass(frozen=True)
class Settings:
    """How to train; HELP says what each of them is. Raises TrainingError for values that make no sense."""

    steps: int = 3000
    batch: int = 1
    accumulation: int = 4
    rate: float = 1e-5
    schedule: Schedule = "constant"
    warm_up: int = 100
    weight_decay: float = 0.01
    clip: float = 1.0
    prediction: Prediction = "eps"
    min_snr: float = 0.0
    drop: float = 0.5
    precision: Precision = "bf16"
    recompute: Recompute = "none"
    optimizer: OptimizerKind = "adamw"
    ema: float = 0.0
    rank: int = 0
    union_kind: str = ""
    seed: int = 0
    show_every: int = 10
    save_every: int = 250
    keep: int = 2
    probe_every: int = 250
    probes: int = 4

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise TrainingError(
                    f"{name} is {getattr(self, name)!r}; choose one of {', '.join(filter(None, choices))}."
                )
        for name, (least, most) in _BOUNDS.items():
            # Written so that a NaN is refused too.
            if not least <= getattr(self, name) <= most:
                upto = "or more" if most == math.inf else f"to {most:g}"
                raise TrainingError(f"{name} is {getattr(self, name)}; expected {least:g} {upto}.")

    @property
    def objective(self) -> Objective:
        return Objective(self.prediction, self.min_snr, self.precision, self.recompute == "all")

    @property
    def result_dependent(self) -> dict[str, Any]:
        """What a resumed training must share with the one that it goes on with.

        With a constant learning rate it may go on for longer.
        """
        free = {"show_every", "save_every", "keep", "probe_every", "probes"}
        if self.schedule == "constant":
            free.add("steps")
        return {name: value for name, value in asdict(self).items() if name not in free}


def settings_from(values: Mapping[str, Any], where: str) -> Settings:
    """Settings of values by name, converted to the fields' types.

    Raises TrainingError, naming `where` they are from, for unknown names and values of another type.
    """
    known = {one.name: one for one in fields(Settings)}
    converted = {}
    for name, value in values.items():
        if name not in known:
            raise TrainingError(f"{where} has no setting {name!r}; there are {', '.join(known)}.")
        kind = known[name].type
        kind = kind if isinstance(kind, type) else str
        good = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
        if not good:
            raise TrainingError(f"{where}: {name} is {value!r}; expected {_TYPES[kind]}.")
        converted[name] = kind(value)
    return Settings(**converted)


_TYPES = {int: "a whole number", float: "a number", str: "a text"}

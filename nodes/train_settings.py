"""The settings of Train ControlNet: presets by the graphics card's memory, or one's own."""

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..cnet_core.networks.config import UNetConfig
from ..cnet_core.training.config import CHOICES, HELP, Settings
from ..cnet_core.training.presets import PRESETS, Estimate, estimate, preset

OWN = "own settings"


def memory_input() -> io.Input:
    """A preset, or what it sets: of it `settings_of` makes Settings."""
    own = [
        *(
            io.Int.Input(name, default=default, min=1, max=4096, tooltip=sentence(name))
            for name, default in (("batch", 1), ("accumulation", 4))
        ),
        *(
            io.Combo.Input(name, options=list(CHOICES[name]), default=default, tooltip=sentence(name))
            for name, default in (("precision", "bf16"), ("recompute", "none"), ("optimizer", "adamw"))
        ),
    ]
    return io.DynamicCombo.Input(
        "memory",
        options=[*(io.DynamicCombo.Option(name, []) for name in PRESETS), io.DynamicCombo.Option(OWN, own)],
        tooltip=(
            "Of your graphics card: sets how many examples are computed at a time, so that a step learns "
            "from 8, what is computed twice to save memory, and the optimizer. The estimate is shown "
            "before the training begins. own settings: say all that yourself."
        ),
    )


def rare_inputs() -> list[io.Input]:
    """What most leave as it is, by the names of Settings; all optional."""
    defaults = Settings()

    def options(name: str) -> dict[str, Any]:
        return {
            "default": getattr(defaults, name),
            "optional": True,
            "advanced": True,
            "tooltip": sentence(name),
        }

    return [
        io.Float.Input("drop", min=0.0, max=1.0, step=0.01, **options("drop")),
        io.Float.Input("min_snr", min=0.0, max=100.0, step=0.1, **options("min_snr")),
        io.Combo.Input("schedule", options=list(CHOICES["schedule"]), **options("schedule")),
        io.Int.Input("warm_up", min=0, max=10**6, **options("warm_up")),
        io.Float.Input("ema", min=0.0, max=1.0, step=0.0001, **options("ema")),
        io.Int.Input("rank", min=0, max=4096, **options("rank")),
        io.Combo.Input(
            "union_kind",
            options=["none", *filter(None, CHOICES["union_kind"])],
            **{**options("union_kind"), "default": "none"},
        ),
        io.Int.Input("save_every", min=1, max=10**6, **options("save_every")),
        io.Int.Input("probe_every", min=0, max=10**6, **options("probe_every")),
    ]


def sentence(name: str) -> str:
    """What a setting is, as a tooltip."""
    text = HELP[name]
    return f"{text[0].upper()}{text[1:]}."


def settings_of(
    memory: dict[str, Any],
    config: UNetConfig,
    size: tuple[int, int],
    hint_widths: tuple[int, ...],
    tokens: int,
    device: str,
    **values: Any,
) -> tuple[Settings, Estimate]:
    """What the node's inputs say, and the memory that it takes.

    size: height and width of the largest pictures; tokens: of the longest text; device: its type; values: of
    Settings, by name. Raises TrainingError.
    """
    chosen = dict(memory)
    name = chosen.pop("memory")
    if values.get("union_kind") == "none":
        values["union_kind"] = ""
    if name == OWN:
        settings = Settings(**values, **chosen)
    else:
        settings = preset(name, config, Settings(**values), *size, hint_widths, tokens)
        # Made for CUDA: others have no 8-bit optimizer, and processors are slow in any precision but fp32.
        if device != "cuda":
            settings = replace(settings, optimizer="adamw")
        if device == "cpu":
            settings = replace(settings, precision="fp32")
    return settings, estimate(config, settings, *size, hint_widths, tokens)


def stated(memory: dict[str, Any], settings: Settings, found: Estimate) -> str:
    """What is said before a training begins."""
    names = ("batch", "accumulation", "precision", "recompute", "optimizer")
    return f"{memory['memory']}: {', '.join(f'{n} {getattr(settings, n)}' for n in names)}; {found}"

"""A training as the shell is told it, by flags, a TOML file or both, and as its folder remembers it."""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import TrainingError
from .config import CHOICES, HELP, Settings, settings_from
from .shards import write_whole

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# In the folder of a training: all that it was told, for `resume` and `export`.
PLAN = "training.toml"
CARDS = (8, 12, 16, 24)

_PATHS = {
    "cache": "the folder that `cache` or the node Cache Training Data wrote",
    "base": "the base model to train for: a checkpoint or a UNet, SD1.5, SD2.x, SDXL or mini",
    "out": "the training's folder: states to resume from, curves, probes, and the result",
    "init": "a ControlNet or union file to go on from, instead of a copy of the base's encoder",
    "encoders": "the folder whose autoencoder draws the probes, such as demo/weights; without: no probes. "
    "Those of Stable Diffusion are not read here",
}
_KINDS = {name: "FILE" if name in ("base", "init") else "FOLDER" for name in _PATHS}
_OTHERS = {
    "memory": (int, "gigabytes of the graphics card: sets what is not set by hand of batch, accumulation, "
    "recompute and optimizer"),
    "device": (str, "where to train, by default cuda where there is one"),
    "tensorboard": (bool, "also write a log for TensorBoard; needs the extra `training`"),
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What a training is told. settings: those that were said, by name."""

    cache: Path
    base: Path
    out: Path
    settings: Mapping[str, Any]
    init: Path | None = None
    encoders: Path | None = None
    memory: int | None = None
    device: str | None = None
    tensorboard: bool = False

    def settled(self, suggested: Mapping[str, Any]) -> Settings:
        """What was said, and what it leaves open as suggested, else by default."""
        return settings_from({**suggested, **self.settings}, "the training")

    def remember(self, settings: Settings) -> None:
        """Write it into its folder, with all settings as they are. Raises DataError if it cannot."""
        paths = {name: getattr(self, name) for name in _PATHS if name != "out"}
        values = {name: path.resolve() for name, path in paths.items() if path is not None}
        lines = [f"{name} = {_toml(value)}" for name, value in values.items()]
        if self.device is not None:
            lines.append(f"device = {_toml(self.device)}")
        lines += [f"tensorboard = {_toml(self.tensorboard)}", ""]
        lines += [f"{name} = {_toml(value)}" for name, value in asdict(settings).items()]
        write_whole(self.out / PLAN, ("\n".join(lines) + "\n").encode())

    @classmethod
    def remembered(cls, out: Path, flags: argparse.Namespace) -> "Plan":
        """That of a training's folder, with what the flags change. Raises TrainingError if there is none."""
        if not (out / PLAN).is_file():
            raise TrainingError(
                f"{out} is no folder of a training: it has no {PLAN}. Name the folder that was --out of fit."
            )
        return _plan({**read_toml(out / PLAN), **flagged(flags), "out": out}, str(out / PLAN))

    @classmethod
    def told(cls, flags: argparse.Namespace) -> "Plan":
        """That of a command line and its --config; a flag wins over the file. Raises TrainingError."""
        said = flagged(flags)
        if flags.config is not None:
            said = {**read_toml(flags.config), **said}
        return _plan(said, "the command line" if flags.config is None else str(flags.config))


def _plan(values: Mapping[str, Any], where: str) -> Plan:
    lacking = [name for name in ("cache", "base", "out") if name not in values]
    if lacking:
        said = "; ".join(f"--{name} {_KINDS[name]}, {_PATHS[name]}" for name in lacking)
        raise TrainingError(f"a training needs {said}. In a TOML file they are {', '.join(lacking)}.")
    known = {one.name for one in fields(Plan)} - {"settings"}
    settings = {name: value for name, value in values.items() if name not in known}
    # Wrong ones are an error here, before anything large is read.
    settings_from(settings, where)
    own = {name: value for name, value in values.items() if name in known}
    for name, (kind, _) in _OTHERS.items():
        if name in own and type(own[name]) is not kind:
            raise TrainingError(f"{where}: {name} is {own[name]!r}; expected {_NAMES[kind]}.")
    if own.get("memory") not in (None, *CARDS):
        raise TrainingError(f"memory is {own['memory']}; choose one of {', '.join(map(str, CARDS))}.")
    return Plan(settings=settings, **own)


_NAMES = {int: "a whole number", str: "a text", bool: "true or false"}


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a TOML file, its paths taken from the file's own folder. Raises TrainingError."""
    try:
        values = tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise TrainingError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise TrainingError(
            f"{path} is no TOML file in UTF-8: {error}. Backslashes in paths need single quotes."
        ) from error
    for name in _PATHS.keys() & values.keys():
        if not isinstance(values[name], str):
            raise TrainingError(f"{path}: {name} is {values[name]!r}; expected a path in quotes.")
        values[name] = path.parent / values[name]
    return values


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | Path):
        # The escapes of JSON are among TOML's, which wants one more.
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def add_flags(parser: argparse.ArgumentParser, lasting: bool) -> None:
    """Add the flags of a training; with `lasting`, for one that is there already."""
    about = parser.add_argument_group("what to train on")
    add_paths(about, *(name for name in _PATHS if name != "out" or not lasting))
    about.add_argument("--device", metavar="NAME", help=_OTHERS["device"][1])
    about.add_argument("--tensorboard", action="store_true", default=None, help=_OTHERS["tensorboard"][1])
    if not lasting:
        about.add_argument("--memory", type=int, choices=CARDS, help=_OTHERS["memory"][1])
    how = parser.add_argument_group("how to train")
    defaults = {
        **asdict(Settings()),
        "precision": "bf16, on a CPU fp32",
        "prediction": "what the base's file says, else eps",
    }
    for one in fields(Settings):
        shown = defaults[one.name]
        text = HELP[one.name] + (f" (default: {shown})" if shown != "" else "")
        value = one.type if isinstance(one.type, type) else str
        words = CHOICES.get(one.name)
        metavar = {int: "N", float: "X"}.get(value) if words is None else None
        choices = [word for word in words if word] if words else None
        flag = f"--{one.name.replace('_', '-')}"
        how.add_argument(flag, type=value, choices=choices, metavar=metavar, help=text)


def add_paths(parser: argparse._ActionsContainer, *names: str) -> None:
    """Add the flags of some of a plan's files and folders."""
    for name in names:
        parser.add_argument(f"--{name}", type=Path, metavar=_KINDS[name], help=_PATHS[name])


def flagged(flags: argparse.Namespace) -> dict[str, Any]:
    """What was said by flags."""
    names = [*_PATHS, *_OTHERS, *(one.name for one in fields(Settings))]
    found = {name: getattr(flags, name, None) for name in names}
    return {name: value for name, value in found.items() if value is not None}

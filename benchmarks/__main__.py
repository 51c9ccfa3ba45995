"""The command line: find a ComfyUI, measure in its Python, print the table and write the JSON."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .report import summary, table

REPO = Path(__file__).resolve().parent.parent
MEASURES = ("steps", "memory", "economy", "load")
DEFAULT = ["steps", "memory", "load"]
# The precision in which each device runs, by its name in torch.
DTYPES = {"cpu": "float32", "cuda": "float16"}


def main() -> None:
    arguments = parse()
    comfyui = find_comfyui(arguments.comfyui)
    settings = {
        "base": arguments.base,
        "size": arguments.size,
        "measures": arguments.measure,
        "controls": sorted({0, *arguments.controls}),
        "networks": arguments.networks,
        "rounds": arguments.rounds,
        "steps": arguments.steps,
        "threads": arguments.threads,
        "clock": arguments.clock,
        "device": arguments.device,
        "compile": arguments.compile,
        "comfyui": None if comfyui is None else str(comfyui),
        "host_args": arguments.host_args.split(),
    }
    report = summary(measure(host_python(comfyui), settings))
    print(table(report))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    bases = ["sd15", "sdxl", "tiny", "tiny-sdxl"]
    add("--base", choices=bases, default="sd15", help="size of the networks (default: sd15)")
    add(
        "--measure",
        type=measures,
        default=DEFAULT,
        help=f"what to measure, some of {','.join(MEASURES)} (default: {','.join(DEFAULT)})",
    )
    add("--size", type=pixels, default=256, help="side of the picture in pixels (default: 256)")
    add(
        "--controls",
        type=counts,
        default=[0, 1, 2, 3, 4],
        help="numbers of controls (default: 0,1,2,3,4); 0, which shares are of, is always among them",
    )
    add(
        "--networks",
        type=positive,
        help="different ControlNets that the controls share (default: one for each control; sdxl: 1 for all)",
    )
    add("--rounds", type=positive, default=3, help="times that everything is measured (default: 3)")
    add("--steps", type=positive, default=4, help="sampling steps of one measured run (default: 4)")
    add(
        "--device",
        choices=list(DTYPES),
        default="cpu",
        help="where to run: cpu (default) in fp32, cuda in fp16, as ComfyUI does there",
    )
    add(
        "--compile",
        action="store_true",
        help="also measure ours with the loader's `compile`: steps, memory of a step",
    )
    add("--threads", type=positive, help="threads of torch (default: its own choice)")
    add(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: the process's own time, for a machine that is busy; needs --threads 1 (default: wall)",
    )
    add("--json", type=Path, metavar="FILE", help="write the figures here")
    add("--comfyui", help="a ComfyUI folder (default: $COMFYUI_PATH, then ~/ComfyUI); 'none' for minihost")
    add(
        "--host-args",
        default="",
        help="more options for ComfyUI, as --host-args=--use-pytorch-cross-attention",
    )
    arguments = parser.parse_args()
    check_clock(parser, arguments)
    return arguments


def check_clock(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Refuse a clock that does not see all that is measured."""
    if arguments.clock == "cpu" and arguments.threads != 1:
        parser.error("--clock cpu adds up the time of all threads; give --threads 1 with it")
    if arguments.device == "cuda" and arguments.clock == "cpu":
        parser.error("--clock cpu knows nothing of what a GPU does; give --clock wall with --device cuda")


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def pixels(text: str) -> int:
    if positive(text) % 64:
        raise argparse.ArgumentTypeError(f"expected a multiple of 64, got {text!r}")
    return int(text)


def counts(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"expected numbers of controls such as 0,1,2, got {text!r}")
    return [int(part) for part in parts]


def measures(text: str) -> list[str]:
    parts = text.split(",")
    if not all(part in MEASURES for part in parts):
        raise argparse.ArgumentTypeError(f"expected some of {','.join(MEASURES)}, got {text!r}")
    return parts


def find_comfyui(named: str | None) -> Path | None:
    """The ComfyUI folder that was named, or the first that is found."""
    if named == "none":
        return None
    places = [named] if named else os.environ.get("COMFYUI_PATH", "~/ComfyUI").split(os.pathsep)
    for place in places:
        folder = Path(place).expanduser().resolve()
        if (folder / "comfy" / "controlnet.py").is_file():
            return folder
    if named:
        sys.exit(
            f"{named} is no ComfyUI folder: no comfy/controlnet.py there. Give the folder of its main.py."
        )
    return None


def host_python(comfyui: Path | None) -> str:
    """The Python of the ComfyUI's own environment, where it has one, else this one."""
    if comfyui is not None:
        own = comfyui / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        if own.is_file():
            return str(own)
    return sys.executable


def measure(python: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What benchmarks.measure finds in a process of its own, so that the host's modules meet none of ours."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "figures.json"
        command = [python, "-m", "benchmarks.measure", json.dumps(settings), str(result)]
        done = subprocess.run(command, check=False, cwd=REPO, env=environment, stdout=sys.stderr)
        if done.returncode:
            sys.exit(f"The measuring process, {python}, failed; its own words are above.")
        return json.loads(result.read_text())


if __name__ == "__main__":
    main()

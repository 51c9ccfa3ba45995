"""What a control computed at some steps only does to the picture: tables, and sheets of pictures.

    python -m benchmarks.reuse --comfyui ~/ComfyUI --json reuse.json --sheets reuse/

The mini checkpoints draw held-out scenes from a pose and a depth map, merged by sum, with every step
computed, and with an economy. The nodes and the samplers are those that users have: of a ComfyUI, or of
minihost, which has euler and dpmpp_2m.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

from .__main__ import REPO, find_comfyui, host_python, positive
from .report import markdown

SAMPLERS = ["euler", "euler_ancestral", "dpmpp_2m", "dpmpp_sde", "uni_pc"]
STEPS = [12, 20, 30, 50]
# (method, anchors, share or error) by the names of the node Residual Reuse.
POLICIES = {
    "every 3rd, held": ("hold", "uniform", 1 / 3),
    "every 3rd, predicted": ("predicted", "uniform", 1 / 3),
    "dense early, held": ("hold", "dense early", 1 / 3),
    "dense early, predicted": ("predicted", "dense early", 1 / 3),
    "every 5th, held": ("hold", "uniform", 1 / 5),
    "every 5th, predicted": ("predicted", "uniform", 1 / 5),
    "adaptive, error 0.03": ("predicted", "adaptive", 0.03),
    "adaptive, error 0.1": ("predicted", "adaptive", 0.1),
}
NOTES = """\
{scenes} held-out scenes ({first_seed} on), 128 x 128, guidance {guidance:g}, scheduler {scheduler}. PSNR in
dB of the picture to that of the exact control, median and tenth percentile over the scenes; computed: passes
of a control's network, as a share of those of the exact control. pose: overlap of the drawn figure with the
true one; depth: rank correlation of the drawn depth with the true one; edges: F1 of the drawn edges (means).
+-: the standard error of the exact control's."""


def main() -> None:
    arguments = parse()
    comfyui = find_comfyui(arguments.comfyui)
    samplers = arguments.samplers if comfyui else [s for s in arguments.samplers if s in MINIHOSTS]
    if left_out := [s for s in arguments.samplers if s not in samplers]:
        print(f"Left out, because minihost has it not: {', '.join(left_out)}.", file=sys.stderr)
    settings = {
        "samplers": samplers,
        "steps": arguments.steps,
        "policies": arguments.policies,
        "scenes": arguments.scenes,
        "first_seed": arguments.first_seed,
        "scheduler": arguments.scheduler,
        "threads": arguments.threads,
        "comfyui": None if comfyui is None else str(comfyui),
        "sheets": None if arguments.sheets is None else str(arguments.sheets.resolve()),
    }
    report = measure(host_python(comfyui), settings)
    print(table(report))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


MINIHOSTS = ("euler", "dpmpp_2m")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reuse",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--samplers", type=names, default=SAMPLERS, help=f"default: {','.join(SAMPLERS)}")
    add("--steps", type=numbers, default=STEPS, help=f"default: {','.join(map(str, STEPS))}")
    add("--policies", action="store_true", help="also compare other policies, with euler at 30 steps")
    add("--scenes", type=positive, default=24, help="held-out scenes (default: 24)")
    add("--first-seed", type=int, default=0, help="0 (default) to report, 10000 to choose settings")
    add("--scheduler", default="normal", help="default: normal")
    add("--threads", type=positive, default=1, help="threads of torch (default: 1)")
    add("--json", type=Path, metavar="FILE", help="write the figures here")
    add("--sheets", type=Path, metavar="FOLDER", help="write pictures side by side here")
    add("--comfyui", help="a ComfyUI folder (default: $COMFYUI_PATH, then ~/ComfyUI); 'none' for minihost")
    arguments = parser.parse_args()
    if unknown := set(arguments.samplers) - set(SAMPLERS):
        parser.error(f"--samplers has {', '.join(sorted(unknown))}; expected some of {','.join(SAMPLERS)}")
    return arguments


def names(text: str) -> list[str]:
    return text.split(",")


def numbers(text: str) -> list[int]:
    return [positive(part) for part in text.split(",")]


def measure(python: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What benchmarks.pictures finds in a process of its own, which the host's modules have to themselves."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "figures.json"
        command = [python, "-m", "benchmarks.pictures", json.dumps(settings), str(result)]
        done = subprocess.run(command, check=False, cwd=REPO, env=environment, stdout=sys.stderr)
        if done.returncode:
            sys.exit(f"The measuring process, {python}, failed; its own words are above.")
        return json.loads(result.read_text())


def table(report: dict[str, Any]) -> str:
    """The report in Markdown."""
    head = ["sampler", "steps", "control", "computed", "PSNR median", "p10", "pose", "depth", "edges"]
    rows = []
    for run in report["runs"]:
        for name, found in run["found"].items():
            fidelity = [
                f"{mean(values):.3f}" + (f" +-{error(values):.3f}" if name == "exact" else "")
                for values in found["fidelity"].values()
            ]
            psnr = ["", ""] if name == "exact" else [f"{found['median']:.1f}", f"{found['p10']:.1f}"]
            rows.append(
                [run["sampler"], str(run["steps"]), name, f"{found['computed']:.0%}", *psnr, *fidelity]
            )
    return "\n\n".join([report["host"], markdown(head, rows), NOTES.format(**report["settings"])])


def error(values: list[float]) -> float:
    """The standard error of the mean."""
    middle = mean(values)
    return (sum((v - middle) ** 2 for v in values) / max(1, len(values) - 1) / len(values)) ** 0.5


if __name__ == "__main__":
    main()

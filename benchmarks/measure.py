"""The measuring process: `python -m benchmarks.measure SETTINGS RESULT`, both JSON, started by __main__.

It runs in the host's Python. SETTINGS are __main__'s; RESULT is the file for the raw figures.
"""

import importlib
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .weights import Task, even_timesteps, random_task

KEPT = ("base", "size", "rounds", "steps", "clock", "host_args")
# Halfway down the noise levels, where latent and noise are of one size.
CHECKED = [500]
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Implementation(Protocol):
    def sample(self, count: int, timesteps: list[int]) -> Tensor:
        """One whole run with `count` controls at these timesteps: the latent [1,4,H,W]."""
        ...


def main() -> None:
    settings, result = json.loads(sys.argv[1]), Path(sys.argv[2])
    if settings["threads"]:
        torch.set_num_threads(settings["threads"])
    with torch.inference_mode():
        result.write_text(json.dumps(figures(settings)))


def figures(settings: dict[str, Any]) -> dict[str, Any]:
    counts = settings["controls"]
    task = random_task(settings["base"], settings["size"], max(counts, default=0))
    implementations, left_out = prepare(task, settings)
    agreement = compare(implementations, counts)
    timesteps, clock = even_timesteps(settings["steps"]), CLOCKS[settings["clock"]]
    seconds: dict[str, dict[str, list[float]]] = {
        name: {str(count): [] for count in counts} for name in implementations
    }
    for round_ in range(settings["rounds"]):
        for count in counts:
            # Another one begins in each round, so that no one always follows the same other.
            for name in rotated(list(implementations), round_):
                spent = timed(implementations[name], count, timesteps, clock) / len(timesteps)
                seconds[name][str(count)].append(spent)
                say(f"round {round_ + 1}, controls {count}, {name}: {spent:.3f} s a step")
    return {
        "machine": machine(settings),
        "settings": {name: settings[name] for name in KEPT},
        "left_out": left_out,
        "agreement": agreement,
        "seconds_per_step": seconds,
    }


def prepare(task: Task, settings: dict[str, Any]) -> tuple[dict[str, Implementation], dict[str, str]]:
    """The implementations that can run here, and why the others cannot."""
    from . import hosted

    found: dict[str, Implementation] = {}
    left_out: dict[str, str] = {}
    if settings["comfyui"]:
        hosted.enter_comfyui(Path(settings["comfyui"]), settings["host_args"])
    else:
        hosted.enter_minihost()
    ours = hosted.Hosted(task, bool(settings["comfyui"]), "ours")
    found["ours"] = ours
    if settings["comfyui"]:
        found["built-in"] = hosted.Hosted(task, True, "built-in", ours.patcher)
    else:
        left_out["built-in"] = "no ComfyUI found; give its folder with --comfyui. Ours ran in minihost"
    try:
        from .with_diffusers import Diffusers
    except ImportError as error:
        left_out["diffusers"] = f"{error}; install it with: {installer()} diffusers"
    else:
        found["diffusers"] = Diffusers(task)
    return found, left_out


def installer() -> str:
    return f"uv pip install --python {sys.executable}"


def compare(implementations: Mapping[str, Implementation], counts: list[int]) -> list[dict[str, Any]]:
    """How far the others' latent is from ours after one step; also the first run of each, which is not timed.

    Beside it how far the controls moved ours, so that an equality of latents without control would show.
    """
    rows = []
    bare = implementations["ours"].sample(0, CHECKED)
    for count in counts:
        results = {name: each.sample(count, CHECKED) for name, each in implementations.items()}
        ours = results.pop("ours")
        rows.append(
            {
                "controls": count,
                "std": float(ours.std()),
                "moved_by_controls": float((ours - bare).abs().max()),
                "max_abs_difference": {name: float((ours - r).abs().max()) for name, r in results.items()},
            }
        )
    return rows


def timed(
    implementation: Implementation, count: int, timesteps: list[int], clock: Callable[[], float]
) -> float:
    start = clock()
    implementation.sample(count, timesteps)
    return clock() - start


def rotated(names: list[str], by: int) -> list[str]:
    by %= len(names)
    return names[by:] + names[:by]


def machine(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": version("diffusers"),
        "host": host(settings),
    }


def processor() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def host(settings: dict[str, Any]) -> str:
    """Name and version, and the attention that the host chose for its own networks."""
    if not settings["comfyui"]:
        return "minihost"
    attention = importlib.import_module("comfy.ldm.modules.attention").optimized_attention
    return f"ComfyUI {importlib.import_module('comfyui_version').__version__}, {attention.__name__}"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

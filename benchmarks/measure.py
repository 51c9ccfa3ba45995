"""The measuring process: `python -m benchmarks.measure SETTINGS RESULT`, both JSON, started by __main__.

It runs in the host's Python. SETTINGS are __main__'s; RESULT is the file for the raw figures.
"""

import gc
import importlib
import importlib.metadata
import itertools
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from cnet_core.networks.config import UNetConfig
from cnet_core.networks.controlnet import ControlNet
from cnet_core.networks.unet import UNet

from .__main__ import DTYPES
from .economy import ALIKE_STEPS, TIMED, TIMED_STEPS, Clocked, alike, phases
from .weights import BASES, FLOORS, Task, bytes_of, even_timesteps, random_task, write_networks

KEPT = (
    "base",
    "size",
    "controls",
    "networks",
    "measures",
    "rounds",
    "steps",
    "clock",
    "device",
    "compile",
    "host_args",
)
# Halfway down the noise levels, where latent and noise are of one size.
CHECKED = [500]


def wall() -> float:
    """Seconds, when all that was asked of a GPU is done."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


CLOCKS = {"wall": wall, "cpu": time.process_time}
MERGED = "ours, merged"
# Only on GPUs.
OVERLAPPED = "ours, overlapped"
# Where asked for.
COMPILED = "ours, compiled"
# For the activations, and for what else a process needs.
HEADROOM = 2 << 30


class Implementation(Protocol):
    def sample(self, count: int, timesteps: list[int]) -> Tensor:
        """One whole run with `count` controls at these timesteps: the latent [1,4,H,W]."""
        ...


def main() -> None:
    settings, result = json.loads(sys.argv[1]), Path(sys.argv[2])
    if settings["threads"]:
        torch.set_num_threads(settings["threads"])
    with torch.inference_mode(), tempfile.TemporaryDirectory(prefix="cnet-benchmark-") as folder:
        result.write_text(json.dumps(figures(settings, Path(folder))))


def figures(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    config, measures = BASES[settings["base"]], settings["measures"]
    settings = {**settings, "networks": number_of_networks(settings)}
    dtype = getattr(torch, DTYPES[settings["device"]])
    check_memory(config, settings["networks"], dtype)
    enter(settings)
    files = write_networks(config, settings["networks"], folder, dtype)
    found: dict[str, Any] = {
        "machine": machine(settings),
        "settings": {name: settings[name] for name in KEPT},
        "floor": FLOORS.get(settings["base"]),
        "left_out": {},
    }
    # First, while no UNet is in memory: the host's loader copies what it loads.
    if "load" in measures:
        found["load"] = loading(files[0], settings)
    if {"steps", "memory", "economy"} & set(measures):
        task = random_task(config, settings["size"], max(settings["controls"]), files, dtype)
        # Before anything holds the networks: ours are mapped once, however often they are loaded.
        if "memory" in measures:
            found["whole_peak_bytes"] = whole_memory(task, settings)
        implementations, found["left_out"] = prepare(task, settings)
        if "economy" in measures:
            found["economy"] = economising(implementations, settings)
        if measures == ["economy"]:
            return found
        found["agreement"] = compare(implementations, settings["controls"])
        if "memory" in measures:
            found["peak_bytes"] = {
                name: {str(count): peak for count, peak in peaks}
                for name, peaks in memory(implementations, settings["controls"])
            }
        if "steps" in measures:
            found["seconds_per_step"] = stepping(implementations, settings)
    return found


def number_of_networks(settings: dict[str, Any]) -> int:
    """One for each control, or as many as asked for; at SDXL's size all controls share one unless asked."""
    if settings["measures"] == ["load"]:
        return 1
    most = max(1, *settings["controls"])
    return min(most, settings["networks"] or (1 if settings["base"] == "sdxl" else most))


def check_memory(config: UNetConfig, networks: int, dtype: torch.dtype) -> None:
    """Stop before anything is made, where the weights would not fit into memory."""
    unet = bytes_of(UNet(config, device="meta"), dtype)
    network = bytes_of(ControlNet(config, device="meta"), dtype)
    needed = HEADROOM + max(unet + networks * network, 3 * network)
    free = available_bytes()
    say(
        f"needs about {needed / 1e9:.1f} GB of memory (UNet {unet / 1e9:.1f}, {networks} x ControlNet "
        f"{network / 1e9:.1f}); available: {'unknown' if free is None else f'{free / 1e9:.1f} GB'}"
    )
    if free is not None and free < needed:
        sys.exit("Not enough memory: give fewer --networks or a smaller --base.")


def available_bytes() -> int | None:
    """Memory that can be had without swapping, where the system tells it."""
    info = Path("/proc/meminfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return found[0] if found else None


def enter(settings: dict[str, Any]) -> None:
    from . import hosted

    if settings["comfyui"]:
        hosted.enter_comfyui(Path(settings["comfyui"]), settings["host_args"], settings["device"])
    else:
        hosted.enter_minihost()


def loading(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Seconds to load a ControlNet file, and until all its weights were read once; bytes given out meanwhile.

    The file was just written, so that it comes from the system's cache.
    """
    from . import hosted

    loaders: dict[str, Callable[[Path], Any]] = {"ours": hosted.Pack().load}
    if settings["comfyui"]:
        loaders["built-in"] = hosted.load_built_in
    clock = CLOCKS[settings["clock"]]
    found: dict[str, dict[str, Any]] = {
        name: {"peak_bytes": peak_bytes(partial(load, path)), "seconds": [], "read_seconds": []}
        for name, load in loaders.items()
    }
    for round_ in range(settings["rounds"]):
        for name in rotated(list(loaders), round_):
            gc.collect()
            start = clock()
            control = loaders[name](path)
            found[name]["seconds"].append(clock() - start)
            for model in control.get_models():
                for parameter in model.model.parameters():
                    parameter.sum()
            found[name]["read_seconds"].append(clock() - start)
            del control
            say(f"round {round_ + 1}, load, {name}: {found[name]['seconds'][-1]:.3f} s")
    return {"file_bytes": path.stat().st_size, "loaders": found}


def peak_bytes(run: Callable[[], Any]) -> int:
    """The most that torch's allocator gave out at once while this ran, beyond what was out before.

    Mappings of files count like memory. On a GPU it is the GPU's memory.
    """
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        run()
    events = profile.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(itertools.accumulate((size for _, size in changes), initial=0))


def memory(
    implementations: Mapping[str, Implementation], counts: list[int]
) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Peak bytes of one step by number of controls. Weights are not in them: they were there before."""
    for name, each in implementations.items():
        peaks = []
        for count in counts:
            if runs(name, count):
                peaks.append((count, peak_bytes(partial(each.sample, count, CHECKED))))
                say(f"memory, controls {count}, {name}: {peaks[-1][1] / 1e6:.1f} MB")
        yield name, peaks


def whole_memory(task: Task, settings: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Peak bytes of loading the control networks from their files and sampling one step with them, by number
    of controls: what they take in all, with their weights. The UNet's were there before."""
    from . import hosted

    comfyui, pack = bool(settings["comfyui"]), hosted.Pack()
    ours = hosted.Ours(pack, task, comfyui, [])
    ways: dict[str, tuple[hosted.Hosted, Callable[[Path], Any]]] = {
        "ours": (ours, pack.load),
        MERGED: (hosted.OursMerged(pack, task, comfyui, [], ours.patcher), pack.load),
    }
    if comfyui:
        ways["built-in"] = hosted.BuiltIn(task, True, [], ours.patcher), hosted.load_built_in

    def run(name: str, count: int) -> None:
        implementation, load = ways[name]
        implementation.controls = [load(path) for path in task.files[:count]]
        implementation.sample(count, CHECKED)

    found: dict[str, dict[str, int]] = {name: {} for name in ways}
    for name in ways:
        for count in settings["controls"]:
            if runs(name, count):
                found[name][str(count)] = peak_bytes(partial(run, name, count))
                say(f"memory in all, controls {count}, {name}: {found[name][str(count)] / 1e6:.1f} MB")
                ways[name][0].controls = []
                if comfyui:
                    hosted.unload()
                gc.collect()
    return found


def stepping(
    implementations: Mapping[str, Implementation], settings: dict[str, Any]
) -> dict[str, dict[str, list[float]]]:
    """Seconds per step by implementation and number of controls, one figure for each round."""
    counts, timesteps = settings["controls"], even_timesteps(settings["steps"])
    seconds: dict[str, dict[str, list[float]]] = {
        name: {str(count): [] for count in counts if runs(name, count)} for name in implementations
    }
    for round_ in range(settings["rounds"]):
        for count in counts:
            # Another one begins in each round, so that no one always follows the same other.
            for name in rotated([name for name in implementations if runs(name, count)], round_):
                each = timed(implementations[name], count, timesteps, CLOCKS[settings["clock"]])
                seconds[name][str(count)].append(each / len(timesteps))
                say(f"round {round_ + 1}, controls {count}, {name}: {each / len(timesteps):.3f} s a step")
    return seconds


def economising(implementations: Mapping[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Peak bytes and, for each round, seconds of the phases of an economised run, by number of controls.

    Beside them the seconds of the first step and of others that are all computed, by our controls and by the
    host's own.
    """
    from . import hosted

    ours = implementations["ours"]
    shares = {"anchors": TIMED.spacing, "share": TIMED.share}
    (reuse,) = ours.pack.run("CNetResidualReuse", method=TIMED.method, anchors=shares)
    economised = hosted.Ours(ours.pack, ours.task, ours.comfyui, ours.controls, ours.patcher, reuse=reuse)
    counts, timesteps = settings["controls"], even_timesteps(TIMED_STEPS)
    sides = {"phases": economised, "exact": ours, "built_in": implementations.get("built-in")}
    sides = {name: side for name, side in sides.items() if side is not None}
    found: dict[str, Any] = {}
    # The first run of each is not timed, and brings its weights to the device.
    for name, side in sides.items():
        own = [n for n in counts if n or name == "phases"]
        for n in own:
            side.sample(n, CHECKED)
        found[name] = {str(n): [] for n in own}
    found["peak_bytes"] = {str(n): peak_bytes(partial(economised.sample, n, timesteps)) for n in counts}

    def clocked(implementation: Any, count: int, timesteps: list[int]) -> list[float]:
        clock = Clocked(CLOCKS[settings["clock"]])
        implementation.sample(count, timesteps, clock)
        say(f"economy, controls {count}: " + ", ".join(f"{s:.3f}" for s in clock.seconds))
        return clock.seconds

    for round_ in range(settings["rounds"]):
        for count in counts:
            for name in rotated([name for name in sides if str(count) in found[name]], round_ + count):
                if name == "phases":
                    seconds = phases(clocked(economised, count, timesteps))
                else:
                    seconds = alike(clocked(sides[name], count, timesteps[:ALIKE_STEPS]))
                found[name][str(count)].append(seconds)
    return found


def runs(name: str, count: int) -> bool:
    """Merging is for two and more, overlapping and compiling for one and more."""
    return count >= {MERGED: 2, OVERLAPPED: 1, COMPILED: 1}.get(name, 0)


def prepare(task: Task, settings: dict[str, Any]) -> tuple[dict[str, Implementation], dict[str, str]]:
    """The implementations that can run here, and why the others cannot."""
    from . import hosted

    found: dict[str, Implementation] = {}
    left_out: dict[str, str] = {}
    comfyui, pack = bool(settings["comfyui"]), hosted.Pack()
    controls = [pack.load(path) for path in task.files]
    ours = hosted.Ours(pack, task, comfyui, controls)
    found["ours"] = ours
    found[MERGED] = hosted.OursMerged(pack, task, comfyui, controls, ours.patcher)
    if settings["device"] == "cuda":
        beside = [pack.load(path, overlap=True) for path in task.files]
        found[OVERLAPPED] = hosted.Ours(pack, task, comfyui, beside, ours.patcher)
    if settings["compile"]:
        compiled = [pack.load(path, compile=True) for path in task.files]
        found[COMPILED] = hosted.Ours(pack, task, comfyui, compiled, ours.patcher)
    if comfyui:
        found["built-in"] = hosted.BuiltIn(task, True, hosted.built_in_controls(task), ours.patcher)
    else:
        left_out["built-in"] = "no ComfyUI found; give its folder with --comfyui. Ours ran in minihost"
    if task.y is not None:
        left_out["diffusers"] = "only for SD1.5 here"
        return found, left_out
    try:
        from .with_diffusers import Diffusers
    except ImportError as error:
        left_out["diffusers"] = f"{error}; install it with: {installer()} diffusers"
    else:
        found["diffusers"] = Diffusers(task, settings["device"])
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
        results = {
            name: each.sample(count, CHECKED) for name, each in implementations.items() if runs(name, count)
        }
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
        "gpu": torch.cuda.get_device_name() if settings["device"] == "cuda" else None,
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

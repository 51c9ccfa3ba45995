"""From raw figures to medians, ratios and tables."""

from collections.abc import Mapping
from statistics import median
from typing import Any

from .economy import ALIKE_STEPS, RUN_STEPS, TIMED_STEPS, shares

# Seconds per step by number of controls, one figure for each round.
Seconds = Mapping[str, list[float]]

OURS = ("ours", "ours, merged", "ours, overlapped", "ours, compiled")
PLACES = {"cpu": "fp32 on the CPU", "cuda": "fp16 on the GPU"}

NOTES = """\
Random weights, the same tensors in all{shared}. Batch 2 (cond and uncond), {place},
picture {size} x {size}."""
STEP_NOTES = """\
Seconds of a sampling step ({clock} clock): those of a whole run, with all that is done once, divided by its
steps ({steps}). Medians over the rounds ({rounds}), in each of which all take turns. Ratios are of the same
round: median (lowest to highest); below 1 ours is faster. Added per control: as a share of the same
implementation's step without control (merged: of ours)."""
FLOOR_NOTE = "The arithmetic alone, without the encoding of the hint, is {floor:.0%}."
MEMORY_NOTES = """\
Peak memory: the most that torch's allocator gave out at once in a run of one step, beyond what it had given
before. The weights, which all share, are not in it. In all: the most of a run that loads the control networks
from their files, too, with their weights and the mappings of files."""
ECONOMY_NOTES = """\
Added per control: as a share of the step without control ({clock} clock), medians over the rounds
({rounds}). A computed and a predicted step, timed one by one in runs of {steps_timed} steps; the predicted
one is the last, from all the computed steps that are ever kept. All others: the average over a run of {run}
steps put together from such steps, its first one with all that is done once; exact and built-in of runs of
{steps_alike}, which keep nothing. Peak memory: the most that torch's allocator gave out at once in an
economised run."""
ECONOMY_STEPS = {"steps_timed": TIMED_STEPS, "steps_alike": ALIKE_STEPS, "run": RUN_STEPS}
LOAD_NOTES = """\
Loading one ControlNet file of {gigabytes:.2f} GB (safetensors) from the system's cache ({clock} clock):
until the loader returns, and until all its weights were read once. Memory: the most that torch held of it at
once, the mapping of the file included; the file's own size means that nothing was copied."""


def summary(raw: dict[str, Any]) -> dict[str, Any]:
    """The figures of benchmarks.measure with medians, ratios and shares."""
    report = dict(raw)
    if "seconds_per_step" in raw:
        seconds: Mapping[str, Seconds] = raw["seconds_per_step"]
        bare = seconds["ours"].get("0")
        pairs = [(a, b) for a in OURS if a in seconds for b in seconds if b not in OURS]
        report["medians"] = {
            name: {n: median(rounds) for n, rounds in own.items()} for name, own in seconds.items()
        }
        report["added_per_control"] = {
            name: added(own, own.get("0", bare)) for name, own in seconds.items() if own
        }
        report["ratios"] = {f"{a} / {b}": ratios(seconds[a], seconds[b]) for a, b in pairs if seconds[a]}
    if "economy" in raw:
        report["economy"] = {**raw["economy"], "added_per_control": shares(raw["economy"])}
    if "load" in raw:
        loaders = raw["load"]["loaders"]
        report["load"] = {
            **raw["load"],
            "medians": {
                name: {"seconds": median(each["seconds"]), "read_seconds": median(each["read_seconds"])}
                for name, each in loaders.items()
            },
        }
    return report


def added(own: Seconds, bare: list[float] | None) -> dict[str, dict[str, float]]:
    """What each control adds, as a share of the step without control."""
    if bare is None:
        return {}
    return {
        count: spread([(t - b) / b / int(count) for t, b in zip(rounds, bare, strict=True)])
        for count, rounds in own.items()
        if count != "0"
    }


def ratios(ours: Seconds, theirs: Seconds) -> dict[str, dict[str, float]]:
    return {n: spread([a / b for a, b in zip(ours[n], theirs[n], strict=True)]) for n in ours}


def spread(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def table(report: dict[str, Any]) -> str:
    """The report in Markdown."""
    settings = report["settings"]
    blocks = [heading(report)]
    place = PLACES[settings["device"]]
    notes = [NOTES.format(**settings, shared=shared(report), place=place)] if "agreement" in report else []
    if "seconds_per_step" in report:
        blocks.append(steps(report))
        notes.append(STEP_NOTES.format(**settings))
        if report["floor"] is not None:
            notes[-1] += "\n" + FLOOR_NOTE.format(floor=report["floor"])
    if "peak_bytes" in report:
        blocks.append(memory(report))
        notes.append(MEMORY_NOTES)
    if "economy" in report:
        blocks.append(economy(report))
        notes.append(ECONOMY_NOTES.format(**settings, **ECONOMY_STEPS))
    if "load" in report:
        blocks.append(loads(report))
        notes.append(LOAD_NOTES.format(**settings, gigabytes=report["load"]["file_bytes"] / 1e9))
    if "agreement" in report:
        blocks.append(agreement(report))
    blocks += [f"Left out: {name} ({why})." for name, why in report["left_out"].items()]
    return "\n\n".join([*blocks, *notes])


def steps(report: dict[str, Any]) -> str:
    counts = list(report["seconds_per_step"]["ours"])
    rows = [
        [f"{name}, seconds per step", *(number(own.get(n), "{:.3f}") for n in counts)]
        for name, own in report["medians"].items()
        if own
    ]
    rows += [[name, *(span(own.get(n)) for n in counts)] for name, own in report["ratios"].items()]
    rows += [
        [f"{name}, added per control", *(percent(own.get(n)) for n in counts)]
        for name, own in report["added_per_control"].items()
        if own
    ]
    return markdown(["", *map(controls, counts)], rows)


def memory(report: dict[str, Any]) -> str:
    counts = list(report["peak_bytes"]["ours"])
    rows = [
        [f"{name}, {what} in MB", *(number(own.get(n), "{:.1f}", 1e-6) for n in counts)]
        for what, peaks in (
            ("peak memory of a step", report["peak_bytes"]),
            ("peak memory in all", report["whole_peak_bytes"]),
        )
        for name, own in peaks.items()
        if own
    ]
    return markdown(["", *map(controls, counts)], rows)


def economy(report: dict[str, Any]) -> str:
    found = report["economy"]
    counts = list(found["added_per_control"])
    names = ["built-in", "exact", "light", "strong", "computed", "predicted"]
    rows = [
        [f"{name} step" if name in ("computed", "predicted") else name, *cells]
        for name in names
        if any(cells := [number(found["added_per_control"][n].get(name), "{:.1%}") for n in counts])
    ]
    rows.append(["peak memory in MB", *(number(found["peak_bytes"][n], "{:.1f}", 1e-6) for n in counts)])
    return markdown(["added per control", *map(controls, counts)], rows)


def loads(report: dict[str, Any]) -> str:
    loaders, medians = report["load"]["loaders"], report["load"]["medians"]
    rows = [
        [
            name,
            f"{medians[name]['seconds']:.3f}",
            f"{medians[name]['read_seconds']:.3f}",
            f"{each['peak_bytes'] / 1e6:.1f}",
        ]
        for name, each in loaders.items()
    ]
    return markdown(["loader", "seconds to load", "seconds to load and read", "memory in MB"], rows)


def markdown(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def heading(report: dict[str, Any]) -> str:
    machine = report["machine"]
    parts = [
        f"{report['settings']['base']}, {machine['gpu'] or machine['cpu']}",
        f"cores {machine['cores']}",
        f"threads {machine['threads']}",
        f"torch {machine['torch']}",
        machine["host"],
    ]
    if "diffusers" not in report["left_out"]:
        parts.append(f"diffusers {machine['diffusers']}")
    return "; ".join(parts)


def shared(report: dict[str, Any]) -> str:
    """How many networks the controls use, where it is not one for each."""
    networks, most = report["settings"]["networks"], max(report["settings"]["controls"])
    if networks >= most:
        return ""
    return f", and the controls share {networks} network{'' if networks == 1 else 's'}"


def agreement(report: dict[str, Any]) -> str:
    """How near the others' latents are to ours: that all compute the same thing."""
    lines = ["Largest differences from our latent after one step:", ""]
    for row in report["agreement"]:
        parts = [f"{peer} {value:.1e}" for peer, value in row["max_abs_difference"].items()]
        parts += [
            f"standard deviation {row['std']:.2f}",
            f"moved by its controls {row['moved_by_controls']:.2f}",
        ]
        lines.append(f"- controls {row['controls']}: {', '.join(parts)}")
    return "\n".join(lines)


def controls(count: str) -> str:
    return f"{count} control{'' if count == '1' else 's'}"


def number(value: float | None, form: str, scale: float = 1.0) -> str:
    return "" if value is None else form.format(value * scale)


def span(values: Mapping[str, float] | None) -> str:
    return "" if values is None else f"{values['median']:.3f} ({values['min']:.3f} to {values['max']:.3f})"


def percent(values: Mapping[str, float] | None) -> str:
    return "" if values is None else f"{values['median']:.1%}"

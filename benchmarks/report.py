"""From raw seconds to medians, ratios and a table. Imports nothing but the standard library."""

from collections.abc import Mapping
from statistics import median
from typing import Any

# Seconds per step by number of controls, one figure for each round.
Seconds = Mapping[str, list[float]]

NOTES = """\
Random weights, the same tensors in all. Batch 2 (cond and uncond), fp32 on the CPU, picture {size} x {size}.
Seconds of a sampling step ({clock} clock): those of a whole run, with all that is done once, divided by its
steps ({steps}). Medians over the rounds ({rounds}), in each of which all take turns. Ratios are of the same
round: median (lowest to highest); below 1 ours is faster."""


def summary(raw: dict[str, Any]) -> dict[str, Any]:
    """The figures of benchmarks.measure with medians, ratios and shares."""
    seconds: Mapping[str, Seconds] = raw["seconds_per_step"]
    peers = [name for name in seconds if name != "ours"]
    return {
        **raw,
        "medians": {name: {n: median(rounds) for n, rounds in own.items()} for name, own in seconds.items()},
        "added_per_control": {name: added(own) for name, own in seconds.items()},
        "ratios": {f"ours / {peer}": ratios(seconds["ours"], seconds[peer]) for peer in peers},
    }


def added(own: Seconds) -> dict[str, dict[str, float]]:
    """What each control adds, as a share of the same implementation's step without control."""
    if "0" not in own:
        return {}
    return {
        count: spread([(t - bare) / bare / int(count) for t, bare in zip(rounds, own["0"], strict=True)])
        for count, rounds in own.items()
        if count != "0"
    }


def ratios(ours: Seconds, theirs: Seconds) -> dict[str, dict[str, float]]:
    return {n: spread([a / b for a, b in zip(ours[n], theirs[n], strict=True)]) for n in ours}


def spread(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def table(report: dict[str, Any]) -> str:
    """The report in Markdown."""
    counts = list(next(iter(report["seconds_per_step"].values())))
    rows = [["", *(f"{n} control{'' if n == '1' else 's'}" for n in counts)], ["---"] * (len(counts) + 1)]
    for name, own in report["medians"].items():
        rows.append([f"{name}, seconds per step", *(f"{own[n]:.3f}" for n in counts)])
    for name, own in report["ratios"].items():
        rows.append([name, *(span(own[n]) for n in counts)])
    for name, own in report["added_per_control"].items():
        if own:
            rows.append([f"{name}, added per control", *(percent(own.get(n)) for n in counts)])
    lines = [heading(report), "", *(f"| {' | '.join(row)} |" for row in rows), "", agreement(report)]
    for name, why in report["left_out"].items():
        lines += ["", f"Left out: {name} ({why})."]
    return "\n".join([*lines, "", NOTES.format(**report["settings"])])


def heading(report: dict[str, Any]) -> str:
    machine = report["machine"]
    parts = [
        f"{report['settings']['base']}, {machine['cpu']}",
        f"cores {machine['cores']}",
        f"threads {machine['threads']}",
        f"torch {machine['torch']}",
        machine["host"],
    ]
    if "diffusers" not in report["left_out"]:
        parts.append(f"diffusers {machine['diffusers']}")
    return "; ".join(parts)


def agreement(report: dict[str, Any]) -> str:
    """How near the peers' latents are to ours: that all compute the same thing."""
    lines = ["Largest differences from our latent after one step:"]
    for row in report["agreement"]:
        parts = [f"{peer} {value:.1e}" for peer, value in row["max_abs_difference"].items()]
        parts += [
            f"standard deviation {row['std']:.2f}",
            f"moved by its controls {row['moved_by_controls']:.2f}",
        ]
        lines.append(f"- controls {row['controls']}: {', '.join(parts)}")
    return "\n".join(lines)


def span(values: Mapping[str, float]) -> str:
    return f"{values['median']:.3f} ({values['min']:.3f} to {values['max']:.3f})"


def percent(values: Mapping[str, float] | None) -> str:
    return "" if values is None else f"{values['median']:.1%}"

"""Try the paper's claims on the mini model, seed by seed, and write what was found.

What is finished is kept in the cache folder and in the report, and not measured again; an interrupted run
goes on where it was. Several of these may run at once, with --only different parts.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .cells import Store
from .lab import Budget, Lab
from .report import summary, write_readme
from .trained import arms, bare, train
from .untrained import composition, prompts, regions, zero_convolutions

REPO = Path(__file__).resolve().parents[2]
UNTRAINED: dict[str, Callable[[Lab, int], dict[str, Any]]] = {
    "zero": zero_convolutions,
    "composition": composition,
    "regions": regions,
    "prompts": prompts,
}
BUDGET = Budget()


def main(arguments: Sequence[str] | None = None, budget: Budget = BUDGET) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims", description=__doc__)
    add = parser.add_argument
    add("--seeds", type=int, default=3, help="default: 3")
    parts = [*UNTRAINED, "bare", *arms(budget)]
    add("--only", type=lambda text: text.split(","), default=parts, help=f"some of {','.join(parts)}")
    results = REPO / "benchmarks" / "results" / "claims.json"
    add("--out", type=Path, default=results, help="the report (default: benchmarks/results/claims.json)")
    add("--cache", type=Path, default=REPO / ".cache" / "claims", help="default: .cache/claims")
    add(
        "--readme",
        type=Path,
        help="write tables between this file's markers, and charts into docs/ there",
    )
    given = parser.parse_args(arguments)
    if given.seeds < 1:
        parser.error(f"--seeds is {given.seeds}; expected at least 1")
    if unknown := set(given.only) - set(parts):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    # One thread: the figures are then the same on any number of cores, and two processes do not fight.
    torch.set_num_threads(1)
    lab, store = Lab(budget, given.cache), Store(given.out, given.cache / "cells")
    for seed in range(given.seeds):
        for part in given.only:
            run(lab, store, part, seed)
    if given.readme:
        write_readme(given.readme, store.cells(), budget)


def run(lab: Lab, store: Store, part: str, seed: int) -> None:
    """Measure a part with a seed, if it is not there yet."""
    name, drawn = f"{part}-{seed}", ("size", "probes", "finals", "probe_sampling")
    if part in UNTRAINED:
        settings = lab.settings("scenes", "sampling", "rate")
        keep(store, name, settings, lambda: UNTRAINED[part](lab, seed), lab.budget)
    elif part == "bare":
        keep(store, part, lab.settings(*drawn), lambda: bare(lab), lab.budget)
    else:
        settings = {**lab.settings(*drawn, "rate"), "plan": asdict(arms(lab.budget)[part])}
        keep(store, name, settings, partial(train, lab, part, seed), lab.budget)


def keep(
    store: Store, name: str, settings: dict[str, Any], measure: Callable[[], dict[str, Any]], budget: Budget
) -> None:
    """Measure a cell unless it is there, and bring the report up to date."""
    started = time.process_time()

    def timed() -> dict[str, Any]:
        return {**measure(), "cpu_seconds": time.process_time() - started}

    done = store.get(name, settings, timed)
    print(f"{name}: {f'{time.process_time() - started:.0f} s of CPU' if done else 'is there'}", flush=True)
    store.write(summary(store.cells(), budget))


if __name__ == "__main__":
    main()

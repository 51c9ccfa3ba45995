"""Try the paper's claims on the mini model, seed by seed, and write what was found.

What is finished is kept in the cache folder and in the report, and not measured again; an interrupted run
goes on where it was. Several of these may run at once, with --only different claims.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from .cells import Store
from .lab import Budget, Lab
from .untrained import composition, prompts, zero_convolutions

REPO = Path(__file__).resolve().parents[2]
UNTRAINED: dict[str, Callable[[Lab, int], dict[str, Any]]] = {
    "zero": zero_convolutions,
    "composition": composition,
    "prompts": prompts,
}
CLAIMS = (*UNTRAINED,)
BUDGET = Budget()


def main(arguments: Sequence[str] | None = None, budget: Budget = BUDGET) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims", description=__doc__)
    add = parser.add_argument
    add("--seeds", type=int, default=3, help="default: 3")
    add("--only", type=lambda text: text.split(","), default=list(CLAIMS), help=f"some of {','.join(CLAIMS)}")
    results = REPO / "benchmarks" / "results" / "claims.json"
    add("--out", type=Path, default=results, help="the report (default: benchmarks/results/claims.json)")
    add("--cache", type=Path, default=REPO / ".cache" / "claims", help="default: .cache/claims")
    given = parser.parse_args(arguments)
    if given.seeds < 1:
        parser.error(f"--seeds is {given.seeds}; expected at least 1")
    if unknown := set(given.only) - set(CLAIMS):
        parser.error(f"there is no claim {', '.join(sorted(unknown))}; there are {', '.join(CLAIMS)}")
    # One thread: the figures are then the same on any number of cores, and two processes do not fight.
    torch.set_num_threads(1)
    lab, store = Lab(budget, given.cache), Store(given.out, given.cache / "cells")
    for seed in range(given.seeds):
        for claim in given.only:
            run(lab, store, claim, seed)
            store.write({})


def run(lab: Lab, store: Store, claim: str, seed: int) -> None:
    """Measure what a claim needs of a seed, as far as it is not there yet."""
    keep(store, f"{claim}-{seed}", lab.settings("scenes", "sampling"), lambda: UNTRAINED[claim](lab, seed))


def keep(store: Store, name: str, settings: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> None:
    started = time.process_time()

    def timed() -> dict[str, Any]:
        return {**measure(), "cpu_seconds": time.process_time() - started}

    done = store.get(name, settings, timed)
    print(f"{name}: {f'{time.process_time() - started:.0f} s of CPU' if done else 'is there'}", flush=True)


if __name__ == "__main__":
    main()

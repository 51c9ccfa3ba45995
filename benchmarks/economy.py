"""Controls that are not computed at each step: what a computed and a predicted step cost, and what a run.

A whole run takes long at full size. So one of a few steps is timed step by step, of which some are computed,
and the last is predicted from as many computed ones as predictions ever take. From these, the cost of a run
is put together.
"""

from collections.abc import Callable, Mapping
from statistics import mean, median
from typing import Any

from cnet_core.control.reuse import ECONOMIES, EXACT, Reuse

# What is timed: 0, 2 and 3 of these are computed.
TIMED = Reuse("predicted", "uniform", share=0.6)
TIMED_STEPS = 5
COMPUTED = TIMED.plan([i / TIMED_STEPS for i in range(TIMED_STEPS)])
# Of controls that keep nothing, all steps but the first are alike.
ALIKE_STEPS = 3
# What a run is put together for.
RUN_STEPS = 30


class Clocked:
    """Seconds of each step of a run: from its beginning, or the end of the step before, to its own end."""

    def __init__(self, clock: Callable[[], float]):
        self.clock = clock
        self.times = [clock()]

    def __call__(self, *_step: Any) -> None:
        self.times.append(self.clock())

    @property
    def seconds(self) -> list[float]:
        return [end - start for start, end in zip(self.times, self.times[1:], strict=False)]


def alike(seconds: list[float]) -> dict[str, float]:
    """Seconds of the first step of a run that is computed throughout, and of another one."""
    first, *others = seconds
    return {"first": first, "computed": mean(others)}


def phases(seconds: list[float]) -> dict[str, float]:
    """Seconds of the first step, of another that is computed, and of one predicted from all that is kept."""
    return {**alike([seconds[i] for i in COMPUTED]), "predicted": seconds[-1]}


def per_step(seconds: Mapping[str, float], reuse: Reuse = EXACT) -> float:
    """Seconds of a step, on average over a run, given those of each kind of step."""
    computed = len(reuse.plan([i / RUN_STEPS for i in range(RUN_STEPS)]))
    whole = seconds["first"] + (computed - 1) * seconds["computed"]
    return (whole + (RUN_STEPS - computed) * seconds.get("predicted", 0.0)) / RUN_STEPS


def shares(found: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """What each control adds to a step, as a share of the bare step, by number of controls.

    found: by number of controls a list for the rounds, of `phases`, 0 controls included; likewise "exact"
    and, where the host has its own, "built_in", of what `alike` gives. The figures are medians over the
    rounds.
    """
    shares: dict[str, dict[str, float]] = {}
    for count, rounds in found["phases"].items():
        if count == "0":
            continue
        added: dict[str, list[float]] = {}
        for i, (own, bare) in enumerate(zip(rounds, found["phases"]["0"], strict=True)):
            # Without control all steps are alike, but for what the first does once.
            step = mean([bare["computed"], bare["predicted"]])
            begun = per_step({"first": bare["first"], "computed": step})
            exact = found["exact"][count][i]
            costs = {name: own[name] - step for name in ("computed", "predicted")}
            for name, reuse in ECONOMIES.items():
                costs[name] = per_step(exact if reuse.exact else own, reuse) - begun
            if "built_in" in found:
                costs["built-in"] = per_step(found["built_in"][count][i]) - begun
            for name, cost in costs.items():
                added.setdefault(name, []).append(cost / step / int(count))
        shares[count] = {name: median(values) for name, values in added.items()}
    return shares

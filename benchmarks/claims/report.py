"""From cells to what they say: a summary in JSON, tables in Markdown, charts."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..report import markdown
from .bootstrap import interval
from .cells import Cells
from .charts import ablation_chart, convergence_chart, save
from .convergence import Jumps, jumps
from .lab import Budget
from .trained import ZERO, arms
from .untrained import MODES, PARTS

BEGIN, END = "<!-- benchmarks.claims -->", "<!-- /benchmarks.claims -->"
# By column, numbers [seeds, pictures].
Rows = Mapping[str, list[list[float]]]


def found(cells: Cells, name: str) -> list[dict[str, Any]]:
    """What was found under a name, seed by seed, as far as there is."""
    own = [key for key in cells if key.rpartition("-")[0] == name and key.rpartition("-")[2].isdigit()]
    return [cells[key]["found"] for key in sorted(own, key=lambda key: int(key.rpartition("-")[2]))]


def kernel_distances(drawn: list[list[float]], true: list[list[float]]) -> list[float]:
    """How far drawn pictures [N,d] are from true ones [M,d]: a number for each, whose mean is the distance.

    The unbiased squared MMD of the kernel (x.y / d + 1)^3 (KID, arXiv 1801.01401), about 0 for pictures like
    the true ones; of features in units of the true ones' spread. The numbers vary as its first-order
    projection does, so that their bootstrap is that of the distance.
    """
    y = np.array(true)
    middle, spread = y.mean(axis=0), y.std(axis=0)
    x, y = (np.array(drawn) - middle) / spread, (y - middle) / spread

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    among, across, own = kernel(x, x), kernel(x, y).mean(axis=1), kernel(y, y)
    n, m = len(x), len(y)
    others = (among.sum(axis=1) - np.diag(among)) / (n - 1)
    ground = (own.sum() - np.trace(own)) / (m * (m - 1))
    return (2 * (others - across) - others.mean() + ground).tolist()


def summary(cells: Cells, budget: Budget) -> dict[str, Any]:
    """All figures of the tables, as [mean, low, high], and the processor time of all cells."""
    return {
        "cpu_minutes": round(sum(c["found"].get("cpu_seconds", 0) for c in cells.values()) / 60, 1),
        "composition": _intervals(composition(cells)),
        "regions": _intervals(regions(cells)),
        "prompts": _intervals(prompts(cells)),
        "ablation": _intervals(ablation(cells, budget)),
        "data": _intervals(data(cells, budget)),
    }


def _intervals(rows: Mapping[str, Rows]) -> dict[str, dict[str, list[float]]]:
    return {
        name: {column: [round(end, 4) for end in interval(values)] for column, values in row.items()}
        for name, row in rows.items()
    }


def composition(cells: Cells) -> dict[str, Rows]:
    seeds = found(cells, "composition")
    rows: dict[str, Rows] = {}
    for name in ("none", "pose", "depth", *MODES) if seeds else ():
        row = {}
        for case in ("agree", "differ"):
            for kind in ("pose", "depth"):
                if f"{case}: {name}" in seeds[0]:
                    row[f"{case}: {kind}"] = [seed[f"{case}: {name}"][kind] for seed in seeds]
        rows[name] = row
    return rows


def regions(cells: Cells) -> dict[str, Rows]:
    """Pose and another scene's depth map, each within its own half."""
    seeds = found(cells, "regions")
    names = ("none", "pose", "depth", *MODES, "regions") if seeds else ()
    return {
        name: {kind: [seed[name][kind] for seed in seeds] for kind in ("pose", "depth")} for name in names
    }


def prompts(cells: Cells) -> dict[str, Rows]:
    seeds, kinds = found(cells, "prompts"), ("figure", "depth", "canny")
    names = ("no control", "none", "insufficient", "conflicting", "full") if seeds else ()
    return {name: {kind: [seed[f"{name}: {kind}"] for seed in seeds] for kind in kinds} for name in names}


def ablation(cells: Cells, budget: Budget) -> dict[str, Rows]:
    """Networks after training, between the base without control and the true pictures."""
    if "bare" not in cells:
        return {}
    ends = {"no control": [cells["bare"]["found"]["base"]]}
    for name in networks(budget):
        if seeds := found(cells, name):
            ends[spoken(name)] = [seed["final"] for seed in seeds]
    columns = ("depth", "pose", "depth, no prompt")
    rows: dict[str, Rows] = {
        name: {column: [seed[column] for seed in seeds] for column in columns} for name, seeds in ends.items()
    }
    true = cells["bare"]["found"]["ceiling"]
    return {**rows, "true picture": {kind: [true[kind]] for kind in ("depth", "pose")}}


def data(cells: Cells, budget: Budget) -> dict[str, Rows]:
    """Amounts of data at the trainings' ends: scores, distance to true pictures, and the loss."""
    if "bare" not in cells:
        return {}
    bare = cells["bare"]["found"]

    def row(finals: list[dict[str, Any]]) -> dict[str, list[list[float]]]:
        distances = [kernel_distances(final["features"], bare["true"]) for final in finals]
        scored = {kind: [final[kind] for final in finals] for kind in ("depth", "pose")}
        return {**scored, "distance": distances}

    rows: dict[str, Rows] = {"no control": row([bare["base"]])}
    for count in budget.pairs:
        if seeds := found(cells, f"data-{count}"):
            losses = [seed["curve"][-1]["loss"] for seed in seeds]
            first = [seed["curve"][0]["loss"] for seed in seeds]
            rows["no control"] = {**rows["no control"], "loss": first}
            rows[f"{count} pairs"] = {
                **row([seed["final"] for seed in seeds]),
                "loss": losses,
            }
    return {**rows, "true picture": row([bare["ceiling"]])}


def networks(budget: Budget) -> list[str]:
    """The trainings that differ in their networks only."""
    return [name for name in arms(budget) if not name.startswith("data-")]


def spoken(name: str) -> str:
    """A training's name in words."""
    words = name.replace("gaussian-", "gaussian, std ").replace("lite", "lite, one convolution a block")
    return words.replace("-", " ")


def curves(cells: Cells, name: str, kind: str) -> tuple[np.ndarray, list[int]]:
    """Scores [seeds, pictures, measurements] of a training, and the steps at which they were measured."""
    seeds = found(cells, name)
    steps = [point["step"] for point in seeds[0]["curve"]] if seeds else []
    return np.array([[point[kind] for point in seed["curve"]] for seed in seeds]).swapaxes(1, 2), steps


def tables(cells: Cells, budget: Budget) -> str:
    """All that was found, in Markdown."""
    blocks = [_zero(cells)]
    for title, rows, names in (
        ("Other joins", ablation(cells, budget), {}),
        ("Less data", data(cells, budget), {}),
        ("Composition", composition(cells), {}),
        ("Regions", regions(cells), {"pose": "pose, in its half", "depth": "depth, in the other"}),
        ("Prompts", prompts(cells), {"figure": "pose"}),
    ):
        if rows:
            blocks += [f"**{title}**", _table(rows, names)]
    return "\n\n".join([*filter(None, blocks), *_convergence(cells)])


def _table(rows: Mapping[str, Rows], names: Mapping[str, str]) -> str:
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    body = [
        [
            name,
            str(max(map(len, row.values()))),
            *(str(interval(row[column])) if column in row else "" for column in columns),
        ]
        for name, row in rows.items()
    ]
    return markdown(["", "seeds", *(names.get(column, column) for column in columns)], body)


def _zero(cells: Cells) -> str:
    seeds = found(cells, "zero")
    if not seeds:
        return ""
    equal = sum(seed["equal"] for seed in seeds)
    head = ["gradient in", *(f"step {n}" for n in (1, 2, 3))]
    rows = []
    for part in PARTS:
        norms = [[seed["gradients"][step][part] for seed in seeds] for step in range(3)]
        rows.append([part, *("0" if not any(n) else f"{min(n):.1g} to {max(n):.1g}" for n in norms)])
    said = f"Output bit for bit that of the base before the first step: {equal} of {len(seeds)} seeds."
    return "\n\n".join(["**Zero convolutions**", said, markdown(head, rows)])


def _convergence(cells: Cells) -> list[str]:
    blocks = []
    for kind in ("depth", "pose"):
        if found(cells, ZERO) and (what := jumps(*curves(cells, ZERO, kind))):
            blocks.append(textwrap.fill(_sentence(kind, what), 120))
    return ["**Convergence**", *blocks] if blocks else []


def _sentence(kind: str, what: Jumps) -> str:
    low, middle, high = what.steps
    means = ", ".join(f"{share:.2f}" for share in what.mean)
    way = ", ".join(f"{first:.0f} and {second:.0f}" for first, second in what.middle)
    return (
        f"{kind.capitalize()}, {what.pictures} pictures that rise in every seed. Their mean has gone a "
        f"quarter and three quarters of its way at steps {way}, seed by seed. The steepest stretch between "
        f"two measurements has the share {means} of this rise, and {what.share} picture by picture; an even "
        f"rise would have {what.even:.2f}, and pictures that all rise as their mean does, with the noise "
        f"between seeds, {what.gradual}. A picture's steepest stretch ends at step {middle:.0f} (quartiles "
        f"{low:.0f} and {high:.0f}); between seeds that step varies by {what.agreement[0]:.0f} (standard "
        f"deviation), and by {what.agreement[1]:.0f} if pictures are exchanged."
    )


def write_readme(path: Path, cells: Cells, budget: Budget) -> None:
    """Put the tables between the file's markers, and charts into docs/ beside it.

    Raises ValueError if the markers are not there.
    """
    text = path.read_text("utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{path} has no {BEGIN} with {END} after it; put both where the tables shall be.")
    path.write_text(f"{before}{begin}\n\n{tables(cells, budget)}\n\n{end}{after}", "utf-8", newline="\n")
    bare = cells.get("bare", {}).get("found")
    if not bare or not found(cells, ZERO):
        return
    named = {name: curves(cells, name, "depth") for name in networks(budget) if found(cells, name)}
    ends = {
        "no control": interval([bare["base"]["depth"]]).mean,
        "true picture": interval([bare["ceiling"]["depth"]]).mean,
    }
    joined = {spoken(name): curve for name, curve in named.items()}
    save(ablation_chart(joined, budget.steps, ends), path.parent / "docs" / "claims_ablation.png")
    save(convergence_chart(*named[ZERO]), path.parent / "docs" / "claims_convergence.png")

"""What is measured already: one JSON file for each finished cell, written whole or not at all."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cnet_core.training.shards import write_whole

# A cell by its name: the settings that it was measured with, and what was found.
Cells = dict[str, dict[str, Any]]


class Store:
    """Cells of a report file, and of a folder where each is a file as soon as it is finished.

    Several processes may work with one folder and one report.
    """

    def __init__(self, report: Path, folder: Path):
        self.report, self.folder = report, folder

    def cells(self) -> Cells:
        """All that there are, from the report and from the folder."""
        found: Cells = json.loads(self.report.read_text())["cells"] if self.report.exists() else {}
        for path in sorted(self.folder.glob("*.json")):
            found[path.stem] = json.loads(path.read_text())
        return dict(sorted(found.items()))

    def get(self, name: str, settings: Mapping[str, Any], measure: Callable[[], dict[str, Any]]) -> bool:
        """Measure a cell and write it, unless it is there with the same settings; whether it was measured."""
        settings = json.loads(json.dumps(dict(settings)))
        if self.cells().get(name, {}).get("settings") == settings:
            return False
        cell = {"settings": settings, "found": rounded(measure())}
        write_whole(self.folder / f"{name}.json", json.dumps(cell).encode())
        return True

    def write(self, summary: Mapping[str, Any]) -> None:
        """The report: a summary, and all cells, one on each line."""
        lines = ",\n".join(f"  {json.dumps(n)}: {json.dumps(cell)}" for n, cell in self.cells().items())
        head = json.dumps(dict(summary), indent=1)
        write_whole(self.report, f'{{\n "summary": {head},\n "cells": {{\n{lines}\n }}\n}}\n'.encode())


def rounded(value: Any) -> Any:
    """Four digits that count are more than any of these figures can tell."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {name: rounded(one) for name, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, (list, tuple)) else value

"""The shell of the annotators: `python -m annotators fetch NAME...` downloads their weights."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from . import weights
from .errors import AnnotatorError
from .registry import Annotator, WeightFile
from .table import find


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m annotators", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("fetch", help="download the weights of annotators")
    fetch.add_argument("names", nargs="+", metavar="NAME", help="ids of annotators, such as hed")
    fetch.add_argument(
        "--to",
        type=Path,
        metavar="DIR",
        help=f"the folder, by default the first of ${weights.FOLDERS_VARIABLE} or one in your cache",
    )
    options = parser.parse_args(arguments)
    try:
        for annotator in [find(name) for name in options.names]:
            fetched(annotator, options.to or weights.default_folders()[0])
    except AnnotatorError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def fetched(annotator: Annotator, folder: Path) -> None:
    """Download what an annotator lacks in a folder, with a bar for each file, and say where its files are."""
    bars: dict[WeightFile, tqdm] = {}

    def report(weight: WeightFile, came: int, expected: int) -> None:
        if weight not in bars:
            bars[weight] = tqdm(desc=weight.file, total=expected or None, unit="B", unit_scale=True)
        bars[weight].update(came - bars[weight].n)

    try:
        for path in weights.fetch(annotator, folder, report):
            print(path)
    finally:
        for bar in bars.values():
            bar.close()


if __name__ == "__main__":
    sys.exit(main())

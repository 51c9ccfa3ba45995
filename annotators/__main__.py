"""The shell of the annotators: `python -m annotators list`, `run` and `fetch`."""

import argparse
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any
from uuid import uuid4

from tqdm import tqdm

from . import files, weights, work
from .errors import AnnotatorError, ParameterError
from .fit import MODES, Size
from .registry import Annotator, WeightFile
from .table import ANNOTATORS, find

# What a list for programs says of annotators, beside parameters and weights.
_SAID = (
    "id", "title", "condition", "kind", "description", "convention", "makes", "batchable", "seedable",
    "masked", "suits", "extra", "aliases",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, by default the process's own. The exit status: 0, 1 if anything
    went wrong, 130 for Ctrl-C, 141 where nobody reads what it says."""
    options = _parser().parse_args(arguments)
    # Names of files may have letters that a terminal or a redirection lacks.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    failed: Exception | None = None
    try:
        status = {"list": _list, "run": _run, "fetch": _fetch}[options.command](options)
    except (AnnotatorError, OSError) as error:
        failed, status = error, 1
    except KeyboardInterrupt:
        print("interrupted; what is written is whole, and the same command goes on", file=sys.stderr)
        status = 130
    unsaid = _flush()
    if isinstance(failed, BrokenPipeError) or isinstance(unsaid, BrokenPipeError):
        # Whoever read has left.
        return 141
    if failed := failed or unsaid:
        print(failed, file=sys.stderr)
        return 1
    return status


def _flush() -> OSError | None:
    """Say what is left to say; why not, where the standard output cannot be written."""
    try:
        # Programs without a terminal have none.
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        # At its end Python would try once more.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return None


def _list(options: argparse.Namespace) -> int:
    if options.json:
        print(json.dumps([described(annotator) for annotator in ANNOTATORS.values()], indent=1))
        return 0
    for annotator in ANNOTATORS.values():
        needs = " (weights)" if annotator.weights else ""
        print(f"{annotator.id}: {annotator.condition}{needs}. {annotator.description}")
        for parameter in annotator.parameters:
            print(f"    {parameter.name}={parameter.default}  {parameter.tooltip}")
    return 0


def described(annotator: Annotator) -> dict[str, Any]:
    """An annotator without its functions, of what JSON can say."""
    return {
        **{name: getattr(annotator, name) for name in _SAID},
        "parameters": [
            {"type": type(one).__name__.lower(), **dataclasses.asdict(one)} for one in annotator.parameters
        ],
        "weights": [dataclasses.asdict(one) for one in annotator.weights],
    }


def _run(options: argparse.Namespace) -> int:
    annotator = find(options.name)
    values = annotator.checked(parsed(annotator, options.param))
    if values.get("mark") == "minus one":
        raise ParameterError(
            f"{annotator.id} marks with -1, which a picture file cannot hold: it would be black. Add "
            f"--param mark=black if the ControlNet takes black, or use the node {annotator.title} (CNet)."
        )
    pairs = files.collect(options.inputs, options.output)
    job = work.Job(
        annotator.id,
        values,
        options.size,
        options.resize,
        options.resolution,
        options.seed,
        options.device,
        options.dtype,
        options.extras,
        len(pairs) if values.get("span") == "sequence" else 0,
    )
    left = job.left(pairs)
    if others := [target for _, target in left if files.is_anothers(target)]:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise AnnotatorError(
            f"{others[0]}{more} would be written over, and was not made here; choose another OUTPUT_DIR, or "
            "delete it."
        )
    if left:
        _check_folder(options.output)
    spread = work.by_ray if options.workers == "ray" else work.in_turn
    failed = 0
    with tqdm(
        total=len(pairs), initial=len(pairs) - len(left), unit="picture", disable=sys.stderr is None
    ) as bar:
        for source, fault in spread(job, left):
            if fault is not None:
                failed += 1
                bar.write(f"{source}: {fault}", file=sys.stderr)
            bar.update()
    if failed:
        print(f"{failed} of {len(pairs)} pictures could not be annotated", file=sys.stderr)
    return 1 if failed else 0


def _check_folder(output: Path) -> None:
    """Raise AnnotatorError where nothing can be written, before anything is computed or made."""
    folders = (output, *output.absolute().parents)
    there = next((folder for folder in folders if os.path.exists(folder)), output)
    # Not by tempfile, which on Windows goes on for hours where it may not write; and a folder, because some
    # places may hold nothing else.
    probe = there / f".{uuid4().hex}.part"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise AnnotatorError(
            f"{output}, the last word, is where hints are written, and cannot be: {error.strerror}. Name a "
            "folder that can be written to."
        ) from error


def parsed(annotator: Annotator, words: Sequence[str]) -> dict[str, Any]:
    """The parameters that words like "low=50" set. Raises ParameterError."""
    known = {parameter.name: parameter for parameter in annotator.parameters}
    values: dict[str, Any] = {}
    for word in words:
        name, _, text = word.partition("=")
        if name not in known:
            raise ParameterError(
                f"{annotator.id} has no parameter {name!r}; it has {', '.join(known) or 'none'}."
            )
        values[name] = known[name].parse(text)
    return values


def _fetch(options: argparse.Namespace) -> int:
    for annotator in [find(name) for name in options.names]:
        fetched(annotator, options.to or weights.default_folders()[0])
    return 0


def fetched(annotator: Annotator, folder: Path) -> None:
    """Download what an annotator lacks, with a bar for each file, and say where its files are."""
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


def _size(text: str) -> Size:
    """(height, width) of "WIDTHxHEIGHT"."""
    try:
        width, height = map(int, text.lower().split("x"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected WIDTHxHEIGHT.") from error
    return height, width


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m annotators", description="From pictures to hints.")
    commands = parser.add_subparsers(dest="command", required=True)

    listed = commands.add_parser("list", help="which annotators there are, and their parameters")
    listed.add_argument("--json", action="store_true", help="all that is known of them, for programs")

    run = commands.add_parser(
        "run",
        help="annotate files, folders and globs",
        description=(
            "Annotate pictures into a folder, each below it as it lay below its own. What is there, made of "
            "the same picture by the same settings, is left as it is, so a run that ended early goes on. By "
            "--param span=sequence all pictures are one sequence of one size, which is annotated as a whole, "
            "in memory."
        ),
    )
    run.add_argument("name", metavar="NAME", help="id of an annotator, such as canny")
    run.add_argument("inputs", nargs="+", metavar="INPUT", help="a picture, a folder, or a quoted glob")
    run.add_argument("output", type=Path, metavar="OUTPUT_DIR")
    run.add_argument("--param", action="append", default=[], metavar="K=V", help="a parameter, see list")
    run.add_argument("--size", type=_size, metavar="WxH", help="of the hints, by default the pictures' own")
    run.add_argument("--resize", choices=MODES, default="crop", help="how pictures are fitted to --size")
    run.add_argument("--resolution", type=int, metavar="N", help="short side at which pictures are looked at")
    run.add_argument("--seed", type=int, default=0, help="with a file's name, what its chances come from")
    run.add_argument("--device", help="where a network runs, by default cuda where there is one")
    run.add_argument("--dtype", choices=work.DTYPES, default="float32", help="how a network computes")
    run.add_argument(
        "--extras",
        action="store_true",
        help="also write depth, labels and masks (.npy), lines and keypoints (.json)",
    )
    run.add_argument("--workers", choices=["ray"], help="spread the pictures over a Ray cluster")

    fetch = commands.add_parser("fetch", help="download the weights of annotators that are nowhere yet")
    fetch.add_argument("names", nargs="+", metavar="NAME", help="ids of annotators, such as hed")
    fetch.add_argument(
        "--to",
        type=Path,
        metavar="DIR",
        help=(
            f"the folder, by default the first of ${weights.FOLDERS_VARIABLE}, that of the ComfyUI in which "
            "the pack lies, or one in your cache"
        ),
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""The command line of the annotators: `python -m annotators list`, `run` and `fetch`."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import files
from .errors import AnnotatorError, ParameterError
from .fit import MODES
from .registry import Annotator
from .run import annotate
from .table import ANNOTATORS, find


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line (by default the process's own); the exit status."""
    arguments = _parser().parse_args(words)
    try:
        return {"list": _list, "run": _run, "fetch": _fetch}[arguments.command](arguments)
    except AnnotatorError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _list(arguments: argparse.Namespace) -> int:
    if arguments.json:
        print(json.dumps([_described(annotator) for annotator in ANNOTATORS.values()], indent=1))
        return 0
    for annotator in ANNOTATORS.values():
        weights = "weights" if annotator.weights else ""
        print(f"{annotator.id:20} {annotator.condition:15} {weights:8} {annotator.description}")
        for parameter in annotator.parameters:
            print(f"    {parameter.name}={parameter.default}  {parameter.tooltip}")
    return 0


def _described(annotator: Annotator) -> dict[str, Any]:
    """An annotator without its functions."""
    names = ("id", "title", "condition", "kind", "description", "convention", "makes", "batchable")
    names += ("seedable", "masked", "suits", "extra")
    return {
        **{name: getattr(annotator, name) for name in names},
        "parameters": [
            {"type": type(one).__name__.lower(), **dataclasses.asdict(one)} for one in annotator.parameters
        ],
        "weights": [dataclasses.asdict(one) for one in annotator.weights],
    }


def _run(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    annotator = find(arguments.name)
    values = annotator.checked(_values(annotator, arguments.param))
    net = None
    if annotator.build is not None:
        import torch

        from . import weights

        net = weights.build(annotator)
        if net is not None:
            net = net.to(arguments.device or "cpu", getattr(torch, arguments.dtype))
    failed = 0
    for source, below in tqdm(files.collect(arguments.inputs), unit="picture", disable=arguments.quiet):
        target = Path(arguments.output, below)
        try:
            settings = files.settings_of(
                source,
                annotator=annotator.id,
                values=values,
                size=arguments.size,
                resize=arguments.resize,
                resolution=arguments.resolution,
                seed=arguments.seed,
                extras=arguments.extras,
                dtype=arguments.dtype,
            )
            if files.is_done(source, target, settings):
                continue
            hints = annotate(
                annotator,
                files.read(source),
                values,
                net=net,
                seed=arguments.seed,
                size=arguments.size,
                resize=arguments.resize,
                resolution=arguments.resolution,
            )
            files.write(hints, target, settings, arguments.extras)
        except (AnnotatorError, OSError) as error:
            failed += 1
            tqdm.write(f"error: {source}: {error}", file=sys.stderr)
    return 1 if failed else 0


def _values(annotator: Annotator, words: Sequence[str]) -> dict[str, Any]:
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


def _fetch(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from . import weights

    folder = arguments.to or weights.default_folders()[0]
    for name in arguments.names:
        with tqdm(unit="B", unit_scale=True) as bar:

            def report(weight: Any, came: int, expected: int, bar: Any = bar) -> None:
                bar.set_description(weight.file)
                bar.total = expected or None
                bar.n = came
                bar.refresh()

            for path in weights.fetch(find(name), folder, report):
                tqdm.write(str(path))
    return 0


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    try:
        return int(height), int(width)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected WIDTHxHEIGHT.") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m annotators", description="From pictures to hints.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    listed = commands.add_parser("list", help="what annotators there are, and their parameters")
    listed.add_argument("--json", action="store_true", help="for programs")
    run = commands.add_parser(
        "run",
        help="annotate files, folders and globs into a folder",
        description="Annotate pictures. What is done with the same settings is left as it is.",
    )
    run.add_argument("name", metavar="NAME", help="an annotator of `list`")
    run.add_argument("inputs", nargs="+", metavar="INPUT", help="a picture, a folder of them, or a glob")
    run.add_argument("output", metavar="OUTPUT_DIR")
    run.add_argument("--param", action="append", default=[], metavar="K=V", help="a parameter, see `list`")
    run.add_argument("--size", type=_size, metavar="WxH", help="exact size of the hints")
    run.add_argument("--resize", choices=MODES, default="crop", help="how a hint is fitted to --size")
    run.add_argument("--resolution", type=int, metavar="PIXELS", help="short side at which to look")
    run.add_argument("--seed", type=int, default=0, help="for annotators that draw lots")
    run.add_argument("--device", help="where a network runs, such as cuda")
    run.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    run.add_argument("--extras", action="store_true", help="also depth, labels, masks, lines, keypoints")
    run.add_argument("--quiet", action="store_true", help="no progress bar")
    fetch = commands.add_parser("fetch", help="download the weights of annotators")
    fetch.add_argument("names", nargs="+", metavar="NAME")
    fetch.add_argument(
        "--to", metavar="FOLDER", help="where to; by default the first folder that is searched"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

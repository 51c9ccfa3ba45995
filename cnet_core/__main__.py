"""The command line of the kernels: `python -m cnet_core inspect FILE`."""

import argparse
import glob
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from .checkpoints.inspect import inspect
from .checkpoints.text import printable
from .errors import CNetError
from .shell import ended, escape_what_cannot_be_printed


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line (by default the process's own); the exit status."""
    arguments = _parser().parse_args(words)
    escape_what_cannot_be_printed()
    return ended(lambda: _inspect(arguments))


def _inspect(arguments: argparse.Namespace) -> int:
    broken = False
    for number, path in enumerate(_files(arguments.files)):
        try:
            found = inspect(path)
        except (CNetError, OSError) as error:
            broken = True
            if arguments.json:
                print(json.dumps({"path": str(path), "error": str(error)}))
            else:
                print(f"error: {printable(error, None)}", file=sys.stderr)
            continue
        if arguments.json:
            print(found.to_json())
        else:
            print(found.to_text() if number == 0 else "\n" + found.to_text())
    return 1 if broken else 0


def _files(given: Sequence[str]) -> Iterator[Path]:
    """The files of names and globs, which Windows' shells hand on as they are."""
    for name in given:
        # Brackets are parts of names.
        found = [] if os.path.exists(name) else sorted(glob.glob(name.replace("[", "[[]")))
        yield from map(Path, found or [name])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cnet_core", description="CNet without nodes.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    found = commands.add_parser(
        "inspect",
        help="say what checkpoint files are, and who loads them",
        description=(
            "Say what checkpoint files are, by their content and whatever their names: family, base model, "
            "precision, parameters, hint channels, the types of a union ControlNet, metadata, and which node "
            "loads them. Weights are not read, and nothing in a file is run. Exits with 1 if a file is "
            "missing, damaged or no checkpoint."
        ),
    )
    found.add_argument(
        "files", nargs="+", metavar="FILE", help=".safetensors, .pth, .pt, .ckpt or .bin, or a glob"
    )
    found.add_argument(
        "--json",
        action="store_true",
        help="one JSON object per file and line, with metadata uncut; broken files have an 'error' instead",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

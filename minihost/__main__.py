"""Command line: run a workflow, convert it, or describe nodes.

python -m minihost run workflows/pose_depth.json --output out/
python -m minihost convert workflows/pose_depth.json
python -m minihost object-info CNetApply
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any
from uuid import uuid4

from .errors import MinihostError, NodeError, WorkflowError
from .loader import PACK

CANCELLED = 130
# As of a program that the system ends because nobody reads what it says.
UNHEARD = 141
# What nodes raise on purpose. Anything else is a fault of the program, and its trace is worth showing.
EXPECTED = (ValueError, OSError, MinihostError)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m minihost", description="Runs CNet workflows without ComfyUI."
    )
    parser.add_argument(
        "--pack", type=Path, default=PACK, help="directory of the node pack (default: this one)"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run a workflow and save its pictures")
    run.add_argument("file", type=Path, help="workflow: UI or API format JSON, or a PNG that holds one")
    run.add_argument(
        "--output",
        type=Path,
        default=Path("out"),
        help="folder for saved pictures, previews in its temp (default: out)",
    )
    run.add_argument(
        "--input", type=Path, default=None, help="folder of Load Image (default: workflows/inputs)"
    )
    convert = commands.add_parser("convert", help="print a workflow in API format")
    convert.add_argument("file", type=Path)
    info = commands.add_parser("object-info", help="print the nodes' descriptions as the host's /object_info")
    info.add_argument("nodes", nargs="*", metavar="NODE", help="node ids (default: all)")
    return parser


@contextmanager
def cancel_on_interrupt() -> Iterator[None]:
    """Within, the first Ctrl-C stops the run at its next step, a second one at once."""
    from .shims import model_management

    def handler(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("\nCancelling after this step; Ctrl-C again stops at once.", file=sys.stderr)
        model_management.interrupt_current_processing()

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run(options: argparse.Namespace) -> int:
    from . import shims
    from .graph import Executor
    from .loader import load_nodes, object_info
    from .nodes_core import saved_paths
    from .shims.model_management import InterruptProcessingException
    from .validate import label
    from .workflow import is_ui, read_workflow, to_prompt

    workflow = read_workflow(options.file)
    # Before anything is computed or made.
    folders = (options.output, *options.output.absolute().parents)
    there = next((folder for folder in folders if os.path.exists(folder)), options.output)
    # Not by tempfile, which on Windows goes on for hours where it may not write; and a folder, because some
    # places may hold nothing else.
    probe = there / f".{uuid4().hex}.tmp"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise WorkflowError(
            f"pictures cannot be saved in {options.output}: {error.strerror}; name a folder by --output"
        ) from None
    shims.folder_paths.set_directory("output", options.output)
    shims.folder_paths.set_directory("temp", options.output / "temp")
    shims.folder_paths.set_directory("input", options.input or options.pack / "workflows" / "inputs")
    nodes = load_nodes(options.pack)
    prompt = to_prompt(workflow, object_info(nodes))
    started = time.perf_counter()
    executor = Executor(nodes, on_node=lambda label: print(label, file=sys.stderr))
    try:
        with cancel_on_interrupt():
            result = executor.run(prompt, workflow if is_ui(workflow) else None)
    except InterruptProcessingException:
        raise KeyboardInterrupt from None
    for node_id, shown in result.ui.items():
        for text in shown.get("text", ()):
            print(f"{label(prompt, node_id)}: {text}", file=sys.stderr)
    for why in result.blocked:
        print(why, file=sys.stderr)
    for path in saved_paths(result.ui):
        print(path)
    print(f"Done in {time.perf_counter() - started:.1f} s.", file=sys.stderr)
    return 0


def convert(options: argparse.Namespace) -> int:
    from .loader import load_nodes, object_info
    from .workflow import read_workflow, to_prompt

    prompt = to_prompt(read_workflow(options.file), object_info(load_nodes(options.pack)))
    # In ASCII: what is redirected into a file may be written in the system's own encoding.
    print(json.dumps(prompt, indent=2))
    return 0


def describe(options: argparse.Namespace) -> int:
    from .loader import load_nodes, object_info

    info = object_info(load_nodes(options.pack))
    unknown = [node for node in options.nodes if node not in info]
    if unknown:
        raise WorkflowError(f"unknown node type '{unknown[0]}'; known are {', '.join(info)}")
    print(json.dumps({node: info[node] for node in options.nodes or info}, indent=2))
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run a command; 0 on success, 1 when the workflow cannot run, 130 when cancelled, 141
    when nobody reads what it says."""
    options = arguments().parse_args(argv)
    # Names of files may have letters that a terminal or a redirection lacks.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    status = 1
    try:
        status = {"run": run, "convert": convert, "object-info": describe}[options.command](options)
    except WorkflowError as error:
        for problem in error.problems:
            print(f"Error: {problem}", file=sys.stderr)
    except MinihostError as error:
        if isinstance(error, NodeError) and not isinstance(error.__cause__, EXPECTED):
            traceback.print_exception(error.__cause__)
        print(f"Error: {error}", file=sys.stderr)
    except RecursionError:
        print("Error: the workflow has a chain of nodes that is too long for minihost", file=sys.stderr)
    except BrokenPipeError:
        # Whoever read has left.
        status = UNHEARD
    except OSError as error:
        print(f"Error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("Cancelled.", file=sys.stderr)
        status = CANCELLED
    unsaid = flush()
    if status == UNHEARD or isinstance(unsaid, BrokenPipeError):
        return UNHEARD
    if unsaid is not None:
        print(f"Error: {unsaid}", file=sys.stderr)
        return 1
    return status


def flush() -> OSError | None:
    """Say what is left to say; why not, where the standard output cannot be written."""
    try:
        # Programs without a terminal have none.
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        # At its end Python would try once more.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return None


if __name__ == "__main__":
    sys.exit(main())

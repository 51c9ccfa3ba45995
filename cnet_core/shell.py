"""What the command lines have in common."""

import contextlib
import os
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from io import TextIOWrapper

from .errors import CNetError


def escape_what_cannot_be_printed() -> None:
    """Let the process's streams escape what their encoding lacks, as a terminal's may of names of files and
    metadata, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def ended(command: Callable[[], int | None]) -> int:
    """Run a command; its exit status, 0 where it gives none, 1 for an error of ours or the system's, which is
    printed, 130 for Ctrl-C, 141 where nobody reads what it says."""
    failed: Exception | None = None
    try:
        status = command() or 0
    except (CNetError, OSError) as error:
        failed, status = error, 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    unsaid = _flush()
    if isinstance(failed, BrokenPipeError) or isinstance(unsaid, BrokenPipeError):
        # Whoever read has left.
        return 141
    if failed := failed or unsaid:
        print(f"error: {failed}", file=sys.stderr)
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


def install(package: str) -> str:
    """The command that installs a package for this Python, which may be one of uv's, without pip."""
    # PowerShell takes what begins with a quote for a text.
    python = f'"{sys.executable}"' if " " in sys.executable else sys.executable
    try:
        # Its files are looked for, not the module: setuptools changes distutils for whoever looks for that.
        distribution("pip")
    except PackageNotFoundError:
        return f'python -m uv pip install --python {python} "{package}"'
    return f'{python} -m pip install "{package}"'

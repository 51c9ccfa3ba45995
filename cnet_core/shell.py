"""What the command lines have in common."""

import sys
from io import TextIOWrapper


def escape_what_cannot_be_printed() -> None:
    """Let the process's streams escape what their encoding lacks, as a terminal's may of names of files and
    metadata, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

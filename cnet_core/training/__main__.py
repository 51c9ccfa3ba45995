"""The shell of training: `python -m cnet_core.training validate`, `cache`, `fit`, `resume` and `export`."""

import argparse
from collections.abc import Sequence

from ..shell import ended, escape_what_cannot_be_printed
from .data_commands import add_data_commands
from .fit_commands import add_fit_commands
from .processes import leave

_ABOUT = """\
Train a ControlNet, from a folder of pictures to a file for ComfyUI:

  python -m cnet_core.training validate pictures --sheet sheet.jpg
  python -m cnet_core.training cache pictures --out cache --encoders demo/weights --resolution 128
  python -m cnet_core.training fit --cache cache --base demo/weights/unet.safetensors --out runs/mine

`COMMAND --help` explains each of them.
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line, by default the process's own; its exit status: 1 for an error, 130 for Ctrl-C."""
    flags = _parser().parse_args(words)
    escape_what_cannot_be_printed()
    return ended(lambda: int(flags.run(flags)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cnet_core.training",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_data_commands(commands)
    add_fit_commands(commands)
    return parser


if __name__ == "__main__":
    leave(main())

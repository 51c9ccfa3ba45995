"""The shell's `validate` and `cache`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..errors import DataError
from .cache import Preparation, build
from .data import LAYOUTS, Dataset, read_folder
from .encoders import MiniEncoders
from .pictures import HINT_KINDS
from .validate import contact_sheet, spread_over, validate

_SHEET_ROWS = 8


def add_data_commands(commands: Any) -> None:
    """Add `validate` and `cache` to an argparse subparsers object; `run` of each is the exit status."""
    check = _command(
        commands,
        "validate",
        help="name everything that is wrong with training data, before anything is computed",
        description=(
            "Read all pairs of a folder and name every orphan, unreadable file, size or aspect that does not "
            "fit, caption in another encoding and empty caption, and with --mirror every skeleton that "
            "cannot be mirrored. Exits with 1 if a pair cannot be trained on."
        ),
    )
    check.add_argument("--json", action="store_true", help="the report as one JSON object")
    check.add_argument(
        "--sheet",
        type=Path,
        metavar="FILE",
        help=f"write a contact sheet: picture, hint and caption of {_SHEET_ROWS} pairs (.jpg or .png)",
    )
    check.set_defaults(run=_validate)
    cache = _command(
        commands,
        "cache",
        help="encode training data once, so that training need not",
        description=(
            "Validate a folder, then write latents, texts and hints into a cache folder, from which `fit` "
            "trains. Run again after a change, it encodes only what changed; interrupted, it goes on. With "
            "the mini checkpoints' encoders; for Stable Diffusion, cache in ComfyUI with the node Cache "
            "Training Data, and train from that folder here or there."
        ),
    )
    cache.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the cache folder")
    cache.add_argument(
        "--encoders",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="autoencoder.safetensors and text_encoder.safetensors, such as demo/weights",
    )
    cache.add_argument(
        "--annotator",
        default="",
        metavar="NAME",
        help="what made the hints, in any words; it is written into the trained network's file",
    )
    cache.add_argument(
        "--skip-broken", action="store_true", help="leave out pairs that cannot be trained on, naming them"
    )
    cache.set_defaults(run=_cache)


def _command(commands: Any, name: str, **texts: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, epilog=LAYOUTS, formatter_class=argparse.RawDescriptionHelpFormatter, **texts
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="the folder, in one of the layouts below")
    parser.add_argument(
        "--resolution",
        type=int,
        default=512,
        help="side of the square bucket in pixels: 512 for SD1.5, 768 for SD2.x, 1024 for SDXL, 128 for the "
        "mini model (default: %(default)s)",
    )
    parser.add_argument(
        "--multiple",
        type=int,
        default=64,
        help="all sides are multiples of it: 8 x 2 to the halvings in the UNet (default: %(default)s)",
    )
    parser.add_argument(
        "--hint-kind",
        choices=HINT_KINDS,
        help=(
            "what the hints show; areas (segmentation) are scaled without mixing colours; normals have x in "
            "red (BAE, OpenGL), midas_normals in blue (MiDaS, of the first release); needed to mirror"
        ),
    )
    parser.add_argument(
        "--mirror",
        action="store_true",
        help=(
            "train on each pair mirrored too. Normals turn their x, skeletons change left and right, which "
            "needs exact OpenPose colours (PNG, no smoothing, hands clear of legs). Not for pictures with "
            "writing"
        ),
    )
    return parser


def _preparation(arguments: argparse.Namespace) -> Preparation:
    return Preparation(arguments.resolution, arguments.multiple, arguments.hint_kind, arguments.mirror)


def _validate(arguments: argparse.Namespace) -> int:
    sound, report = validate(read_folder(arguments.data), _preparation(arguments))
    print(report.to_json() if arguments.json else report.to_text())
    if arguments.sheet is not None:
        write_sheet(sound, arguments.sheet)
    return 1 if report.fatal or not report.sound else 0


def write_sheet(dataset: Dataset, path: Path) -> None:
    """The contact sheet of a dataset as a picture file. Raises DataError if it cannot be written."""
    rows = [(p.picture(), p.control(), p.caption) for p in spread_over(dataset.pairs, _SHEET_ROWS)]
    try:
        contact_sheet(rows).save(path, quality=90)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be written: {error}. Name a .jpg or .png in a folder.") from error


def _cache(arguments: argparse.Namespace) -> int:
    preparation, encoders = _preparation(arguments), MiniEncoders(arguments.encoders)
    sound, report = validate(read_folder(arguments.data), preparation)
    print(report.to_text(), file=sys.stderr)
    if not arguments.skip_broken or not report.sound:
        report.raise_if_unfit()
    with tqdm(unit="pair", disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        cache = build(
            sound,
            encoders,
            arguments.out,
            preparation,
            progress=progress,
            say=lambda message: print(message, file=sys.stderr),
            annotator=arguments.annotator,
        )
    print(f"{arguments.out}: {len(cache)} examples, data {cache.manifest.data_hash}")
    return 0

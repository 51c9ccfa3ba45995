"""Pictures and captions of scenes as a folder to practise training on: `python -m demo.pairs FOLDER`."""

import argparse
import sys
from pathlib import Path

from PIL import Image

from cnet_core.errors import DataError
from cnet_core.shell import ended
from demo.scenes import draw_scene

# Far from the seeds that the mini checkpoints were trained on and are measured by, see demo/train.py.
FIRST_SEED = 500_000_000


def write(folder: Path, count: int) -> None:
    """`count` scenes as images/NUMBER.png and captions/NUMBER.txt, without hints, in a new or empty folder.

    Raises DataError for a folder that holds anything.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise DataError(f"{folder} is there, and what it holds could be written over; name a new folder.")
    for kind in ("images", "captions"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        scene = draw_scene(FIRST_SEED + number)
        Image.fromarray(scene.image).save(folder / "images" / f"{number:05}.png")
        (folder / "captions" / f"{number:05}.txt").write_text(scene.caption + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.pairs", description=__doc__)
    parser.add_argument("folder", type=Path, help="a new or an empty one")
    parser.add_argument("--count", type=int, default=500, help="scenes (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.count < 1:
        parser.error(f"--count is {arguments.count}; expected 1 or more")
    sys.exit(ended(lambda: write(arguments.folder, arguments.count)))


if __name__ == "__main__":
    main()

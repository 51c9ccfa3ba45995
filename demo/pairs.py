"""Pictures and captions of scenes as a folder to practise training on: `python -m demo.pairs FOLDER`."""

import argparse
from pathlib import Path

from PIL import Image

from demo.scenes import draw_scene

# Far from the seeds that the mini checkpoints were trained on and are measured by, see demo/train.py.
FIRST_SEED = 500_000_000


def write(folder: Path, count: int) -> None:
    """`count` scenes as images/NUMBER.png and captions/NUMBER.txt, without hints."""
    for kind in ("images", "captions"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        scene = draw_scene(FIRST_SEED + number)
        Image.fromarray(scene.image).save(folder / "images" / f"{number:05}.png")
        (folder / "captions" / f"{number:05}.txt").write_text(scene.caption + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.pairs", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=500, help="scenes (default: %(default)s)")
    arguments = parser.parse_args()
    write(arguments.folder, arguments.count)


if __name__ == "__main__":
    main()

"""How well the mini checkpoints follow their control: `uv run python -m demo.report --json`.

Held-out scenes (their seeds are never trained on) are drawn from their captions, which give colours only.
Figures, higher is better, means over the scenes:

pose   intersection over union of the drawn figure with the true silhouette
depth  rank correlation of the depth that the drawn mist shows with the true depth
canny  F1 of the drawn edges against the true ones, two pixels of tolerance

none      without control: what a scene of the same colours scores by chance
control   with the scene's own hint
shuffled  with the hint of another scene, still measured against this one: should be no better than none
ceiling   the true picture through the autoencoder: the best that the frozen base could possibly draw
truth     the true picture itself

Settings are chosen on other scenes than those that are reported. For the guidance, run this at a few values
and take the one with the highest mean of "closed" over pose, depth and canny:

    uv run python -m demo.report -n 16 --first-seed 10000 --guidance 3
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from cnet_core.fidelity import depth_rank_correlation, edge_f1, limb_iou
from cnet_core.shell import ended
from demo.make import HERE
from demo.sample import GUIDANCE, MiniSD
from demo.scenes import HAZE, PALETTE, SIZE, Scene, draw_scene
from demo.train import FIRST_TRAINING_SEED, FIRST_VALIDATION_SEED, HINTS

MEASURES: dict[str, Callable[[np.ndarray, Scene], float]] = {
    "pose": lambda image, scene: limb_iou(
        image, scene.figure_mask, scene.figure_colour, list(PALETTE.values()), HAZE
    ),
    "depth": lambda image, scene: depth_rank_correlation(image, scene.depth, HAZE),
    "canny": lambda image, scene: edge_f1(image, scene.edges),
}


def hint_of(kind: str, scenes: Sequence[Scene]) -> Tensor:
    return torch.from_numpy(np.stack([HINTS[kind](scene) for scene in scenes])).float() / 255


def report(
    mini: MiniSD, scenes: Sequence[Scene], seed: int = 0, guidance: float = GUIDANCE
) -> tuple[dict, dict[str, Tensor]]:
    """(figures, pictures by condition) for some held-out scenes."""
    truth = torch.from_numpy(np.stack([scene.image for scene in scenes])).float() / 255
    captions = [scene.caption for scene in scenes]
    others = [*scenes[1:], scenes[0]]

    def draw(hints: dict[str, Tensor]) -> Tensor:
        return mini.draw(captions, hints, SIZE, seed, guidance=guidance)

    def score(kind: str, images: Tensor) -> float:
        pairs = zip(images.numpy(), scenes, strict=True)
        return round(float(np.mean([MEASURES[kind](image, scene) for image, scene in pairs])), 4)

    pictures = {"truth": truth, "ceiling": mini.reconstruct(truth), "none": draw({})}
    figures: dict = {"n": len(scenes)}
    for kind in mini.controls:
        pictures[kind] = draw({kind: hint_of(kind, scenes)})
        shuffled = draw({kind: hint_of(kind, others)})
        row = {name: score(kind, pictures[name]) for name in ("none", "ceiling", "truth")}
        row |= {"control": score(kind, pictures[kind]), "shuffled": score(kind, shuffled)}
        figures[kind] = row | {"closed": closed(row, row["control"])}
    if {"pose", "depth"} <= mini.controls.keys():
        both = pictures["pose+depth"] = draw({kind: hint_of(kind, scenes) for kind in ("pose", "depth")})
        figures["pose+depth"] = {kind: score(kind, both) for kind in ("pose", "depth")}
        figures["pose+depth"]["closed"] = {
            kind: closed(figures[kind], figures["pose+depth"][kind]) for kind in ("pose", "depth")
        }
    return figures, pictures


def closed(row: dict, value: float) -> float:
    """The share of the gap between no control and the ceiling that a value closes."""
    return round((value - row["none"]) / (row["ceiling"] - row["none"]), 4)


def sheet(pictures: dict[str, Tensor], scenes: Sequence[Scene], count: int) -> np.ndarray:
    """uint8 [H,W,3]: a column per scene, hints and drawings as rows, each named on its left."""
    rows = {f"{kind} hint": hint_of(kind, scenes) for kind in HINTS}
    rows |= {f"with {name}" if name in HINTS else name: images for name, images in pictures.items()}
    bands = []
    for name, images in rows.items():
        if name in ("truth", "ceiling"):
            continue
        label = np.full((SIZE, SIZE, 3), 255, np.uint8)
        for line, word in enumerate(name.replace("none", "no control").split(" ")):
            place = (8, SIZE // 2 + 20 * line)
            cv2.putText(label, word, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 40, 40), 1, cv2.LINE_AA)
        drawn = [(image * 255).round().astype(np.uint8) for image in images.numpy()[:count]]
        bands.append(np.hstack([label, *drawn]))
    return np.vstack(bands)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m demo.report",
        description="Measure how well the mini checkpoints follow their control.",
    )
    parser.add_argument("-n", type=int, default=24, help="held-out scenes (default: 24, about a minute)")
    parser.add_argument(
        "--first-seed",
        type=int,
        default=0,
        help=f"first scene: 0 (default) to report, {FIRST_VALIDATION_SEED} to choose settings",
    )
    parser.add_argument("--guidance", type=float, default=GUIDANCE, help=f"default: {GUIDANCE:g}")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON only")
    parser.add_argument("--weights", type=Path, default=HERE / "weights", help="folder of the weights")
    parser.add_argument("--sheet", type=Path, help="write a picture of hints and drawings here (.png, .jpg)")
    args = parser.parse_args()
    if args.n < 2:
        parser.error(f"-n is {args.n}; expected 2 or more, so that hints can be exchanged")
    if not 0 <= args.first_seed <= FIRST_TRAINING_SEED - args.n:
        parser.error(f"scenes from {FIRST_TRAINING_SEED} on are those of the trainings")
    if args.sheet and args.sheet.suffix not in (".png", ".jpg"):
        parser.error(f"--sheet is {args.sheet}; expected a name that ends in .png or .jpg")
    sys.exit(ended(lambda: _measure(args)))


def _measure(args: argparse.Namespace) -> None:
    scenes = [draw_scene(seed) for seed in range(args.first_seed, args.first_seed + args.n)]
    figures, pictures = report(MiniSD.load(args.weights), scenes, guidance=args.guidance)
    if args.json:
        print(json.dumps(figures))
    else:
        for name, row in figures.items():
            print(f"{name}: {row}")
    # After the figures, which took the time.
    if args.sheet:
        args.sheet.parent.mkdir(parents=True, exist_ok=True)
        args.sheet.write_bytes(
            cv2.imencode(args.sheet.suffix, cv2.cvtColor(sheet(pictures, scenes, 8), cv2.COLOR_RGB2BGR))[1]
        )


if __name__ == "__main__":
    main()

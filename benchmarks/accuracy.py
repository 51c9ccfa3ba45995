"""How right annotators are where the truth is known: `python -m benchmarks.accuracy`, on the demo's scenes.

Of edges and lines: precision, the share of what is lit that lies within two pixels of a true outline; recall,
the share of the outlines within two pixels of what is lit; and F1, their harmonic mean. Of normals: the angle
to those of the scene's depth drawn four times as large. Annotators with weights take part where these are
found.
"""

import argparse
from collections.abc import Sequence

import cv2
import numpy as np
import torch

from annotators import weights
from annotators.errors import WeightsError
from annotators.run import annotate
from annotators.table import ANNOTATORS, find
from cnet_core.fidelity import grown
from demo.scenes import HAZE, PALETTE, Scene, draw_scene

CONDITIONS = ("canny", "lines", "soft edge", "scribble", "line art", "anime line art")
# A jump of the depth (1 near, 0 far) that is an outline, and the depth behind which mist hides colours.
_JUMP, _HIDDEN = 0.05, 0.1
# How many pixels an outline and a line may be apart.
_APART = 2
# How much larger scenes are drawn for the true normals.
FINER = 4


def edges(name: str, scenes: Sequence[Scene]) -> tuple[float, float, float]:
    """Precision, recall and F1 of an annotator of edges. Raises WeightsError where it lacks its weights."""
    lit = annotate(find(name), pictures(scenes), net=weights.build(find(name))).image[..., 0].numpy() > 0.5
    true = np.stack([outlines(scene) for scene in scenes])
    precision, recall = float(_near(true)[lit].mean()), float(_near(lit)[true].mean())
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-9)


def outlines(scene: Scene) -> np.ndarray:
    """Where a scene's things end, bool [H,W], some 3 pixels wide: where its depth jumps or another colour of
    the palette begins, whatever light and mist make of it. Creases, folds and shadows are none."""
    t = scene.depth
    seen = np.maximum(t, _HIDDEN)[..., None]
    palette = np.array(list(PALETTE.values()), np.float32)
    palette /= np.linalg.norm(palette, axis=1, keepdims=True)
    colours = (scene.image / np.float32(255) - (1 - seen) * HAZE) / seen @ palette.T
    square = np.ones((3, 3), np.uint8)
    ends: np.ndarray = cv2.morphologyEx(colours.argmax(2).astype(np.uint8), cv2.MORPH_GRADIENT, square) > 0
    ends &= cv2.erode(t, square) > _HIDDEN
    bend = np.array([[1, -2, 1]], np.float32)
    # The slope of a surface is no jump.
    for kernel in (bend, bend.T):
        ends |= np.abs(cv2.filter2D(t, -1, kernel, borderType=cv2.BORDER_REPLICATE)) > _JUMP
    return ends


def normals(scenes: Sequence[Scene], finer: Sequence[Scene], bits: int) -> np.ndarray:
    """By how many degrees Normals from Depth is off at each pixel that is not at an outline, given the depth
    in so many bits, or with 0 as it is. finer: the same scenes, FINER times as large."""
    depth = torch.from_numpy(np.stack([scene.depth for scene in scenes]))[..., None]
    most = 2**bits - 1
    depth = (depth * most).round() / most if bits else depth
    made = annotate(find("depth_normals"), depth, {"axes": "BAE"}).image.numpy() * 2 - 1
    return _angles(made, scenes, finer)


def facing(scenes: Sequence[Scene], finer: Sequence[Scene]) -> np.ndarray:
    """The same for a picture that says that everything faces the viewer."""
    size = len(scenes[0].depth)
    made = np.broadcast_to(np.array([0.0, 0.0, 1.0]), (len(scenes), size, size, 3))
    return _angles(made, scenes, finer)


def _angles(made: np.ndarray, scenes: Sequence[Scene], finer: Sequence[Scene]) -> np.ndarray:
    true = np.stack([_true_normals(scene.depth) for scene in finer])
    smooth = ~_near(np.stack([outlines(scene) for scene in scenes]))
    cosine = (made * true).sum(-1) / np.linalg.norm(made, axis=-1) / np.linalg.norm(true, axis=-1)
    return np.degrees(np.arccos(cosine.clip(-1, 1)))[smooth]


def _true_normals(depth: np.ndarray) -> np.ndarray:
    """Vectors (left, up, to the viewer) of a depth map FINER times as large, which is as deep as wide."""
    down, right = np.gradient(depth, 1 / len(depth))
    vectors = np.stack([right, down, np.ones_like(depth)], 2)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    size = len(depth) // FINER
    return cv2.resize(vectors, (size, size), interpolation=cv2.INTER_AREA)


def pictures(scenes: Sequence[Scene]) -> torch.Tensor:
    """The scenes' pictures [N,H,W,3] in 0..1."""
    return torch.from_numpy(np.stack([scene.image for scene in scenes]).astype(np.float32) / 255)


def _near(maps: np.ndarray) -> np.ndarray:
    """Maps [N,H,W], bool, grown by _APART pixels."""
    return np.stack([grown(one, _APART) for one in maps])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--scenes", type=int, default=48)
    parser.add_argument("--size", type=int, default=256, help="sides of the scenes")
    options = parser.parse_args()
    scenes = [draw_scene(seed, options.size) for seed in range(options.scenes)]
    print("| edges | precision | recall | F1 |\n| --- | --- | --- | --- |")
    for annotator in ANNOTATORS.values():
        # What takes a drawing as it is finds nothing by itself.
        if annotator.condition not in CONDITIONS or annotator.id == "drawing":
            continue
        try:
            scores = edges(annotator.id, scenes)
        except WeightsError:
            continue
        print(f"| {annotator.title} | {' | '.join(f'{score:.3f}' for score in scores)} |", flush=True)
    finer = [draw_scene(seed, FINER * options.size) for seed in range(options.scenes)]
    print("\n| normals | mean, degrees | median | within 11.25 |\n| --- | --- | --- | --- |")
    for title, angles in (
        ("Normals from Depth, of 8 bits", normals(scenes, finer, 8)),
        ("Normals from Depth, of floats", normals(scenes, finer, 0)),
        ("everything faces the viewer", facing(scenes, finer)),
    ):
        within = f"{(angles < 11.25).mean():.1%}"
        print(f"| {title} | {angles.mean():.2f} | {np.median(angles):.2f} | {within} |", flush=True)


if __name__ == "__main__":
    main()

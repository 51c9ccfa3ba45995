"""How right annotators are where the truth is known: `python -m benchmarks.accuracy`, on the demo's scenes.

Of edges and lines: precision, the share of what is lit that lies within two pixels of a true outline; recall,
the share of the outlines within two pixels of what is lit; and F1, their harmonic mean. Of normals: the angle
to those of the scene's depth drawn four times as large. Of depth: Spearman's rank correlation with the true
one. Of poses: how many figures and joints are found. Annotators with weights take part where these are found.
"""

import argparse
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch

from annotators import weights
from annotators.errors import DependencyError, WeightsError
from annotators.pose import keypoints
from annotators.pose.keypoints import BODY
from annotators.pose.tools import MIRROR
from annotators.registry import Annotator
from annotators.run import annotate
from annotators.table import ANNOTATORS, find
from cnet_core.fidelity import grown, rank_correlation
from demo.scenes import HAZE, PALETTE, Scene, draw_scene

from .__main__ import positive

CONDITIONS = ("canny", "lines", "soft edge", "scribble", "line art", "anime line art")
# A jump of the depth (1 near, 0 far) that is an outline, and the depth behind which mist hides colours.
_JUMP, _HIDDEN = 0.05, 0.1
# How many pixels an outline and a line may be apart.
_APART = 2
_NEAR_A_JOINT = 0.1
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


def depth(name: str, scenes: Sequence[Scene]) -> list[float]:
    """Of each scene, the rank correlation of the depth that an annotator sees with the true one. Raises
    WeightsError where it lacks its weights."""
    annotator = find(name)
    seen = annotate(annotator, pictures(scenes), net=weights.build(annotator)).depth
    assert seen is not None
    return [rank_correlation(one, scene.depth) for one, scene in zip(seen.numpy(), scenes, strict=True)]


def slope(scenes: Sequence[Scene]) -> list[float]:
    """The same for a map that is the nearer the lower."""
    return [
        rank_correlation(np.broadcast_to(np.arange(len(true))[:, None], true.shape), true)
        for true in (scene.depth for scene in scenes)
    ]


def poses(name: str, scenes: Sequence[Scene]) -> tuple[float, float, float]:
    """The share of the figures of which an annotator finds half of the joints, and of all their joints which
    it finds, both on either side, for figures without a face may be seen from behind; and of the joints those
    on their own side. Raises WeightsError or DependencyError where it lacks what it needs."""
    annotator = find(name)
    body = {"hands": False, "face": False}
    made = annotate(annotator, pictures(scenes), body, net=weights.build(annotator))
    own, either = [], []
    for frame, scene in zip(keypoints.parse(made.keypoints), scenes, strict=True):
        both = np.concatenate([frame.people, frame.people[:, MIRROR]])
        own.append(joints_found(frame.people[:, BODY], scene.keypoints))
        either.append(joints_found(both[:, BODY], scene.keypoints))
    found = np.concatenate(either)
    return float((found.mean(1) >= 0.5).mean()), float(found.mean()), float(np.concatenate(own).mean())


def joints_found(people: np.ndarray, figures: np.ndarray) -> np.ndarray:
    """Which joints of figures [F,18,3] are near those of the one of the people [P,18,3] who has the most of
    them, within _NEAR_A_JOINT of the figure's larger side: bool [F,18]."""
    found = np.zeros(figures.shape[:2], bool)
    for figure, one in zip(figures, found, strict=True):
        reach = _NEAR_A_JOINT * np.ptp(figure[:, :2], axis=0).max()
        near = np.linalg.norm(people[..., :2] - figure[:, :2], axis=-1) <= reach
        near &= people[..., 2] > 0
        if len(near):
            one[:] = near[near.sum(1).argmax()]
    return found


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


def of(*conditions: str) -> list[Annotator]:
    """The annotators that make these."""
    return [one for one in ANNOTATORS.values() if one.condition in conditions]


def show(measure: Callable[[str], Sequence[float]], annotators: Sequence[Annotator]) -> None:
    """Print a row of each annotator that has here what it needs."""
    for annotator in annotators:
        try:
            print(row(annotator.title, measure(annotator.id)), flush=True)
        except (WeightsError, DependencyError):
            continue


def row(title: str, scores: Sequence[float]) -> str:
    return f"| {title} | {' | '.join(f'{score:.3f}' for score in scores)} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--scenes", type=positive, default=48)
    parser.add_argument("--size", type=positive, default=256, help="sides of the scenes")
    options = parser.parse_args()
    scenes = [draw_scene(seed, options.size) for seed in range(options.scenes)]
    print("| edges | precision | recall | F1 |\n| --- | --- | --- | --- |")
    # What takes a drawing as it is finds nothing by itself.
    show(lambda name: edges(name, scenes), [one for one in of(*CONDITIONS) if one.id != "drawing"])
    print("\n| depth | rank correlation | lowest |\n| --- | --- | --- |")

    def summary(found: list[float]) -> tuple[float, float]:
        return float(np.mean(found)), min(found)

    show(lambda name: summary(depth(name, scenes)), of("depth"))
    print(row("the lower the nearer", summary(slope(scenes))))
    print("\n| poses | figures | joints | on their own side |\n| --- | --- | --- | --- |")
    show(lambda name: poses(name, scenes), of("pose"))
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

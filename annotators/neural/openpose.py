"""OpenPose: bodies, hands and faces as keypoints, and drawn as the skeletons of pose ControlNets.

Z. Cao et al., arXiv 1611.08050 (bodies); T. Simon et al., arXiv 1704.07809 (hands and faces). The networks
see what they saw in the first release: the whole picture at a height of 184 pixels, hands at four scales,
faces at 384 pixels.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from .. import weights
from ..errors import ParameterError
from ..fit import Size
from ..networks import network_module, pixels_at_once
from ..parameters import Bool
from ..pixels import as_bytes
from ..pose.boxes import Box, face_boxes, hand_boxes
from ..pose.keypoints import BODY, FACE, LEFT_HAND, POINTS, RIGHT_HAND, Frame, stacked, write
from ..pose.maps import STRIDE, Enlarging, enlarging, highest, peaks, smoothed
from ..pose.people import JOINTS, people
from ..pose.render import TRAINED_SIDE, render
from ..registry import Annotation, Annotator
from .layers import in_channels_last
from .shared import ask, in_annotators

_LICENCE = "non-commercial (CMU)"
_BODY_FILE, _HAND_FILE, _FACE_FILE = (
    in_annotators(file, _LICENCE, sha256)
    for file, sha256 in (
        ("body_pose_model.pth", "25a948c16078b0f08e236bda51a385d855ef4c153598947c28c0d47ed94bb746"),
        ("hand_pose_model.pth", "b76b00d1750901abd07b9f9d8c98cc3385b8fe834a26d4b4f0aad439e75fc600"),
        ("facenet.pth", "8beb52e548624ffcc4aed12af7aee7dcbfaeea420c75609fee999fe7add79d43"),
    )
)

# How high the body's network sees a picture, and at most how wide.
_HEIGHT = 184
_WIDEST = 8 * _HEIGHT
_JOINT = 0.1
_MOST_PEAKS = 128

# The sides at which the hand's network sees a crop; of the maps' mean; and of the face's network's crop.
_HAND_SIDES = (184, 368, 552, 736)
_HAND_MAP = 128
_FACE_SIDE = 384
_PART = 0.05


class OpenPose(torch.nn.Module):
    """The three networks."""

    def __init__(self) -> None:
        super().__init__()
        models = network_module("open_pose.model")
        self.body = models.bodypose_model()
        self.hand = models.handpose_model()
        self.face = network_module("open_pose.face").FaceNet()


def build(paths: Mapping[str, Path]) -> torch.nn.Module:
    net = OpenPose()
    for part, file in ((net.body, _BODY_FILE), (net.hand, _HAND_FILE)):
        path = paths[file.file]
        held = weights.read(path)
        # The files name layers alone, without the stage that they are in.
        stages = {name.partition(".")[2]: name for name in part.state_dict()}
        weights.load(part, {stages.get(name, name): value for name, value in held.items()}, path)
    path = paths[_FACE_FILE.file]
    weights.load(net.face, weights.read(path), path)
    return in_channels_last(net)


def openpose(
    pictures: Tensor, net: OpenPose, body: bool = True, hands: bool = True, face: bool = True
) -> Annotation:
    """The keypoints of everybody in the pictures, and their skeletons."""
    if not (body or hands or face):
        raise ParameterError("body, hands and face are all off; switch on what shall be found.")
    height, width = pictures.shape[-2:]
    # As the networks were trained: BGR.
    scenes = np.ascontiguousarray(as_bytes(pictures)[..., ::-1])
    found = _bodies(scenes, net.body)
    if hands:
        _add(found, scenes, (LEFT_HAND, RIGHT_HAND), hand_boxes, lambda crops: hands_in(crops, net.hand))
    if face:
        _add(found, scenes, (FACE,), face_boxes, lambda crops: faces_in(crops, net.face))
    if not body:
        for persons in found:
            persons[:, BODY] = 0.0
    frames = [Frame(width, height, stacked(persons)) for persons in found]
    drawn = render(frames, body=body, hands=hands, face=face, threshold=0.0)
    return Annotation(drawn.movedim(-1, 1), keypoints=write(frames))


def _bodies(scenes: np.ndarray, net: torch.nn.Module) -> list[np.ndarray]:
    """Of each picture [H,W,3] its people [P,136,3], of whom the body is known."""
    size = (scenes.shape[1], scenes.shape[2])
    seen, looked = _seen(size), _looked_at(size)
    given = _given([_resized(scene, seen) for scene in scenes], net)
    given = torch.nn.functional.pad(given, (0, -seen[1] % STRIDE, 0, -seen[0] % STRIDE))
    fields, heat = ask(net, given)
    way = enlarging((heat.shape[-2], heat.shape[-1]), seen, looked)
    found = []
    for joints, field in zip(peaks(heat[:, :JOINTS], way, _JOINT, _MOST_PEAKS), fields.cpu(), strict=True):
        bodies = people(joints, field, way)
        whole = np.zeros((len(bodies), POINTS, 3))
        whole[:, BODY] = _scaled(bodies, looked, size)
        found.append(whole)
    return found


def _seen(size: Size) -> Size:
    """The size at which the body's network sees a picture."""
    scale = min(_HEIGHT / size[0], _WIDEST / size[1])
    # Cut off as in the first release, but for what rounding takes.
    height, width = (max(1, int(side * scale + 1e-6)) for side in size)
    return height, width


def _looked_at(size: Size) -> Size:
    """The size to which maps are enlarged: the picture's, but no larger than pictures were in the first
    release, since what smoothes the maps has that size."""
    scale = min(1.0, TRAINED_SIDE / min(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _scaled(bodies: np.ndarray, looked: Size, size: Size) -> np.ndarray:
    """Points [P,N,3] of a picture of size `looked` as those of one of `size`."""
    scaled = bodies.copy()
    scaled[..., :2] = (bodies[..., :2] + 0.5) * (size[1] / looked[1], size[0] / looked[0]) - 0.5
    return np.where(bodies[..., 2:] > 0, scaled, 0.0)


def _add(
    found: Sequence[np.ndarray],
    scenes: np.ndarray,
    parts: Sequence[slice],
    boxes: Callable[[np.ndarray, Size], Sequence[Box | None]],
    points_in: Callable[[Sequence[np.ndarray]], Iterable[np.ndarray]],
) -> None:
    """Give people some parts: their points as they are found in the squares where they should be."""
    size = (scenes.shape[1], scenes.shape[2])
    wanted = [
        (person[part], box, box.cut(scene))
        for persons, scene in zip(found, scenes, strict=True)
        for person in persons
        for part, box in zip(parts, boxes(person, size), strict=True)
        if box is not None
    ]
    made = points_in([crop for *_, crop in wanted])
    for (own, box, _), points in zip(wanted, made, strict=True):
        own[:] = np.where(points[:, 2:] > 0, points + np.array([box.x, box.y, 0]), 0.0)


def hands_in(crops: Sequence[np.ndarray], net: torch.nn.Module) -> Iterator[np.ndarray]:
    """The points of the hand [21,3] in each of some square crops [S,S,3] in bytes.

    Each is the highest place, in the mean of what the network says at all scales, of the region with the most
    in it.
    """
    smooth = [cv2.GaussianBlur(crop, (0, 0), 0.8) for crop in crops]
    means: list[Tensor] = []
    for side in _HAND_SIDES:
        way = _enlarging(side, _HAND_MAP)
        # The last map is what is no point of the hand.
        maps = [way.whole(one[:-1]) / len(_HAND_SIDES) for one in _answers(smooth, side, net)]
        means = [mean + one for mean, one in zip(means, maps, strict=True)] if means else maps
    for mean, crop in zip(means, crops, strict=True):
        main = _main_regions(smoothed(mean) > _PART, mean)
        yield _points(highest(mean.where(main, 0.0), 0.0), _HAND_MAP, len(crop))


def faces_in(crops: Sequence[np.ndarray], net: torch.nn.Module) -> Iterator[np.ndarray]:
    """The points of the face [70,3] in each of some square crops [S,S,3] in bytes."""
    way = _enlarging(_FACE_SIDE, _FACE_SIDE)
    for maps, crop in zip(_answers(crops, _FACE_SIDE, net), crops, strict=True):
        # The last map is what is no point of the face.
        yield _points(highest(way.whole(maps[:-1]), _PART), _FACE_SIDE, len(crop))


def _main_regions(places: Tensor, maps: Tensor) -> Tensor:
    """Of the places in maps [C,H,W], bool, those of the connected region with the largest sum, in each."""
    main = np.zeros(maps.shape, bool)
    for kept, inside, one in zip(main, places.byte().cpu().numpy(), maps.cpu().numpy(), strict=True):
        count, regions = cv2.connectedComponents(inside, connectivity=8)
        if count > 1:
            kept[:] = regions == 1 + np.bincount(regions.ravel(), one.ravel())[1:].argmax()
    return torch.from_numpy(main).to(maps.device)


def _enlarging(seen: int, size: int) -> Enlarging:
    """From the maps of a square that the network saw with a side of `seen`, to a side of `size`."""
    return enlarging((seen // STRIDE, seen // STRIDE), (seen, seen), (size, size))


def _points(points: np.ndarray, side: int, wanted: int) -> np.ndarray:
    """Points [N,3] of a map of this side as those of a crop of another, with scores in 0..1."""
    places = (points[:, :2] + 0.5) * wanted / side - 0.5
    return np.concatenate([places, points[:, 2:].clip(0.0, 1.0)], 1)


def _answers(crops: Sequence[np.ndarray], side: int, net: torch.nn.Module) -> Iterator[Tensor]:
    """What a network finds in each of some crops, which it sees with this side: maps [C,h,w]."""
    count = max(1, pixels_at_once(next(net.parameters()).device) // side**2)
    for start in range(0, len(crops), count):
        given = [_resized(crop, (side, side)) for crop in crops[start : start + count]]
        answer = ask(net, _given(given, net))
        yield from answer[-1] if isinstance(answer, list) else answer


def _given(scenes: Sequence[np.ndarray], net: torch.nn.Module) -> Tensor:
    """Pictures [H,W,3] in bytes as the networks take them, on their device."""
    array = np.stack(scenes).transpose(0, 3, 1, 2)
    return torch.from_numpy(array).to(next(net.parameters()).device).float() / 256.0 - 0.5


def _resized(scene: np.ndarray, size: Size) -> np.ndarray:
    """A picture [H,W,3] in bytes at another size, by area where it shrinks, by Lanczos where it grows."""
    kind = cv2.INTER_AREA if sum(size) < sum(scene.shape[:2]) else cv2.INTER_LANCZOS4
    return cv2.resize(scene, size[::-1], interpolation=kind)


ANNOTATOR = Annotator(
    id="openpose",
    title="OpenPose",
    condition="pose",
    kind="skeleton",
    description="The body, hands and face of everybody, as a coloured skeleton and as keypoints.",
    convention="OpenPose's coloured skeletons on black",
    annotate=openpose,
    parameters=(
        Bool("body", True, "The body: 18 points from the nose to the ankles."),
        Bool(
            "hands",
            True,
            "The hands, where the arm is seen: 21 points each. On a CPU each takes some seconds.",
        ),
        Bool("face", True, "The face: 70 points."),
    ),
    build=build,
    weights=(_BODY_FILE, _HAND_FILE, _FACE_FILE),
    makes=("keypoints",),
    suits=("lllyasviel/control_v11p_sd15_openpose", "xinsir/controlnet-openpose-sdxl-1.0"),
    aliases=("openpose", "dwpose", "skeleton", "keypoints", "hands", "face"),
)

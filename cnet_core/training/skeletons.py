"""Drawn poses mirrored: left and right change their colours, hands and faces keep theirs."""

import colorsys
from collections.abc import Iterator

import cv2
import numpy as np

from ..errors import DataError

# OpenPose's colours, by joint in COCO's order of 18, and by limb at 60 % of their brightness.
_COLOURS = np.array(
    [
        *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0)),
        *((0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255)),
        *((0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85)),
    ],
    np.int16,
)
_LIMB_COLOURS = (_COLOURS[:17] * 0.6).astype(np.int16)
# The bones of hands. Their joints have the colour of the left knee, one of the 20 bones that of the right
# knee, and one that of the nose, which no mirror changes.
_BONES = [np.array(colorsys.hsv_to_rgb(i / 20, 1.0, 1.0)) * 255 for i in range(20) if i % 10]
_PALETTE = np.concatenate([np.zeros((1, 3)), _COLOURS, _LIMB_COLOURS, np.array(_BONES), [[255] * 3]])
_JOINT, _LIMB, _BONE, _FACE = 1, 19, 36, 54
# Which joint or limb (17 of them) becomes which when left and right are changed.
_JOINTS = (0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16)
_LIMBS = (1, 0, 4, 5, 2, 3, 9, 10, 11, 6, 7, 8, 12, 15, 16, 13, 14)
_SWAPPED = np.concatenate([[0], _JOINT + np.array(_JOINTS), _LIMB + np.array(_LIMBS)])
# The knees whose colours hands have too, each with its thigh and shin; and what is about the wrists.
_KNEES = ((_JOINT + 9, (_LIMB + 7, _LIMB + 8)), (_JOINT + 12, (_LIMB + 10, _LIMB + 11)))
_WRISTS = (_JOINT + 4, _JOINT + 7, _LIMB + 3, _LIMB + 5)
# Rounding of 60 % differs by one between drawers.
_NEAR = 2
_STRANGE = 0.02
# Of a kind, and times the pixels of the picture: some tens of seconds.
_MOST_PIECES, _MOST_WORK = 5000, 4e9


def mirrored_skeleton(pixels: np.ndarray, name: str) -> np.ndarray:
    """The skeleton [H,W,3] of the mirrored person, from the mirrored skeleton.

    Raises DataError if more than 2 % of what is drawn has none of OpenPose's colours (JPEG, a scaled or
    anti-aliased drawing), or if a hand cannot be told from a knee.
    """
    # As single numbers, which are found much faster than rows.
    packed = pixels.astype(np.int32) @ (65536, 256, 1)
    numbers, index = np.unique(packed, return_inverse=True)
    colours = numbers[:, None] >> (16, 8, 0) & 255
    distance = np.abs(colours[:, None] - _PALETTE).max(-1)
    known = np.where(distance.min(1) <= _NEAR, distance.argmin(1), -1)
    parts = known[index.reshape(-1)].reshape(pixels.shape[:2])
    strange, drawn = (parts < 0).sum(), (parts != 0).sum()
    if strange > _STRANGE * drawn:
        raise DataError(
            f"{name}: {100 * strange / drawn:.0f} % of the skeleton's pixels have colours that are not "
            "exactly OpenPose's, so left and right cannot be told apart. Train without mirroring, let an "
            "annotator make the hints (it sees the mirrored picture), or draw them without smoothing, as PNG."
        )
    turned = pixels.copy()
    body = (parts > 0) & (parts < _BONE) & ~_hands(parts, name)
    swapped = _SWAPPED[parts[body]]
    moved = swapped != parts[body]
    turned[body] = np.where(moved[:, None], _PALETTE[swapped].astype(np.uint8), pixels[body])
    return turned


def _hands(parts: np.ndarray, name: str) -> np.ndarray:
    """Where [H,W] a colour that hands and knees share is a hand's. Raises DataError where that is not sure.

    A hand hangs together, and has bones of colours of its own or is larger than a knee's dot. A knee is a dot
    of the body's size, and touches its thigh or shin.
    """
    hands = np.zeros(parts.shape, bool)
    shared = np.isin(parts, [knee for knee, _ in _KNEES])
    if not shared.any():
        return hands
    size = _dot(parts)
    knees = {knee: [m for m in _pieces(parts == knee) if _is_dot(m, size)] for knee, _ in _KNEES}
    loose = []
    bones = (parts >= _BONE) & (parts < _FACE)
    for cluster in _pieces(shared | bones):
        dots = [_extent(m) for knee, _ in _KNEES for m in _pieces(cluster & (parts == knee))]
        if (cluster & bones).any() or max(map(max, dots), default=0) > size + 1:
            hands |= cluster
        else:
            loose.append(cluster)
    for cluster in _pieces(hands):
        for knee, limbs in _KNEES:
            clear = [m for m in knees[knee] if not (m & hands).any() and _touches(m, parts, limbs)]
            if _touches(cluster, parts, limbs) and not _on_known_leg(cluster, parts, limbs, clear, size):
                raise _unsure(name)
    for cluster in loose:
        for knee, limbs in _KNEES:
            for dot in _pieces(cluster & (parts == knee)):
                joined = _touches(dot, parts, limbs)
                whole = joined and _is_dot(dot, size)
                # Where nothing else is a hand's, only what lies at a wrist alone may be one.
                if not whole and (hands.any() or (not joined and _touches(dot, parts, _WRISTS))):
                    raise _unsure(name)
    return hands & shared


def _unsure(name: str) -> DataError:
    return DataError(
        f"{name}: a hand lies over a leg or is so small that it cannot be told from a knee, which has the "
        "same colour, so the skeleton cannot be mirrored. Train without mirroring, let an annotator make the "
        "hints (it sees the mirrored picture), or draw them without hands."
    )


def _pieces(mask: np.ndarray) -> Iterator[np.ndarray]:
    """What hangs together in a mask, corners included, each as a mask of its own.

    Each takes as long as the whole picture: raises DataError for so many that nobody would wait.
    """
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    if count > _MOST_PIECES or count * mask.size > _MOST_WORK:
        raise DataError(
            f"the skeleton falls into pieces, {count} of one kind, so that it cannot be mirrored. Train "
            "without mirroring, or let an annotator make the hints (it sees the mirrored picture)."
        )
    return (labels == i for i in range(1, count))


def _extent(mask: np.ndarray) -> tuple[int, int]:
    _, _, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return width, height


def _dot(parts: np.ndarray) -> int:
    """The width of a joint's dot: of those of other joints the median, for some are covered in part."""
    others = {*range(_JOINT + 1, _LIMB)} - {knee for knee, _ in _KNEES}
    sides = [max(_extent(m)) for joint in others for m in _pieces(parts == joint)]
    return int(np.median(sides)) if sides else 0


def _is_dot(mask: np.ndarray, size: int) -> bool:
    return all(abs(side - size) <= 1 for side in _extent(mask))


def _touches(mask: np.ndarray, parts: np.ndarray, which: tuple[int, ...]) -> bool:
    around = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    return bool(np.isin(parts[around], which).any())


def _on_known_leg(
    cluster: np.ndarray, parts: np.ndarray, limbs: tuple[int, ...], knees: list[np.ndarray], size: int
) -> bool:
    """Whether a hand lies over one leg only, whose knee is to be seen elsewhere, so not under the hand."""
    legs = np.isin(parts, limbs) | cluster
    for knee in knees:
        legs |= knee
    (leg,) = (piece for piece in _pieces(legs) if (piece & cluster).any())
    straight = all(_width(leg & (parts == limb)) <= size + 1 for limb in limbs)
    return straight and sum((leg & knee).any() for knee in knees) == 1


def _width(mask: np.ndarray) -> float:
    """How wide a long thing is, across its length: more than a limb's width if it is no single limb."""
    points = np.argwhere(mask).astype(np.float32)
    if len(points) < 2:
        return float(len(points))
    points -= points.mean(0)
    across = np.linalg.svd(points, full_matrices=False)[2][1]
    along = points @ across
    return float(along.max() - along.min() + 1)

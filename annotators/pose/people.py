"""From the peaks of joints to people: Z. Cao et al., *Realtime Multi-Person 2D Pose Estimation using Part
Affinity Fields*, arXiv 1611.08050, section 2.4.

The network draws, beside a map for each joint, a field of unit vectors along each kind of limb. Two joints
belong together if the field between them points from one to the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .keypoints import L_EAR, L_SHOULDER, R_EAR, R_SHOULDER
from .maps import Enlarging
from .render import LIMBS

JOINTS = 18
# The limbs that there are fields for: those that are drawn, and two that only join what is known.
FIELDS = (*LIMBS, (R_SHOULDER, R_EAR), (L_SHOULDER, L_EAR))
# The first of the two channels, x and y, of each limb's field.
CHANNELS = (12, 20, 14, 16, 22, 24, 0, 2, 4, 6, 8, 10, 28, 30, 34, 32, 36, 18, 26)

# The field is looked at in so many places along a limb, of which this share must say yes.
_PLACES = 10
_AGREE = 0.8
_YES = 0.05
# Who is seen less, by joints and by score for each, is nobody.
_FEWEST_JOINTS = 4
_LOWEST_SCORE = 0.4


@dataclass
class _Person:
    """Joints, each with the number of its peak, and what speaks for them together."""

    peaks: dict[int, int] = field(default_factory=dict)
    score: float = 0.0


def people(found: Sequence[np.ndarray], fields: Tensor, way: Enlarging) -> np.ndarray:
    """People [P,18,3] of x, y, score in 0..1, from the peaks of each joint, [N,5] as `maps.peaks` gives them,
    and the network's fields [38,h,w]. A joint that was not found is 0, 0, 0."""
    persons: list[_Person] = []
    for number, ((first, second), channel) in enumerate(zip(FIELDS, CHANNELS, strict=True)):
        links = _links(found[first], found[second], fields[channel : channel + 2], way)
        for a, b, score in links:
            link = {first: a, second: b}
            gain = score + found[second][b, 2]
            _join(persons, link, gain, found[first][a, 2], begins=number < len(LIMBS))
    kept = [
        person.peaks
        for person in persons
        if len(person.peaks) >= _FEWEST_JOINTS and person.score >= _LOWEST_SCORE * len(person.peaks)
    ]
    made = np.zeros((len(kept), JOINTS, 3))
    for points, peaks in zip(made, kept, strict=True):
        for joint, peak in peaks.items():
            points[joint] = found[joint][peak, :3]
            # What was found is seen, however faintly.
            points[joint, 2] = points[joint, 2].clip(0.001, 1.0)
    return made


def _join(persons: list[_Person], link: dict[int, int], gain: float, start: float, begins: bool) -> None:
    """Give a link between two joints to whom it belongs, or begin a person with it."""
    (first, a), (second, b) = link.items()
    own = [one for one in persons if one.peaks.get(first) == a or one.peaks.get(second) == b]
    if not own:
        if begins:
            persons.append(_Person(link, start + gain))
        return
    person, *others = own
    if others and not person.peaks.keys() & others[0].peaks.keys():
        # Two halves of one.
        person.peaks |= others[0].peaks
        person.score += others[0].score + gain
        persons.remove(others[0])
    elif others or person.peaks.get(second) != b:
        person.peaks[second] = b
        person.score += gain


def _links(
    starts: np.ndarray, ends: np.ndarray, limb: Tensor, way: Enlarging
) -> list[tuple[int, int, float]]:
    """Which of the starts belong to which of the ends: pairs of numbers with scores, best first, each start
    and end once."""
    if not len(starts) or not len(ends):
        return []
    height = len(way.rows)
    a, b = (grid.ravel() for grid in np.indices((len(starts), len(ends))))
    begin, end = starts[a, 3:], ends[b, 3:]
    length = np.linalg.norm(end - begin, axis=1).clip(1e-3)
    steps = np.linspace(0.0, 1.0, _PLACES)[:, None, None]
    places = torch.from_numpy(np.rint(begin + steps * (end - begin)).astype(np.int64)).reshape(-1, 2)
    vectors = way.at(limb, places[:, 1], places[:, 0]).double().numpy().reshape(_PLACES, -1, 2)
    along = (vectors * ((end - begin) / length[:, None])).sum(-1)
    # A limb longer than half the picture is high is unlikely.
    scores = along.mean(0) + np.minimum(0.5 * height / length - 1.0, 0.0)
    good = ((along > _YES).sum(0) > _AGREE * _PLACES) & (scores > 0)
    links: list[tuple[int, int, float]] = []
    taken: tuple[set[int], set[int]] = set(), set()
    for i in np.argsort(-scores, kind="stable"):
        if good[i] and a[i] not in taken[0] and b[i] not in taken[1]:
            links.append((int(a[i]), int(b[i]), float(scores[i])))
            taken[0].add(a[i])
            taken[1].add(b[i])
    return links

"""Smooth poses over the frames of a video."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import PoseError
from .keypoints import Frame
from .tools import boxes_of

# People of neighbouring frames are the same if their points moved, in the mean, by at most this share of the
# diagonal of their box.
FARTHEST = 0.5


def smooth(frames: Sequence[Frame], window: int = 5, gap: int = 0) -> list[Frame]:
    """The frames with each point averaged over `window` frames, its own in the middle, by weights that fall
    linearly to both sides and by scores. Near an end or a gap the window is narrower, on both sides, so that
    steady motion stays as it is.

    gap: points, and people, that are missing for at most so many frames between two where they are seen are
    put on the line between these, with the lower of the two scores. 0 leaves them missing.
    People keep their order; those who are filled in come last. Raises PoseError for an even window, or
    canvases of different sizes.
    """
    if window < 1 or window % 2 == 0:
        raise PoseError(f"the window is {window} frames; expected an odd number: a frame and its neighbours.")
    if len({(frame.width, frame.height) for frame in frames}) > 1:
        raise PoseError("the frames have canvases of different sizes; give them one size first.")
    people = [list(frame.people) for frame in frames]
    for track in tracks(frames, gap):
        points = averaged(filled(track.points(frames), gap), window // 2)
        for t, person in enumerate(points, track.first):
            if t in track.places:
                people[t][track.places[t]] = person
            else:
                people[t].append(person)
    return [frame.with_people(found) for frame, found in zip(frames, people, strict=True)]


@dataclass
class Track:
    """One person over time: frame -> its place among the frame's people. Some frames may lack it."""

    places: dict[int, int] = field(default_factory=dict)

    @property
    def first(self) -> int:
        return min(self.places)

    @property
    def last(self) -> int:
        return max(self.places)

    def points(self, frames: Sequence[Frame]) -> np.ndarray:
        """[T,136,3] from the first to the last frame, zeros where it is not seen."""
        points = np.zeros((self.last - self.first + 1, *frames[self.first].people.shape[1:]))
        for t, place in self.places.items():
            points[t - self.first] = frames[t].people[place]
        return points


def tracks(frames: Sequence[Frame], gap: int = 0) -> list[Track]:
    """Who is who: each person of a frame in one track, joined over at most `gap` frames where it is missing,
    so that the distances that people move are least in all."""
    # scipy comes with scikit-image, and is slow to import.
    from scipy.optimize import linear_sum_assignment

    found: list[Track] = []
    for t, frame in enumerate(frames):
        alive = [track for track in found if t - track.last <= gap + 1]
        before = [frames[track.last].people[track.places[track.last]] for track in alive]
        distances = _distances(before, frame.people)
        placed = set()
        # Who comes from nowhere costs as much as the farthest move, so that nobody is exchanged for them.
        for row, place in zip(*linear_sum_assignment(np.minimum(distances, FARTHEST)), strict=True):
            if distances[row, place] <= FARTHEST:
                alive[row].places[t] = int(place)
                placed.add(place)
        found += [Track({t: place}) for place in range(len(frame.people)) if place not in placed]
    return found


def filled(points: np.ndarray, gap: int) -> np.ndarray:
    """Points [T,N,3] over time with gaps of at most `gap` frames on the line between their ends."""
    count = len(points)
    seen = points[..., 2] > 0
    times = np.arange(count)[:, None]
    before = np.maximum.accumulate(np.where(seen, times, -1), 0)
    after = np.minimum.accumulate(np.where(seen, times, count)[::-1], 0)[::-1]
    inside = ~seen & (before >= 0) & (after < count) & (after - before - 1 <= gap)
    t, n = np.nonzero(inside)
    start, end = points[before[t, n], n], points[after[t, n], n]
    share = ((t - before[t, n]) / (after[t, n] - before[t, n]))[:, None]
    points = points.copy()
    points[t, n, :2] = start[:, :2] + share * (end[:, :2] - start[:, :2])
    points[t, n, 2] = np.minimum(start[:, 2], end[:, 2])
    return points


def averaged(points: np.ndarray, reach: int) -> np.ndarray:
    """Points [T,N,3] over time, each the mean of up to `reach` neighbours on either side, as far as it is
    seen on both without a gap. Scores stay."""
    together = points[..., 2] > 0
    total = (reach + 1) * points[..., 2:]
    drift = np.zeros_like(points[..., :2])
    for distance in range(1, min(reach, len(points) - 1) + 1):
        before, after = np.zeros_like(points), np.zeros_like(points)
        before[distance:], after[:-distance] = points[:-distance], points[distance:]
        scores = np.minimum(before[..., 2], after[..., 2])
        together &= scores > 0
        weight = ((reach + 1 - distance) * scores * together)[..., None]
        # As differences, so that a pose that stands still stays bit for bit.
        drift += weight * ((before[..., :2] - points[..., :2]) + (after[..., :2] - points[..., :2]))
        total += 2 * weight
    averages = points.copy()
    averages[..., :2] += drift / np.where(total > 0, total, 1.0)
    return averages


def _distances(before: Sequence[np.ndarray], people: np.ndarray) -> np.ndarray:
    """[len(before),P]: how far the points that both see are apart, in the mean, in diagonals of the box."""
    distances = np.full((len(before), len(people)), 1e6)
    for row, earlier in enumerate(before):
        left, top, right, bottom = boxes_of(earlier[None])[0]
        diagonal = max(np.hypot(right - left, bottom - top), 1.0)
        both = (earlier[:, 2] > 0) & (people[..., 2] > 0)
        apart = np.hypot(people[..., 0] - earlier[:, 0], people[..., 1] - earlier[:, 1])
        shared = both.sum(1)
        mean = (apart * both).sum(1) / np.maximum(shared, 1) / diagonal
        distances[row, shared > 0] = mean[shared > 0]
    return distances

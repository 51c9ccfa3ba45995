"""Random poses, for hypothesis and without."""

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from annotators.pose.keypoints import POINTS, Frame


def random_people(seed: int, count: int, width: int, height: int, missing: float = 0.3) -> np.ndarray:
    """People [P,136,3] whose points lie all over a canvas and somewhat beyond; a share of them is missing."""
    rng = np.random.default_rng(seed)
    people = rng.uniform((-0.2, -0.2, 0.05), (1.2, 1.2, 1.0), (count, POINTS, 3)) * (width, height, 1)
    people[rng.random((count, POINTS)) < missing] = 0.0
    # Something is seen of each, and where no share of a canvas would be.
    people[:, 0] = width * 0.9, height * 0.9, 0.9
    return people


@st.composite
def frame_lists(
    draw: Callable, size: tuple[int, int] | None = None, people: int | None = None
) -> list[Frame]:
    """One to four frames with up to three people each."""
    made = []
    for _ in range(draw(st.integers(1, 4))):
        width, height = size or (draw(st.integers(8, 900)), draw(st.integers(8, 900)))
        count = draw(st.integers(0, 3)) if people is None else people
        made.append(Frame(width, height, random_people(draw(st.integers(0, 2**16)), count, width, height)))
    return made

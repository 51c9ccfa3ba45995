"""Against the truth: the outlines and surfaces of the demo's scenes, as benchmarks.accuracy measures them."""

import pytest

from benchmarks import accuracy
from demo.scenes import draw_scene

SIZE, COUNT = 256, 12
# At least so much of what is lit is an outline, and so much of the outlines is found.
FOUND = {
    "canny": (0.94, 0.83),
    "soft_edges": (0.93, 0.93),
    "xdog_scribble": (0.6, 0.95),
    "lineart_xdog": (0.94, 0.77),
    "lsd_lines": (0.78, 0.7),
    "hough_lines": (0.95, 0.15),
}


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(seed, SIZE) for seed in range(COUNT)]


@pytest.mark.parametrize("name", FOUND)
def test_outlines_are_found_and_little_else(scenes, name):
    precision, recall, _ = accuracy.edges(name, scenes)
    least = FOUND[name]
    assert precision >= least[0] and recall >= least[1]


def test_normals_are_those_of_the_depth(scenes):
    finer = [draw_scene(seed, accuracy.FINER * SIZE) for seed in range(3)]
    few = scenes[: len(finer)]
    assert accuracy.normals(few, finer, bits=0).mean() < 1
    assert accuracy.normals(few, finer, bits=8).mean() < 3
    # There is something to be seen.
    assert accuracy.facing(few, finer).mean() > 10

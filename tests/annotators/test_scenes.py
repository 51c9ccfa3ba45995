"""Against the truth: the outlines and surfaces of the demo's scenes, as benchmarks.accuracy measures them."""

import numpy as np
import pytest

from annotators.errors import WeightsError
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
    precision, recall, f1 = accuracy.edges(name, scenes)
    least = FOUND[name]
    assert precision >= least[0] and recall >= least[1]
    assert f1 == pytest.approx(2 / (1 / precision + 1 / recall))


def test_normals_are_those_of_the_depth(scenes):
    finer = [draw_scene(seed, accuracy.FINER * SIZE) for seed in range(3)]
    few = scenes[: len(finer)]
    assert accuracy.normals(few, finer, bits=0).mean() < 1
    assert accuracy.normals(few, finer, bits=8).mean() < 3
    # There is something to be seen.
    assert accuracy.facing(few, finer).mean() > 10


def test_depth_is_compared_by_its_order(scenes, tmp_path, monkeypatch):
    monkeypatch.setenv("CNET_ANNOTATORS", str(tmp_path))
    with pytest.raises(WeightsError):
        accuracy.depth("midas", scenes)
    assert all(0.4 < one < 0.95 for one in accuracy.slope(scenes))


def test_joints_count_where_they_are_near_and_seen_of_the_one_person_who_fits():
    figures = draw_scene(2, SIZE).keypoints
    assert len(figures) == 2
    assert accuracy.joints_found(figures, figures).all()
    near, unseen = figures.copy(), figures.copy()
    near[:, :, 0] += 0.05 * np.ptp(figures[:, :, 1], axis=1)[:, None]
    unseen[0, 4, 2] = 0
    assert accuracy.joints_found(near, figures).all()
    found = accuracy.joints_found(unseen, figures)
    assert not found[0, 4] and found.sum() == found.size - 1
    assert not accuracy.joints_found(figures[:0], figures).any()
    # What the other one has does not count.
    assert accuracy.joints_found(figures[:1], figures)[1].sum() < 9

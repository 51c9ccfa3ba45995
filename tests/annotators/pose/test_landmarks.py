"""mediapipe's landmarks as people in OpenPose's order, and its face mesh as a picture."""

from itertools import pairwise

import numpy as np
import pytest

from annotators.pose import keypoints as k
from annotators.pose.landmarks import person
from annotators.pose.mesh import LINES, PUPILS, render_meshes


def landmarks(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform((0, 0, 0.5), (500, 500, 1), (count, 3))


def test_a_body_is_in_openposes_order():
    body = landmarks(33)
    made = person(body, None, None, None, 0.0)
    # mediapipe: 0 nose, 12 and 11 the right and left shoulder, 16 and 15 the wrists, 28 and 27 the ankles.
    for row, landmark in ((k.NOSE, 0), (k.R_SHOULDER, 12), (k.L_WRIST, 15), (k.R_ANKLE, 28), (k.L_EAR, 7)):
        assert np.array_equal(made[row], body[landmark])
    assert np.allclose(made[k.NECK], [*body[[11, 12], :2].mean(0), body[[11, 12], 2].min()])
    assert (made[k.BODY, 2] > 0).all() and not made[k.FACE].any() and not made[k.LEFT_HAND].any()


def test_points_that_are_hardly_visible_are_left_out():
    body = landmarks(33)
    body[12, 2] = 0.1
    made = person(body, None, None, None, 0.5)
    assert not made[[k.R_SHOULDER, k.NECK]].any() and made[k.L_SHOULDER].all()


def test_hands_keep_their_order_and_side_and_the_face_is_that_of_the_mesh():
    body, left, right, mesh = (landmarks(count, count) for count in (33, 21, 22, 478))
    made = person(body, left, right[:21], mesh, 0.0)
    assert np.array_equal(made[k.LEFT_HAND], left) and np.array_equal(made[k.RIGHT_HAND], right[:21])
    # The chin, the tip of the nose, the corners of the mouth, the pupils.
    face = made[k.FACE]
    assert np.array_equal(face[[8, 30, 48, 54, 68, 69]], mesh[[152, 4, 61, 291, 468, 473]])
    assert np.array_equal(made[[k.NOSE, k.R_EYE, k.L_EYE]], mesh[[4, 468, 473]])
    assert len(np.unique(face, axis=0)) == 70


def test_a_mesh_is_drawn_in_its_colours_and_in_proportion():
    mesh = landmarks(478)[:, :2]
    picture = render_meshes([mesh], 512, 512)
    colours = {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}
    assert colours <= {(0, 0, 0), *(colour for colour, _ in LINES), *(colour for _, colour in PUPILS)}
    x, y = np.floor(mesh[473] + 0.5).astype(int)
    assert picture[y, x].tolist() == [10, 200, 250]
    large = render_meshes([(mesh + 0.5) * 2 - 0.5], 1024, 1024)
    assert abs(large.any(-1).mean() / picture.any(-1).mean() - 1) < 0.15
    assert render_meshes([mesh * 1e6 - 1e7], 30, 20).shape == (20, 30, 3)
    assert not render_meshes([], 30, 20).any()


def test_the_lines_are_those_of_mediapipe():
    solutions = getattr(pytest.importorskip("mediapipe"), "solutions", None)
    if solutions is None:
        pytest.skip("mediapipe is too new")
    theirs = {frozenset(pair) for pair in solutions.face_mesh.FACEMESH_CONTOURS}
    ours = {frozenset(pair) for _, line in LINES for pair in pairwise(line)}
    assert ours == theirs

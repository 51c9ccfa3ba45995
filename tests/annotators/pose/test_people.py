"""From a network's maps to people: what is known is found again, and as controlnet-aux finds it."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from annotators.networks import network_module
from annotators.pose.boxes import Box, face_boxes, hand_boxes
from annotators.pose.keypoints import POINTS
from annotators.pose.maps import enlarging, highest, peaks
from annotators.pose.people import people

from .answers import answer, crowd

SIZE, SEEN = (512, 768), (184, 276)


def found(known: np.ndarray, size=SIZE, seen=SEEN, noise: float = 0.0) -> np.ndarray:
    """People [P,18,3] in the maps of known ones."""
    fields, heat = answer(known, size, seen)
    fields, heat = (
        one + noise * torch.randn(one.shape, generator=torch.manual_seed(0)) for one in (fields, heat)
    )
    way = enlarging(tuple(heat.shape[-2:]), seen, size)
    (joints,) = peaks(heat[None, :18], way, 0.1, 128)
    return people(joints, fields, way)


def by_place(people: np.ndarray) -> np.ndarray:
    """From left to right."""
    middles = [person[person[:, 2] > 0, 0].mean() for person in people]
    return people[np.argsort(middles)]


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**16), count=st.integers(1, 4))
def test_known_people_are_found_to_a_fraction_of_a_cell(seed, count):
    known = crowd(seed, count, SIZE[1], SIZE[0])
    again = by_place(found(known))
    assert again.shape == known.shape
    # A cell of the network's maps is 22 pixels of the picture.
    apart = np.linalg.norm(again[..., :2] - known[..., :2], axis=-1)
    assert apart.mean() < 0.9 and apart.max() < 4
    assert again[..., 2].min() > 0.8


def test_a_joint_that_is_hidden_is_missing_and_the_others_are_not():
    known = crowd(3, 2, SIZE[1], SIZE[0])
    known[0, [3, 4, 10]] = 0.0
    known[1, [0, 14, 15, 16, 17]] = 0.0
    again = by_place(found(known))
    assert np.array_equal(again[..., 2] > 0, known[..., 2] > 0)
    assert not again[known[..., 2] == 0].any()


def test_faint_joints_have_low_scores_and_three_joints_are_nobody():
    known = crowd(5, 2, SIZE[1], SIZE[0])
    known[0, :, 2] = np.linspace(0.4, 1.0, 18)
    known[1, 3:] = 0.0
    (again,) = found(known)
    assert np.abs(again[:, 2] - known[0, :, 2]).max() < 0.1


def test_nobody_and_a_flat_map_are_nobody():
    assert found(np.zeros((0, 18, 3))).shape == (0, 18, 3)
    way = enlarging((23, 23), (184, 184), (512, 512))
    (joints,) = peaks(torch.full((1, 18, 23, 23), 0.5), way, 0.1, 128)
    assert people(joints, torch.zeros(38, 23, 23), way).shape == (0, 18, 3)


def test_the_highest_peaks_stay_where_there_are_too_many():
    heat = torch.rand(1, 1, 23, 23, generator=torch.manual_seed(0))
    way = enlarging((23, 23), (184, 184), (184, 184))
    ((every,),) = peaks(heat, way, 0.1, 1000)
    ((few,),) = peaks(heat, way, 0.1, 5)
    assert len(every) > 5 and np.array_equal(few, every[np.sort(np.argsort(-every[:, 2])[:5])])


@pytest.mark.parametrize("at", [(0.0, 0.0), (63.0, 40.0), (20.3, 33.8), (1.0, 63.0)])
def test_the_highest_point_of_a_map(at):
    y, x = np.indices((64, 64))
    blob = np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / 200)
    maps = torch.from_numpy(np.stack([blob, 0.04 * blob])).float()
    points = highest(maps, 0.05)
    assert np.abs(points[0] - (*at, 1.0)).max() < 0.05
    assert not points[1].any()


class Known(torch.nn.Module):
    """A network that always answers the same."""

    def __init__(self, *answers):
        super().__init__()
        self.answers = answers
        self.anything = torch.nn.Parameter(torch.zeros(1))

    def forward(self, pictures):
        return tuple(one[None] for one in self.answers)


@pytest.fixture(scope="module")
def original():
    """controlnet-aux's own package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its imports
        return network_module("open_pose")


@pytest.mark.parametrize("seed, count, noise", [(0, 1, 0.0), (1, 4, 0.03)])
def test_people_equal_controlnet_auxs(original, seed, count, noise):
    """The same joints of the same people, of the same scores, within the pixel that it gives."""
    size = (256, 384)
    known = crowd(seed, count, size[1], size[0])
    rng = np.random.default_rng(seed)
    known[rng.random(known.shape[:2]) < 0.15] = 0.0
    fields, heat = (
        one + noise * torch.randn(one.shape, generator=torch.manual_seed(seed))
        for one in answer(known, size, SEEN)
    )
    body = object.__new__(original.Body)
    body.model = Known(fields, heat)
    candidates, theirs = body(np.zeros((*size, 3), np.uint8))
    way = enlarging(tuple(heat.shape[-2:]), SEEN, size)
    ours = people(peaks(heat[None, :18], way, 0.1, 128)[0], fields, way)
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs[:, :18].astype(int), strict=True):
        assert np.array_equal(one[:, 2] > 0, other >= 0)
        expected = candidates[other[other >= 0]][:, :3]
        assert np.abs(one[other >= 0][:, :2] - expected[:, :2]).max() <= 0.501
        assert np.allclose(one[other >= 0][:, 2], expected[:, 2].clip(0.001, 1), atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_hands_and_faces_are_looked_for_where_controlnet_aux_does(original, seed):
    """Whole ones; what goes beyond the picture it cuts off, and ours is moved into it."""
    rng = np.random.default_rng(seed)
    person = np.zeros((POINTS, 3))
    person[:18] = crowd(seed, 1, 400, 500)[0]
    person[:18, :2] = np.rint(person[:18, :2])
    person[np.flatnonzero(rng.random(18) < 0.1)] = 0.0
    points = [original.Keypoint(x, y) if score else None for x, y, score in person[:18]]
    body = original.BodyResult(points, 1.0, 18)
    picture = np.zeros((500, 400, 3), np.uint8)
    theirs = {is_left: Box(x, y, side) for x, y, side, is_left in original.util.handDetect(body, picture)}
    assert hand_boxes(person, (500, 400)) == [theirs.get(True), theirs.get(False)]
    face = original.util.faceDetect(body, picture)
    assert face_boxes(person, (500, 400)) == [face and Box(*face)]


@given(seed=st.integers(0, 2**16), width=st.integers(1, 200), height=st.integers(1, 200))
def test_squares_are_within_the_picture(seed, width, height):
    person = np.zeros((POINTS, 3))
    person[:18] = np.random.default_rng(seed).uniform((-99, -99, 1), (299, 299, 1), (18, 3))
    for box in (*hand_boxes(person, (height, width)), *face_boxes(person, (height, width))):
        if box:
            assert box.cut(np.zeros((height, width, 3))).shape == (box.side, box.side, 3)
            assert box.side >= 20

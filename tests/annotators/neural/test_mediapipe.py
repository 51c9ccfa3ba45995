"""mediapipe's annotators: with it, as of the extra mediapipe, and without.

The extra cannot stand beside the development tools; in an environment of its own, these tests run as
`python -m pytest tests/annotators/neural/test_mediapipe.py`.
"""

import sys
import types

import numpy as np
import pytest
import torch
from published import quietly

from annotators import run
from annotators.errors import DependencyError, ParameterError
from annotators.networks import network_module
from annotators.neural.mediapipe_people import solutions
from annotators.pose.keypoints import FACE, NECK, NOSE, parse
from annotators.pose.render import render
from annotators.table import ANNOTATORS

POSE, FACE_MESH = ANNOTATORS["mediapipe_pose"], ANNOTATORS["mediapipe_face"]
both = pytest.mark.parametrize("annotator", [POSE, FACE_MESH], ids=lambda one: one.id)


@pytest.fixture(scope="module")
def installed():
    try:
        return solutions()
    except DependencyError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    """An astronaut, who looks into the camera: [1,512,512,3]."""
    from skimage.data import astronaut

    return torch.from_numpy(astronaut()).float()[None] / 255


@both
def test_without_mediapipe_the_error_says_what_to_install(annotator, monkeypatch):
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(DependencyError, match=r'not installed. Install .* "mediapipe>=0\.10\.9,<0\.10\.22"'):
        run.annotate(annotator, torch.zeros(1, 8, 8, 3))


@both
def test_a_mediapipe_that_is_too_new_is_named(annotator, monkeypatch):
    new = types.ModuleType("mediapipe")
    new.__version__ = "0.10.35"
    monkeypatch.setitem(sys.modules, "mediapipe", new)
    with pytest.raises(DependencyError, match=r"mediapipe 0\.10\.35 is installed, which lacks"):
        run.annotate(annotator, torch.zeros(1, 8, 8, 3))


def test_nothing_to_find_is_an_error():
    with pytest.raises(ParameterError, match="all off"):
        run.annotate(POSE, torch.zeros(1, 8, 8, 3), {"body": False, "hands": False, "face": False})


def test_an_astronaut_is_found(installed, photo):
    hints = run.annotate(POSE, photo)
    (frame,) = parse(hints.keypoints)
    (person,) = frame.people
    assert (frame.width, frame.height) == (512, 512)
    # As one sees in the picture.
    assert np.abs(person[NOSE, :2] - (222, 116)).max() < 12
    assert 225 < person[NECK, 1] < 275 and 190 < person[NECK, 0] < 230
    assert (person[FACE, 2] == 1).all()
    low, high = person[FACE, :2].min(0), person[FACE, :2].max(0)
    assert (low > (160, 70)).all() and (high < (290, 190)).all()
    assert torch.equal(hints.image, render([frame], threshold=0.0))
    without = parse(run.annotate(POSE, photo, {"face": False}).keypoints)[0].people[0]
    assert not without[FACE].any() and np.array_equal(without[:18], person[:18])


def test_the_mesh_equals_controlnet_auxs(installed, photo):
    with quietly():
        theirs = network_module("mediapipe_face.mediapipe_face_common").generate_annotation(
            (photo[0] * 255).byte().numpy(), 1, 0.5
        )
    ours = (run.annotate(FACE_MESH, photo, {"faces": 1}).image[0] * 255).round().byte().numpy()
    assert theirs.any() and np.array_equal(ours, theirs)


@both
def test_a_batch_is_as_its_pictures_alone_and_nobody_is_black(installed, photo, annotator):
    batch = torch.cat([photo, torch.zeros_like(photo), photo.flip(2), photo, photo.roll(16, 2)])
    together = run.annotate(annotator, batch)
    for i in range(len(batch)):
        alone = run.annotate(annotator, batch[i : i + 1])
        assert torch.equal(alone.image[0], together.image[i])
        assert annotator is FACE_MESH or alone.keypoints[0] == together.keypoints[i]
    assert not together.image[1].any() and together.image[2].any()


@both
@pytest.mark.parametrize("size", [(1, 1), (17, 33), (8, 1024)])
def test_any_size_comes_out_as_it_went_in(installed, annotator, size):
    hints = run.annotate(annotator, torch.rand(1, *size, 3, generator=torch.manual_seed(0)))
    assert hints.image.shape == (1, *size, 3) and hints.image.isfinite().all()

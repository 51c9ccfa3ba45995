"""Canny against OpenCV, on every kind of picture."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from annotators.run import annotate
from annotators.table import find

sizes = st.sampled_from([(1, 1), (17, 33), (33, 17), (1, 9), (64, 64)])


def pixels(seed: int, size: tuple[int, int], channels: int = 3) -> np.ndarray:
    """A picture with edges of every strength, uint8 [H,W,C]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (-(-size[0] // 6), -(-size[1] // 6), channels), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(6, 0).repeat(6, 1)[: size[0], : size[1]])


def canny(images: torch.Tensor, low: int = 100, high: int = 200) -> torch.Tensor:
    return annotate(find("canny"), images, {"low_threshold": low, "high_threshold": high}).image


def as_image(*pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).float() / 255


def opencv(grey: np.ndarray, low: float = 100, high: float = 200) -> torch.Tensor:
    return torch.from_numpy(cv2.Canny(np.ascontiguousarray(grey), low, high)).float() / 255


@given(seed=st.integers(0, 1000), size=sizes, low=st.integers(0, 300), more=st.integers(0, 300))
def test_a_colour_picture_gives_opencvs_edges(seed, size, low, more):
    picture = pixels(seed, size)
    edges = canny(as_image(picture), low, low + more)
    expected = opencv(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), low, low + more)
    assert edges.shape == (1, *size, 3)
    assert all(torch.equal(edges[0, ..., c], expected) for c in range(3))


def test_a_grey_picture_gives_opencvs_edges():
    picture = pixels(1, (40, 30), channels=1)
    assert torch.equal(canny(as_image(picture))[0, ..., 0], opencv(picture[..., 0]))


def test_transparent_places_are_black():
    picture = pixels(2, (40, 30), channels=4)
    picture[..., 3] = np.where(picture[..., 3] > 127, 255, 0)
    flat = np.where(picture[..., 3:] > 0, picture[..., :3], 0)
    assert torch.equal(canny(as_image(picture)), canny(as_image(flat)))


def test_the_pictures_of_a_batch_do_not_meet():
    pictures = [pixels(seed, (24, 31)) for seed in range(3)]
    edges = canny(as_image(*pictures))
    for i, picture in enumerate(pictures):
        assert torch.equal(edges[i : i + 1], canny(as_image(picture)))


def test_there_are_edges_where_a_square_begins_and_nowhere_else():
    image = torch.zeros(1, 32, 32, 3)
    image[:, 8:24, 8:24] = 1
    edges = canny(image)[0, ..., 0]
    assert set(edges.unique().tolist()) == {0.0, 1.0}
    assert edges[12:20, 6:10].amax(1).eq(1).all()
    assert edges[:6].eq(0).all() and edges[11:21, 11:21].eq(0).all()


def test_values_that_are_no_numbers_count_as_black_and_values_beyond_the_range_do_not_wrap():
    image = torch.zeros(1, 32, 32, 3)
    image[:, 8:24, 8:24] = 1
    wild = torch.where(image > 0, 1.02, torch.nan)
    assert torch.equal(canny(wild), canny(image))


def test_the_picture_stays_as_it_was():
    image = as_image(pixels(3, (20, 20)))
    before = image.clone()
    canny(image)
    assert torch.equal(image, before)


def test_thresholds_the_wrong_way_round_are_refused():
    with pytest.raises(ValueError, match=r"low threshold 201.*high one 200"):
        canny(torch.zeros(1, 8, 8, 3), 201, 200)

"""The measures of control: perfect on the truth, low elsewhere, and indifferent to what does not matter."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cnet_core.errors import HintError
from cnet_core.fidelity import depth_rank_correlation, edge_f1, limb_iou, rank_correlation, transmission
from demo.scenes import HAZE, PALETTE, draw_scene

COLOURS = list(PALETTE.values())
SEEDS = st.integers(0, 10**6)


def measures(image, scene):
    return np.array([
        limb_iou(image, scene.figure_mask, scene.figure_colour, COLOURS, HAZE),
        depth_rank_correlation(image, scene.depth, HAZE),
        edge_f1(image, scene.edges),
    ])  # fmt: skip


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_a_scene_follows_its_own_hints(seed):
    scene = draw_scene(seed)
    iou, depth, edges = measures(scene.image, scene)
    assert iou > 0.93
    assert depth > 0.95
    assert edges == 1


def test_means_on_the_truth_and_on_other_layouts_of_the_same_caption():
    true, other = [], []
    for seed in range(30):
        scene = draw_scene(seed)
        true.append(measures(scene.image, scene))
        other.append(measures(draw_scene(10_000 + seed, colours_from=seed).image, scene))
    iou, depth, edges = np.mean(true, axis=0)
    assert iou > 0.95 and depth > 0.97 and edges == 1
    iou, depth, edges = np.mean(other, axis=0)
    assert iou < 0.3 and depth < 0.75 and edges < 0.35


def test_small_faults_cost_little():
    scene = draw_scene(3)
    noise = np.random.default_rng(0).normal(0, 0.02, scene.image.shape)
    worn = np.clip(cv2.GaussianBlur(scene.image / 255, (0, 0), 0.8) + noise, 0, 1)
    iou, depth, edges = measures(worn, scene)
    assert iou > 0.85 and depth > 0.93 and edges > 0.75


@given(SEEDS)
@settings(max_examples=15, deadline=None)
def test_shifting_lowers_every_measure(seed):
    scene = draw_scene(seed)
    scores = [measures(np.roll(scene.image, shift, axis=1), scene) for shift in (0, 6, 24)]
    for nearer, farther in pairwise(scores):
        assert farther[0] < nearer[0]
    assert scores[1][2] < 0.85 and scores[2][1] < scores[0][1]


def test_shifts_within_the_tolerance_are_forgiven():
    scene = draw_scene(4)
    moved = np.concatenate([scene.image[:, :1], scene.image[:, :1], scene.image[:, :-2]], axis=1)
    assert edge_f1(moved, scene.edges, tolerance=2) > 0.97
    assert edge_f1(moved, scene.edges, tolerance=0) < edge_f1(moved, scene.edges, tolerance=2)


@given(SEEDS, st.floats(0.2, 5), st.floats(0.1, 100), st.floats(-10, 10))
@settings(max_examples=15, deadline=None)
def test_depth_measure_knows_only_the_order(seed, power, scale, shift):
    scene = draw_scene(seed, 64)
    depth = np.round(scene.depth.astype(np.float64), 3)
    bent = np.round(depth**power * scale + shift, 12)
    expected = depth_rank_correlation(scene.image, depth, HAZE)
    assert depth_rank_correlation(scene.image, bent, HAZE) == pytest.approx(expected, abs=1e-3)
    assert depth_rank_correlation(scene.image, -depth, HAZE) == pytest.approx(-expected, abs=1e-9)


@given(st.lists(st.integers(-5, 5), min_size=2, max_size=40))
@settings(max_examples=60, deadline=None)
def test_rank_correlation_laws(values):
    x = np.array(values, float)
    y = np.roll(x, 1)
    one = 1.0 if len(set(values)) > 1 else 0.0
    assert rank_correlation(x, x) == pytest.approx(one)
    assert rank_correlation(x, -x) == pytest.approx(-one)
    assert rank_correlation(x, y) == pytest.approx(rank_correlation(y, x))
    assert rank_correlation(np.exp(x), y) == pytest.approx(rank_correlation(x, y))


def test_rank_correlation_gives_ties_their_mean_rank():
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5).
    assert rank_correlation([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(4.5 / np.sqrt(4.5 * 5))


def test_tensors_bytes_and_floats_agree():
    scene = draw_scene(8)
    floats = scene.image.astype(np.float32) / 255
    np.testing.assert_allclose(measures(floats, scene), measures(scene.image, scene), atol=1e-6)
    np.testing.assert_allclose(measures(torch.from_numpy(floats), scene), measures(floats, scene), atol=1e-6)


def test_transmission_undoes_the_mist():
    haze, colour = np.array([0.9, 0.95, 1.0]), np.array([0.8, 0.3, 0.0])
    for t in (0.0, 0.25, 0.7, 1.0):
        image = np.tile(t * colour + (1 - t) * haze, (4, 5, 1))
        np.testing.assert_allclose(transmission(image, haze), t, atol=1e-6)


def test_limb_iou_of_empty_and_full():
    red = np.zeros((8, 8, 3), np.float32)
    red[..., 0] = 0.8
    nothing, everything = np.zeros((8, 8), bool), np.ones((8, 8), bool)
    assert limb_iou(red, everything, (1, 0, 0)) == 1
    assert limb_iou(red, nothing, (1, 0, 0)) == 0
    assert limb_iou(red, nothing, (0, 0, 1)) == 1
    half = everything.copy()
    half[4:] = False
    assert limb_iou(red, half, (1, 0, 0)) == 0.5


def test_edges_of_blank_pictures():
    grey = np.full((32, 32, 3), 0.5, np.float32)
    assert edge_f1(grey, np.zeros((32, 32), np.uint8)) == 1
    lines = np.zeros((32, 32), np.uint8)
    lines[16] = 255
    assert edge_f1(grey, lines) == 0


@pytest.mark.parametrize("measure", [depth_rank_correlation, edge_f1])
def test_wrong_sizes_are_refused_with_the_mend(measure):
    picture = np.zeros((32, 32, 3), np.float32)
    with pytest.raises(HintError, match="Resize"):
        measure(picture, np.zeros((16, 16)))
    with pytest.raises(HintError, match="one by one"):
        measure(picture[None], np.zeros((32, 32)))

"""The synthetic scenes: repeatable, in range, and with hints and captions that tell what they should."""

import re

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnet_core.training.cache import Preparation
from cnet_core.training.data import read_folder
from cnet_core.training.validate import validate
from demo import pairs
from demo import skeleton as sk
from demo.scenes import HAZE, PALETTE, VOCABULARY, draw_scene, scene_batch
from demo.train import FIRST_TRAINING_SEED

SEEDS = st.integers(0, 2**31 - 1)
ARRAYS = ("image", "pose", "depth", "edges", "keypoints", "figure_mask")
TELLTALE = {
    "left", "right", "top", "bottom", "near", "far", "front", "behind", "above", "below", "big",
    "small", "large", "tall", "two", "one", "three", "several", "dancers", "sphere", "ball", "box",
    "cube", "cone", "cylinder", "hill", "arms", "raised", "kick", "walking", "sitting", "jumping",
    "standing",
}  # fmt: skip


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_the_same_seed_draws_the_same_scene(seed):
    first = draw_scene(seed)
    draw_scene(seed + 1, size=96)
    again = draw_scene(seed)
    assert first.caption == again.caption
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))


@given(SEEDS, st.sampled_from([64, 128, 192, 256]))
@settings(max_examples=25, deadline=None)
def test_shapes_types_and_ranges(seed, size):
    scene = draw_scene(seed, size)
    assert scene.image.shape == scene.pose.shape == (size, size, 3)
    assert scene.image.dtype == scene.pose.dtype == scene.edges.dtype == np.uint8
    assert scene.depth.shape == scene.edges.shape == scene.figure_mask.shape == (size, size)
    assert scene.depth.dtype == np.float32 and scene.figure_mask.dtype == bool
    assert scene.depth.min() >= 0 and scene.depth.max() <= 1
    assert set(np.unique(scene.edges)) <= {0, 255}
    assert scene.keypoints.shape in {(1, 18, 3), (2, 18, 3)}
    assert scene.image.flags["C_CONTIGUOUS"]


@given(SEEDS)
@settings(max_examples=40, deadline=None)
def test_every_joint_lies_on_the_figure(seed):
    scene = draw_scene(seed)
    columns, rows = np.round(scene.keypoints[..., :2].reshape(-1, 2)).astype(int).T
    assert scene.figure_mask[rows, columns].all()


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_figures_keep_off_the_border_and_are_nearer_than_what_they_cover(seed):
    scene = draw_scene(seed)
    mask = scene.figure_mask
    assert not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())
    # Outlines and the seams between limbs mix with what is behind them.
    inside = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert np.quantile(scene.depth[inside], 0.02) > 0.85
    assert 0.02 < mask.mean() < 0.4


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_depth_is_the_mist_of_the_picture(seed):
    scene = draw_scene(seed)
    dark = (scene.image / 255 / HAZE).min(axis=2)
    # Anti-aliased outlines mix two colours; everywhere else the dark channel is 1 - depth to eight bits.
    assert np.mean(np.abs(1 - dark - scene.depth) < 0.006) > 0.93


@given(SEEDS)
@settings(max_examples=100, deadline=None)
def test_captions_tell_colours_only(seed):
    scene = draw_scene(seed, 64)
    words = re.findall("[a-z]+", scene.caption)
    assert set(words) <= set(VOCABULARY)
    assert not set(words) & TELLTALE
    colours = [w for w in words if w in PALETTE]
    assert 3 <= len(colours) <= 5 and len(set(colours)) == len(colours)
    dancer = words[words.index("dancer") - 1]
    assert PALETTE[dancer] == scene.figure_colour


def test_vocabulary_is_small_closed_and_without_repeats():
    assert len(VOCABULARY) == len(set(VOCABULARY)) <= 32
    used = {w for seed in range(300) for w in re.findall("[a-z]+", draw_scene(seed, 64).caption)}
    assert set(PALETTE) <= used <= set(VOCABULARY)


def test_every_colour_is_saturated():
    for rgb in PALETTE.values():
        assert min(rgb) == 0 and max(rgb) > 0.6


@given(SEEDS, SEEDS)
@settings(max_examples=15, deadline=None)
def test_layout_and_colours_are_independent(layout, colours):
    own, other = draw_scene(colours), draw_scene(layout, colours_from=colours)
    assert other.caption == own.caption and other.figure_colour == own.figure_colour
    plain = draw_scene(layout)
    np.testing.assert_array_equal(other.keypoints, plain.keypoints)
    np.testing.assert_array_equal(other.pose, plain.pose)


def test_both_single_and_paired_figures_occur():
    counts = np.bincount([len(draw_scene(seed, 64).keypoints) for seed in range(200)])
    assert 0.65 < counts[1] / 200 < 0.92 and counts[1] + counts[2] == 200


def test_layouts_vary():
    scenes = [draw_scene(seed, 64) for seed in range(60)]
    centres = [np.argwhere(s.figure_mask).mean(axis=0) / 64 for s in scenes]
    assert np.std(centres, axis=0).min() > 0.03
    assert np.std([s.depth.mean() for s in scenes]) > 0.08


def test_batch_stacks_single_scenes():
    batch = scene_batch([5, 9], size=96)
    assert batch["image"].shape == (2, 96, 96, 3) and batch["depth"].shape == (2, 96, 96)
    assert batch["figure_colour"].shape == (2, 3)
    for i, seed in enumerate((5, 9)):
        scene = draw_scene(seed, 96)
        assert batch["caption"][i] == scene.caption
        for name in ("image", "pose", "depth", "edges", "figure_mask"):
            np.testing.assert_array_equal(batch[name][i], getattr(scene, name))


def test_skeleton_uses_the_standard_colours_and_skips_unseen_joints():
    points = np.zeros((1, 18, 3), np.float32)
    points[0, :, :2] = 20
    points[0, sk.NECK] = (40, 100, 1)
    points[0, sk.R_SHOULDER] = (140, 100, 1)
    drawing = sk.draw_skeleton(points, 192, 192)
    assert tuple(drawing[100, 40]) == (255, 85, 0)  # the neck
    assert tuple(drawing[100, 140]) == (255, 170, 0)  # the right shoulder
    assert tuple(drawing[100, 90]) == (153, 0, 0)  # their limb, at 60 %
    assert not drawing[:60].any()


@pytest.mark.parametrize(("thickness", "width"), [(1, 1), (3, 3), (7, 7), (None, 192 / 60)])
def test_skeleton_lines_have_the_asked_width_or_a_sixtieth_of_the_picture(thickness, width):
    points = np.zeros((1, 18, 3), np.float32)
    points[0, sk.NECK], points[0, sk.R_SHOULDER] = (20, 100, 1), (170, 100, 1)
    drawing = sk.draw_skeleton(points, 192, 240, thickness)
    assert drawing[:, 95, 0].sum() / 153 == pytest.approx(width, abs=0.1)


def test_limbs_are_a_tree_from_the_neck():
    ends = {end for _, end in sk.LIMBS}
    assert len(sk.LIMBS) == 17 and ends == set(range(18)) - {sk.NECK}
    assert all(start == sk.NECK or start in ends for start, _ in sk.LIMBS)


@pytest.mark.parametrize("seed", range(8))
def test_a_figure_that_faces_us_has_its_right_on_the_left(seed):
    """Mirrored or not."""
    pose = sk.random_pose(np.random.default_rng(seed), calm=True)
    assert pose[sk.R_SHOULDER, 0] < pose[sk.L_SHOULDER, 0] and pose[sk.R_HIP, 0] < pose[sk.L_HIP, 0]


def test_pairs_to_practise_on_are_sound_training_data(tmp_path):
    pairs.write(tmp_path, 3)
    sound, report = validate(read_folder(tmp_path), Preparation(128, 16), hints_made=True)
    assert len(sound.pairs) == 3 and not report.fatal
    words = " ".join(pair.caption.replace(",", "") for pair in sound.pairs).split()
    assert set(words) <= set(VOCABULARY)


def test_pairs_to_practise_on_are_of_no_scene_that_is_trained_or_measured_on(tmp_path):
    pairs.write(tmp_path, 2)
    captions = [path.read_text().strip() for path in sorted((tmp_path / "captions").iterdir())]
    assert captions == [draw_scene(pairs.FIRST_SEED + number, 64).caption for number in range(2)]
    assert pairs.FIRST_SEED > FIRST_TRAINING_SEED + 10**8


def test_pairs_go_into_a_new_folder_only(tmp_path, monkeypatch, capsys):
    own = tmp_path / "images" / "00000.png"
    own.parent.mkdir()
    own.write_bytes(b"mine")
    monkeypatch.setattr("sys.argv", ["pairs", str(tmp_path), "--count", "2"])
    with pytest.raises(SystemExit) as ended:
        pairs.main()
    assert ended.value.code == 1 and "could be written over" in capsys.readouterr().err
    assert own.read_bytes() == b"mine"

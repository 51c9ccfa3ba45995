"""The paper's claims in little: that the command runs and goes on, and that its intervals are intervals."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.claims.__main__ import main
from benchmarks.claims.bootstrap import interval
from benchmarks.claims.cells import Store
from benchmarks.claims.convergence import jumps, steepest
from benchmarks.claims.lab import Budget, Lab
from benchmarks.claims.pairs import Pairs
from benchmarks.claims.report import data, found, kernel_distances
from benchmarks.claims.trained import arms
from demo.scenes import draw_scene
from demo.train import HINTS

TINY = Budget(
    scenes=1,
    sampling=1,
    batch=2,
    steps=2,
    every=1,
    dense=1,
    probes=2,
    probe_sampling=1,
    finals=2,
    pairs=(2, 4),
    data_batch=2,
    data_steps=2,
    stds=(0.1,),
)
tables = st.lists(st.lists(st.floats(-100, 100), min_size=4, max_size=4), min_size=1, max_size=3)


def command(folder: Path, *more: str) -> list[str]:
    return ["--seeds", "1", "--out", str(folder / "claims.json"), "--cache", str(folder / "cache"), *more]


@given(tables, st.floats(-10, 10), st.floats(0.5, 10))
def test_an_interval_holds_its_mean_and_moves_with_the_values(table, shift, scale):
    found, moved = interval(table), interval(np.array(table) * scale + shift)
    assert np.min(table) - 1e-9 <= found.low <= found.high <= np.max(table) + 1e-9
    assert moved == pytest.approx([end * scale + shift for end in found], abs=1e-6)


def test_an_interval_of_equal_values_has_no_width():
    assert interval([[0.5] * 8] * 3) == (0.5, 0.5, 0.5)


def test_nine_of_ten_intervals_hold_the_truth():
    """95 % would, for many pictures; a bootstrap of 24 is a little too sure."""
    random = np.random.default_rng(0)
    found = [interval(random.normal(size=(1, 24)), seed) for seed in range(200)]
    assert 0.88 <= np.mean([one.low <= 0 <= one.high for one in found]) <= 0.98


def test_nineteen_of_twenty_resampled_means_are_between_the_bounds():
    low, high = interval(np.random.default_rng(0).normal(size=(1, 1000)))[1:]
    assert (high - low) / 2 == pytest.approx(1.96 / 1000**0.5, rel=0.06)


def test_both_seeds_and_pictures_are_resampled():
    assert interval([[0.0, 1.0] * 20] * 3).high > 0.55
    assert interval([[0.0] * 20, [1.0] * 20] * 3).high > 0.55


def test_figures_are_kept_to_four_digits_and_measured_again_under_other_settings(tmp_path):
    store = Store(tmp_path / "claims.json", tmp_path)
    assert store.get("zero-0", {"n": 1}, lambda: {"one": 1.23456, "rows": [0.000123456]})
    assert store.cells()["zero-0"]["found"] == {"one": 1.235, "rows": [0.0001235]}
    assert not store.get("zero-0", {"n": 1}, dict)
    assert store.get("zero-0", {"n": 2}, lambda: {"one": 2.0})


def test_seeds_come_in_the_order_of_their_numbers():
    cells = {f"lite-{seed}": {"found": {"seed": seed}} for seed in (10, 2, 1)}
    assert [one["seed"] for one in found(cells, "lite")] == [1, 2, 10]


def test_the_loss_without_control_is_that_of_the_beginning():
    final = {"depth": [0.5, 0.5], "pose": [0.1, 0.2], "features": [[0.0, 1.0], [1.0, 0.0]]}
    bare = {"base": final, "ceiling": final, "true": [[0.0, 1.0], [1.0, 0.0], [0.5, 0.2]]}
    trained = {"final": final, "curve": [{"loss": [0.9, 0.8]}, {"loss": [0.2, 0.1]}]}
    rows = data({"bare": {"found": bare}, "data-2-0": {"found": trained}}, Budget(pairs=(2,)))
    assert rows["no control"]["loss"] == [[0.9, 0.8]] and rows["2 pairs"]["loss"] == [[0.2, 0.1]]


def test_zero_convolutions_are_as_the_paper_says_and_measured_once(tmp_path, capsys):
    main(command(tmp_path, "--only", "zero"), TINY)
    first = (tmp_path / "claims.json").read_bytes()
    found = json.loads(first)["cells"]["zero-0"]["found"]
    assert found["equal"] and found["base_unharmed"]
    reached = [[norm > 0 for norm in step.values()] for step in found["gradients"]]
    assert reached == [[True, False, False, False], [True, True, True, False], [True] * 4]
    # What is finished is known from the cache, or from the report alone.
    capsys.readouterr()
    main(command(tmp_path, "--only", "zero"), TINY)
    (tmp_path / "cache" / "cells" / "zero-0.json").unlink()
    main(command(tmp_path, "--only", "zero"), TINY)
    assert capsys.readouterr().out == "zero-0: is there\n" * 2
    assert (tmp_path / "claims.json").read_bytes() == first
    main(command(tmp_path, "--only", "zero"), replace(TINY, rate=1e-3))
    assert "is there" not in capsys.readouterr().out


def test_the_whole_command_fills_tables_and_charts(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- benchmarks.claims -->\nold\n<!-- /benchmarks.claims -->\nafter\n")
    main(command(tmp_path, "--readme", str(readme)), TINY)
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    for row in (
        "no control",
        "zero convolutions",
        "gaussian, std 0.1",
        "2 pairs",
        "4 pairs",
        "priority",
        "regions",
        "conflicting",
    ):
        assert f"| {row} |" in text
    charts = {path.name for path in (tmp_path / "docs").iterdir()}
    assert charts == {"claims_ablation.png", "claims_convergence.png"}
    cells = json.loads((tmp_path / "claims.json").read_text())["cells"]
    trained = {name: cell["found"] for name, cell in cells.items() if "plan" in cell["settings"]}
    assert trained.keys() == {"zero-convolutions-0", "lite-0", "gaussian-0.1-0", "data-2-0", "data-4-0"}
    assert all(found["base_unharmed"] for found in trained.values())
    # What begins at zero draws the base's own pictures before its first step, and what does not, others.
    bare = cells["bare"]["found"]["base"]["depth"]
    first = {name: found["curve"][0]["depth"] for name, found in trained.items()}
    assert first["zero-convolutions-0"] == first["lite-0"] == bare != first["gaussian-0.1-0"]


def test_every_pair_is_seen_once_in_an_epoch(tmp_path):
    """Also over several files of the cache."""
    for count, rows in ((6, 2), (3000, 20)):
        pairs = Pairs(Lab(TINY, tmp_path), count)
        seen = [number for index in range(count // rows) for number in pairs.picked(index, rows, seed=1)]
        assert sorted(seen) == list(range(count))
        assert pairs.picked(0, rows, seed=1) != pairs.picked(count // rows, rows, seed=1)


def test_a_pair_is_a_scene_with_its_own_depth_and_caption(tmp_path):
    lab = Lab(TINY, tmp_path)
    batch = Pairs(lab, 4).batch(0, 4, seed=1, drop=0.0)
    scenes = [draw_scene(int(name.removeprefix("scene ")), TINY.size) for name in batch.names]
    assert len({scene.caption for scene in scenes}) == 4
    for row, scene in enumerate(scenes):
        assert torch.equal(batch.hints[row, 0], torch.from_numpy(HINTS["depth"](scene)[..., 0]))
    assert torch.allclose(batch.latents, lab.latents(scenes), atol=1e-4)
    assert torch.equal(batch.context, lab.context([scene.caption for scene in scenes]))


def test_trainings_that_compare_amounts_of_data_see_all_of_it(tmp_path):
    budget = Budget()
    lab, most = Lab(budget, tmp_path), max(budget.pairs)
    plan = arms(budget)[f"data-{most}"]
    pairs = Pairs(lab, most)
    seen = {n for i in range(plan.steps) for n in pairs.picked(i, plan.batch, seed=0)}
    assert seen == set(range(most))


def test_the_steepest_stretch_has_a_share_of_the_rise_and_an_end():
    share, end = steepest(np.array([0.0, 0.1, 0.9, 1.0]))
    assert share == pytest.approx(0.8) and end == 2


def test_a_jump_is_told_from_a_slope():
    """Curves that step, each picture at its own time, and curves that all rise alike, with noise."""
    random = np.random.default_rng(0)
    steps, moments = list(range(0, 210, 10)), random.integers(2, 18, size=24)
    noise = 0.02 * random.normal(size=(3, 24, 21))
    sudden = 0.5 * (np.arange(21) > moments[:, None]) + noise
    slow = 0.5 * np.linspace(0, 1, 21) + noise
    for curves, jumping in ((sudden, True), (slow, False)):
        found = jumps(curves, steps)
        assert found is not None and found.pictures == 24
        assert (found.share.low > found.gradual.high) == jumping
        # On the whole both rise alike: evenly.
        assert all(40 < first < 70 and 120 < last < 160 for first, last in found.middle)
        # A picture's moment is its own in every seed, or it is chance.
        assert (found.agreement[0] < 0.3 * found.agreement[1]) == jumping


def test_pictures_like_the_true_ones_have_no_distance_to_them():
    random = np.random.default_rng(0)
    true = random.normal(size=(200, 8)).tolist()
    alike = interval([kernel_distances(random.normal(size=(48, 8)).tolist(), true)])
    assert alike.low < 0 < alike.high
    assert interval([kernel_distances((random.normal(size=(48, 8)) + 1).tolist(), true)]).low > 0.1


@pytest.mark.parametrize("wrong", [["--seeds", "0"], ["--only", "speed"]])
def test_wrong_options_are_named(tmp_path, wrong, capsys):
    with pytest.raises(SystemExit):
        main(command(tmp_path, *wrong), TINY)
    assert wrong[1] in capsys.readouterr().err

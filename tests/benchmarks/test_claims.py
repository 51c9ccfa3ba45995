"""The paper's claims in little: that the command runs and goes on, and that its intervals are intervals."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.claims.__main__ import main
from benchmarks.claims.bootstrap import interval
from benchmarks.claims.lab import Budget

TINY = Budget(scenes=2, sampling=1)
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


def test_the_command_finds_what_the_paper_says_of_zero_convolutions(tmp_path):
    main(command(tmp_path, "--only", "zero"), TINY)
    found = json.loads((tmp_path / "claims.json").read_text())["cells"]["zero-0"]["found"]
    assert found["equal"] and found["base_unharmed"]
    reached = [[norm > 0 for norm in step.values()] for step in found["gradients"]]
    assert reached == [[True, False, False, False], [True, True, True, False], [True] * 4]


def test_what_is_finished_is_not_measured_again(tmp_path, capsys):
    main(command(tmp_path, "--only", "zero"), TINY)
    first = (tmp_path / "claims.json").read_bytes()
    capsys.readouterr()
    main(command(tmp_path, "--only", "zero"), TINY)
    assert capsys.readouterr().out == "zero-0: is there\n"
    assert (tmp_path / "claims.json").read_bytes() == first
    # From the report alone, and from the cache alone.
    for lost in [*(tmp_path / "cache" / "cells").iterdir()]:
        lost.unlink()
    main(command(tmp_path, "--only", "zero"), TINY)
    assert capsys.readouterr().out == "zero-0: is there\n"


def test_another_budget_is_measured_anew(tmp_path, capsys):
    main(command(tmp_path, "--only", "prompts"), TINY)
    main(command(tmp_path, "--only", "prompts"), Budget(scenes=2, sampling=2))
    assert "is there" not in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--seeds", "0"], ["--only", "speed"]])
def test_wrong_options_are_named(tmp_path, wrong, capsys):
    with pytest.raises(SystemExit):
        main(command(tmp_path, *wrong), TINY)
    assert wrong[1] in capsys.readouterr().err

"""The benchmark at its smallest: that it runs, that all compute the same, and that its figures are right."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.report import summary, table

REPO = Path(__file__).resolve().parents[2]


def test_runs_without_comfyui(tmp_path):
    """Ours in minihost, beside diffusers where it is installed."""
    result = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks", "--comfyui", "none", "--base", "tiny", "--size", "64"]
    command += ["--rounds", "1", "--steps", "1", "--controls", "0,2", "--threads", "1", "--json", str(result)]
    done = subprocess.run(command, check=False, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(result.read_text())
    assert "built-in" in report["left_out"]
    assert "Left out: built-in" in done.stdout
    assert "ours, seconds per step" in done.stdout
    peers = {"diffusers"} if importlib.util.find_spec("diffusers") else set()
    assert report["seconds_per_step"].keys() == {"ours", *peers}
    bare, controlled = report["agreement"]
    assert bare["moved_by_controls"] == 0 < 0.1 < controlled["moved_by_controls"]
    for row in report["agreement"]:
        assert row["max_abs_difference"].keys() == peers
        assert all(value < 1e-3 for value in row["max_abs_difference"].values())


def test_figures():
    """Ratios are taken within each round; a control's share is that of its own implementation's bare step."""
    raw = {
        "machine": {
            "cpu": "a cpu",
            "cores": 2,
            "threads": 2,
            "torch": "2",
            "diffusers": None,
            "host": "a host",
        },
        "settings": {"base": "sd15", "size": 256, "rounds": 3, "steps": 4, "clock": "wall", "host_args": []},
        "left_out": {"diffusers": "not installed"},
        "agreement": [],
        "seconds_per_step": {
            "ours": {"0": [2.0, 4.0, 6.0], "2": [3.0, 8.0, 15.0]},
            "built-in": {"0": [2.0, 4.0, 6.0], "2": [6.0, 10.0, 10.0]},
        },
    }
    report = summary(raw)
    assert report["medians"]["ours"] == {"0": 4.0, "2": 8.0}
    assert report["ratios"]["ours / built-in"]["2"] == {"median": 0.8, "min": 0.5, "max": 1.5}
    assert report["added_per_control"]["ours"] == {"2": {"median": 0.5, "min": 0.25, "max": 0.75}}
    assert "| ours, added per control |  | 50.0% |" in table(report)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--size", "100"], "multiple of 64"),
        (["--rounds", "0"], "at least 1"),
        (["--controls", "1,x"], "such as 0,1,2"),
        (["--clock", "cpu"], "--threads 1"),
        (["--comfyui", "/nowhere"], "comfy/controlnet.py"),
    ],
)
def test_wrong_options_are_told(arguments, said):
    command = [sys.executable, "-m", "benchmarks", *arguments]
    done = subprocess.run(command, check=False, cwd=REPO, capture_output=True, text=True)
    assert done.returncode != 0
    assert said in done.stderr

"""The benchmark at its smallest: that it runs, that all compute the same, and that its figures are right."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as benchmark
from benchmarks import measure
from benchmarks.economy import COMPUTED, Clocked, alike, phases, shares
from benchmarks.measure import check_memory, figures, number_of_networks, peak_bytes, stepping
from benchmarks.report import summary, table
from benchmarks.weights import BASES, bytes_of, even_timesteps
from cnet_core.control.reuse import ECONOMIES
from cnet_core.networks.controlnet import ControlNet
from cnet_core.networks.unet import UNet
from minihost import shims

REPO = Path(__file__).resolve().parents[2]
# What both of the measurements within this process have in common.
SMALL = {
    "size": 64,
    "networks": 1,
    "rounds": 1,
    "steps": 1,
    "clock": "wall",
    "device": "cpu",
    "compile": False,
    "comfyui": None,
    "host_args": [],
}


def test_runs_without_comfyui(tmp_path):
    """Ours in minihost, beside diffusers where it is installed."""
    result = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks", "--comfyui", "none", "--base", "tiny", "--size", "64"]
    command += ["--rounds", "1", "--steps", "1", "--controls", "3", "--networks", "2", "--threads", "1"]
    command += ["--json", str(result)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, check=False, cwd=REPO, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not list(tmp_path.glob("cnet-benchmark-*"))
    report = json.loads(result.read_text())
    assert "built-in" in report["left_out"]
    assert "Left out: built-in" in done.stdout
    for part in (
        "ours, seconds per step",
        "ours, merged, peak memory of a step",
        "seconds to load",
        "2 networks",
    ):
        assert part in done.stdout
    peers = {"ours, merged"} | ({"diffusers"} if importlib.util.find_spec("diffusers") else set())
    assert report["seconds_per_step"].keys() == report["peak_bytes"].keys() == {"ours", *peers}
    assert report["seconds_per_step"]["ours, merged"].keys() == {"3"}
    assert_all_agree(report, peers)
    # The bare step is measured, asked for or not.
    peaks = report["peak_bytes"]["ours"]
    assert 0 < peaks["0"] < peaks["3"]
    # Two networks' files, mapped, beside what a step takes.
    whole, files = report["whole_peak_bytes"], 2 * report["load"]["file_bytes"]
    assert whole.keys() == {"ours", "ours, merged"}
    assert whole["ours"]["0"] < files < whole["ours"]["3"] < 1.1 * files + peaks["3"]
    loaded = report["load"]["loaders"]["ours"]
    # Mapped, not copied: a copy would be as much again.
    assert loaded["peak_bytes"] < 1.1 * report["load"]["file_bytes"]
    assert len(loaded["seconds"]) == len(loaded["read_seconds"]) == 1


def test_sdxls_topology(tmp_path):
    """With a vector condition, which all take as it is."""
    settings = {**SMALL, "base": "tiny-sdxl", "measures": ["steps"], "controls": [0, 2]}
    with torch.inference_mode():
        raw = figures(settings, tmp_path)
    shims.folder_paths.folder_names_and_paths["controlnet"][0].remove(str(tmp_path))
    assert raw["left_out"].keys() == {"built-in", "diffusers"}
    assert_all_agree(raw, {"ours, merged"})
    assert "share 1 network" in table(summary(raw))


def test_the_cost_of_economised_controls(tmp_path):
    """Each phase of a run is timed once a round."""
    settings = {**SMALL, "base": "tiny", "measures": ["economy"], "controls": [0, 1], "rounds": 2}
    with torch.inference_mode():
        raw = figures(settings, tmp_path)
    shims.folder_paths.folder_names_and_paths["controlnet"][0].remove(str(tmp_path))
    assert raw["economy"]["phases"].keys() == {"0", "1"}
    assert all(len(rounds) == 2 for rounds in raw["economy"]["phases"].values())
    assert 0 < raw["economy"]["peak_bytes"]["0"] < raw["economy"]["peak_bytes"]["1"]
    for row in ("exact", "light", "strong", "computed step", "predicted step", "peak memory in MB"):
        assert f"| {row} |" in table(summary(raw))


def test_figures_of_economised_controls():
    """A run is put together of its first step, the other computed ones and the predicted ones."""
    bare = {"first": 5.0, "computed": 4.0, "predicted": 4.0}
    two = {"first": 9.0, "computed": 7.2, "predicted": 4.4}
    exact, built_in = {"first": 8.6, "computed": 7.0}, {"first": 9.8, "computed": 8.0}
    economy = {"phases": {"0": [bare], "2": [two]}, "exact": {"2": [exact]}, "built_in": {"2": [built_in]}}
    economy["peak_bytes"] = {"0": 1_000_000, "2": 2_500_000}
    (found,) = shares(economy).values()
    expected = {"computed": 0.4, "predicted": 0.05}
    expected["exact"] = (0.45 + 29 * 0.375) / 30
    expected["built-in"] = (0.6 + 29 * 0.5) / 30
    for name in ("light", "strong"):
        computed = len(ECONOMIES[name].plan([i / 30 for i in range(30)]))
        expected[name] = (0.5 + (computed - 1) * 0.4 + (30 - computed) * 0.05) / 30
    assert found == pytest.approx(expected)
    assert "| peak memory in MB | 2.5 |" in table(summary(raw_figures() | {"economy": economy}))


def test_steps_of_a_run_are_told_apart_by_their_kind():
    """Of five steps 0, 2 and 3 are computed, and the last is predicted from all that is kept."""
    assert set(COMPUTED) == {0, 2, 3}
    assert phases([9.0, 1.0, 4.0, 6.0, 2.0]) == {"first": 9.0, "computed": 5.0, "predicted": 2.0}
    assert alike([9.0, 4.0, 6.0]) == {"first": 9.0, "computed": 5.0}


def test_a_step_lasts_from_the_end_of_the_one_before():
    clock = Clocked(iter([1.0, 3.0, 4.0, 8.0]).__next__)
    for _ in range(3):
        clock()
    assert clock.seconds == [2.0, 1.0, 4.0]


def test_seconds_are_those_of_one_step_and_another_begins_in_each_round(monkeypatch):
    order, now = [], [0.0]

    class Implementation:
        def __init__(self, name, cost):
            self.name, self.cost = name, cost

        def sample(self, count, timesteps):
            order.append(self.name)
            now[0] += self.cost * len(timesteps)

    monkeypatch.setitem(measure.CLOCKS, "counted", lambda: now[0])
    settings = {"controls": [1], "steps": 4, "rounds": 2, "clock": "counted"}
    both = {"ours": Implementation("ours", 2.0), "built-in": Implementation("built-in", 3.0)}
    assert stepping(both, settings) == {"ours": {"1": [2.0, 2.0]}, "built-in": {"1": [3.0, 3.0]}}
    assert order == ["ours", "built-in", "built-in", "ours"]


def test_timesteps_of_a_run_are_even():
    assert even_timesteps(4) == [800, 600, 400, 200]


def test_the_peak_is_the_most_at_once():
    def run():
        for _ in range(3):
            torch.empty(1 << 20, dtype=torch.uint8)

    assert 1 << 20 <= peak_bytes(run) < 2 << 20


@pytest.mark.parametrize(
    ("base", "asked", "made"), [("sd15", None, 3), ("sdxl", None, 1), ("sdxl", 2, 2), ("sdxl", 9, 3)]
)
def test_at_sdxls_size_all_controls_share_one_network_unless_asked(base, asked, made):
    settings = {"base": base, "controls": [0, 3], "networks": asked, "measures": ["steps"]}
    assert number_of_networks(settings) == made
    assert number_of_networks({**settings, "measures": ["load"]}) == 1


def assert_all_agree(report: dict, peers: set[str]) -> None:
    bare, controlled = report["agreement"]
    assert bare["moved_by_controls"] == 0 < 0.1 < controlled["moved_by_controls"]
    assert controlled["max_abs_difference"].keys() == peers
    assert bare["max_abs_difference"].keys() == peers - {"ours, merged"}
    for row in report["agreement"]:
        assert all(value < 1e-3 for value in row["max_abs_difference"].values())


def test_what_does_not_fit_into_memory_is_not_begun():
    with pytest.raises(SystemExit, match="fewer --networks"):
        check_memory(BASES["sdxl"], 10_000, torch.float32)


def test_every_network_needs_its_own_memory(monkeypatch):
    config = BASES["sd15"]
    unet, network = (bytes_of(kind(config, device="meta"), torch.float32) for kind in (UNet, ControlNet))
    monkeypatch.setattr(measure, "available_bytes", lambda: measure.HEADROOM + unet + 4 * network)
    check_memory(config, 4, torch.float32)
    with pytest.raises(SystemExit, match="fewer --networks"):
        check_memory(config, 5, torch.float32)


def raw_figures() -> dict:
    return {
        "machine": {
            "cpu": "a cpu",
            "gpu": None,
            "cores": 2,
            "threads": 2,
            "torch": "2",
            "diffusers": None,
            "host": "a host",
        },
        "settings": {
            "base": "sd15",
            "size": 256,
            "controls": [0, 1, 2],
            "networks": 1,
            "rounds": 3,
            "steps": 4,
            "clock": "wall",
            "device": "cpu",
        },
        "floor": 0.33,
        "left_out": {"diffusers": "not installed"},
        "agreement": [],
    }


def test_figures_of_steps():
    """Ratios are taken within each round; a control's share is that of its own implementation's bare step."""
    raw = raw_figures() | {
        "seconds_per_step": {
            "ours": {"0": [2.0, 4.0, 6.0], "2": [3.0, 8.0, 15.0]},
            "ours, merged": {"2": [3.0, 6.0, 9.0]},
            "built-in": {"0": [2.0, 4.0, 6.0], "2": [6.0, 10.0, 10.0]},
        },
    }
    report = summary(raw)
    assert report["medians"]["ours"] == {"0": 4.0, "2": 8.0}
    assert report["ratios"]["ours / built-in"]["2"] == {"median": 0.8, "min": 0.5, "max": 1.5}
    assert report["ratios"]["ours, merged / built-in"].keys() == {"2"}
    assert report["added_per_control"]["ours"] == {"2": {"median": 0.5, "min": 0.25, "max": 0.75}}
    assert report["added_per_control"]["ours, merged"]["2"]["median"] == 0.25
    shown = table(report)
    assert "| ours, added per control |  | 50.0% |" in shown
    assert "share 1 network" in shown and "is 33%." in shown
    assert "peak memory" not in shown and "seconds to load" not in shown


def test_the_heading_names_the_gpu_where_there_is_one():
    raw = raw_figures()
    assert table(summary(raw)).startswith("sd15, a cpu; cores 2")
    raw["machine"]["gpu"] = "a gpu"
    assert table(summary(raw)).startswith("sd15, a gpu; cores 2")


def test_networks_one_for_each_control_are_not_said_to_be_shared():
    raw = raw_figures()
    raw["settings"]["networks"] = 2
    assert "the controls share" not in table(summary(raw))


def test_figures_of_memory_and_loading():
    raw = raw_figures() | {
        "peak_bytes": {
            "ours": {"0": 1_000_000, "2": 3_000_000},
            "ours, merged": {"2": 4_500_000},
            "built-in": {"0": 1_000_000, "2": 5_000_000},
        },
        "whole_peak_bytes": {"ours": {"0": 1_000_000, "2": 7_000_000}},
        "load": {
            "file_bytes": 1_450_000_000,
            "loaders": {
                "ours": {"peak_bytes": 0, "seconds": [0.1, 0.2, 0.9], "read_seconds": [1.0, 2.0, 3.0]},
                "built-in": {"peak_bytes": 2e9, "seconds": [3, 4, 5], "read_seconds": [4, 5, 6]},
            },
        },
    }
    shown = table(summary(raw))
    assert "| ours, merged, peak memory of a step in MB |  | 4.5 |" in shown
    assert "| ours, peak memory in all in MB | 1.0 | 7.0 |" in shown
    assert "| ours | 0.200 | 2.000 | 0.0 |" in shown
    assert "| built-in | 4.000 | 5.000 | 2000.0 |" in shown
    assert "1.45 GB" in shown
    assert "seconds per step" not in shown


def test_a_measuring_process_that_fails_is_named(monkeypatch, tmp_path):
    """Here because Python does not find its own library."""
    monkeypatch.setenv("PYTHONHOME", str(tmp_path))
    with pytest.raises(SystemExit, match=r"The measuring process, .* failed"):
        benchmark.measure(sys.executable, {})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--size", "100"], "multiple of 64"),
        (["--rounds", "0"], "at least 1"),
        (["--controls", "1,x"], "such as 0,1,2"),
        (["--measure", "steps,weather"], "steps,memory,economy,load"),
        (["--clock", "cpu"], "--threads 1"),
        (["--comfyui", "/nowhere"], "comfy/controlnet.py"),
    ],
)
def test_wrong_options_are_told(arguments, said):
    command = [sys.executable, "-m", "benchmarks", *arguments]
    done = subprocess.run(command, check=False, cwd=REPO, capture_output=True, text=True)
    assert done.returncode != 0
    assert said in done.stderr

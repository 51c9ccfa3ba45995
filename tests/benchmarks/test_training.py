"""The benchmark of a training step at its smallest: that all compute the same, and what it reports."""

import argparse
import json
from pathlib import Path
from statistics import median

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize(("precision", "close"), [("fp32", 1e-5), ("bf16", 5e-3)])
def test_ours_the_scripts_and_the_bare_step(precision, close):
    from benchmarks.training import figures, table

    options = argparse.Namespace(
        base="tiny", size=64, batch=2, rounds=2, clock="cpu", device="cpu", precision=precision
    )
    report = figures(options)
    assert report["difference_of_losses"] < close
    names = {"ours", "diffusers", "bare UNet"}
    assert report["seconds"].keys() == report["memory_bytes"].keys() == names
    assert all(len(rounds) == 2 for rounds in report["seconds"].values())
    held = {name: own["held"] for name, own in report["memory_bytes"].items()}
    # The script holds its encoders too, and the bare UNet moments of all its own weights.
    assert held["ours"] < held["diffusers"] and held["ours"] < held["bare UNet"]
    assert json.loads(json.dumps(report)) == report
    totals = {name: sum(own.values()) for name, own in report["memory_bytes"].items()}
    for name, seconds in report["seconds"].items():
        assert f"| {name} | {median(seconds):.3f} |" in table(report)
        if name != "ours":
            ratios = [a / b for a, b in zip(report["seconds"]["ours"], seconds, strict=True)]
            assert report["seconds_ratio"][name]["median"] == pytest.approx(median(ratios))
            assert report["memory_ratio"][name] == pytest.approx(totals["ours"] / totals[name])


@pytest.mark.parametrize(
    ("name", "precision"), [("training", "fp32"), ("training_gpu", "fp32"), ("training_gpu_bf16", "bf16")]
)
def test_the_documents_tables_are_those_of_the_results(name, precision):
    from benchmarks.training import table

    report = json.loads((BENCHMARKS / "results" / f"{name}.json").read_text())
    notes, _, rows = table(report).partition("\n\n")
    assert f"{precision} on {report['settings']['device']}" in notes.replace("\n", " ")
    assert rows in (BENCHMARKS / "README.md").read_text()

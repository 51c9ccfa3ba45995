"""The shell's validate and cache."""

import argparse
import json
from pathlib import Path

import pytest
from PIL import Image

from cnet_core.checkpoints import load_unet
from cnet_core.errors import DataError
from cnet_core.training.cache import Cache
from cnet_core.training.data_commands import add_data_commands
from cnet_core.training.source import CachedSource

REPO = Path(__file__).parents[2]


def run(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    add_data_commands(parser.add_subparsers(required=True))
    arguments = parser.parse_args([str(word) for word in words])
    return arguments.run(arguments)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for kind in ("images", "hints", "captions"):
        (folder / kind).mkdir(parents=True)
    scene = Image.open(REPO / "workflows" / "inputs" / "scene.png")
    for name in ("a", "b"):
        scene.save(folder / "images" / f"{name}.png")
        scene.save(folder / "hints" / f"{name}.png")
        (folder / "captions" / f"{name}.txt").write_text(f"{name} in mist")
    return folder


CACHE = ("--encoders", REPO / "demo" / "weights", "--resolution", "128")


def test_validate_says_all_is_well_and_draws_the_sheet(data, tmp_path, capsys):
    assert run("validate", data, "--resolution", "128", "--sheet", tmp_path / "sheet.jpg") == 0
    assert "2 sound pairs (2 of 128x128), 0 errors" in capsys.readouterr().out
    assert Image.open(tmp_path / "sheet.jpg").height == 2 * 192


def test_validate_exits_with_one_and_names_the_orphan(data, capsys):
    (data / "hints" / "b.png").unlink()
    assert run("validate", data, "--resolution", "128", "--json") == 1
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem["kind"] == "orphan" and problem["where"].endswith("b.png")


def test_cache_refuses_broken_pairs_and_leaves_them_out_when_told(data, tmp_path, capsys):
    (data / "hints" / "b.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"b\.png cannot be read"):
        run("cache", data, "--out", tmp_path / "cache", *CACHE)
    assert not (tmp_path / "cache").exists()
    assert run("cache", data, "--out", tmp_path / "cache", *CACHE, "--skip-broken") == 0
    assert len(Cache(tmp_path / "cache")) == 1
    assert "1 examples, data " in capsys.readouterr().out


def test_skeletons_that_cannot_be_mirrored_are_named_and_left_out(data, tmp_path, capsys):
    Image.new("RGB", (256, 256)).save(data / "hints" / "b.png")
    mirroring = ("--hint-kind", "skeleton", "--mirror")
    assert run("validate", data, "--resolution", "128") == 0
    assert run("validate", data, "--resolution", "128", *mirroring) == 1
    assert "error: a: the hint: " in capsys.readouterr().out
    with pytest.raises(DataError, match="cannot be told apart"):
        run("cache", data, "--out", tmp_path / "cache", *CACHE, *mirroring)
    assert not (tmp_path / "cache").exists()
    run("cache", data, "--out", tmp_path / "cache", *CACHE, *mirroring, "--skip-broken")
    assert [e.name for e in Cache(tmp_path / "cache").manifest.examples] == ["b", "b (mirrored)"]


def test_the_help_teaches_the_layouts(capsys):
    with pytest.raises(SystemExit):
        run("validate", "--help")
    said = capsys.readouterr().out
    assert "metadata.jsonl" in said and "python -m annotators run" in said


def test_what_made_given_hints_is_written_down(data, tmp_path):
    assert run("cache", data, "--out", tmp_path / "cache", *CACHE, "--annotator", "Canny by hand") == 0
    base = load_unet(REPO / "demo" / "weights" / "unet.safetensors").config
    assert CachedSource(Cache(tmp_path / "cache"), base).facts["annotator"] == "Canny by hand"

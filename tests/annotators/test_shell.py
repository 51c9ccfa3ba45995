"""The shell of the annotators: what `list` says, and what `run` leaves in a folder."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from annotators import files, work
from annotators.__main__ import main
from annotators.errors import AnnotatorError
from annotators.networks import network_module
from annotators.registry import Annotation
from annotators.run import annotate
from annotators.table import ANNOTATORS, find


def picture(path, value=100, size=(12, 10)):
    """A file with a square in it."""
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[3:9, 2:8] = (value, 30, 60)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return path


def hints(folder):
    """The paths of the hints in a folder, and when each was written."""
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if _is_hint(p)}


def _is_hint(path):
    return path.is_file() and ".cnet" not in path.parts


@pytest.fixture
def folder(tmp_path):
    picture(tmp_path / "in/a.png", 90)
    picture(tmp_path / "in/sub/b.jpg", 160)
    picture(tmp_path / "in/sub/deep/c.webp", 230)
    (tmp_path / "in/sub/notes.txt").write_text("no picture")
    return tmp_path


@pytest.mark.parametrize(
    ("inputs", "made"),
    [
        (["in"], ["a.png", "sub/b.png", "sub/deep/c.png"]),
        (["in/a.png", "in/sub/b.jpg"], ["a.png", "b.png"]),
        (["in/sub/*.jpg"], ["b.png"]),
        (["in/**/*.*"], ["a.png", "sub/b.png", "sub/deep/c.png"]),
        (["in/s*"], None),
        (["in/a.png", "in/sub"], ["a.png", "b.png", "deep/c.png"]),
    ],
)
def test_files_folders_and_globs_keep_their_places(folder, monkeypatch, capsys, inputs, made):
    monkeypatch.chdir(folder)
    status = main(["run", "invert", *inputs, "out"])
    if made is None:
        assert status == 1 and f"{inputs[0]} names no picture" in capsys.readouterr().err
        return
    assert status == 0 and sorted(hints(folder / "out")) == made


def test_a_hint_is_what_annotate_makes_of_the_file(folder):
    words = ["--param", "low_threshold=20", "--param", "high_threshold=60", "--size", "24x16"]
    assert (
        main(["run", "canny", *words, "--resize", "fill", str(folder / "in/a.png"), str(folder / "out")]) == 0
    )
    values = {"low_threshold": 20, "high_threshold": 60}
    expected = annotate(
        find("canny"), files.read(folder / "in/a.png"), values, size=(16, 24), resize="fill"
    ).image
    assert expected.any() and torch.equal(files.read(folder / "out/a.png"), expected)


def test_progress_is_shown_and_the_output_kept_free(folder, capsys):
    assert main(["run", "invert", str(folder / "in"), str(folder / "out")]) == 0
    said = capsys.readouterr()
    assert said.out == "" and "3/3" in said.err and "picture" in said.err
    assert main(["run", "invert", str(folder / "in"), str(folder / "out")]) == 0
    assert "100%" in capsys.readouterr().err


def test_a_run_goes_on_where_it_ended(folder):
    words = ["run", "blur", str(folder / "in"), str(folder / "out")]
    assert main(words) == 0
    first = hints(folder / "out")
    assert main(words) == 0 and hints(folder / "out") == first
    (folder / "out/a.png").unlink()
    assert main(words) == 0
    changed = {name for name, time in hints(folder / "out").items() if first[name] != time}
    assert changed == {"a.png"}


def test_changed_pictures_and_settings_are_annotated_again(folder):
    words = ["run", "blur", str(folder / "in"), str(folder / "out")]
    size = picture(folder / "in/d.bmp", 20).stat().st_size
    assert main(words) == 0
    first = hints(folder / "out")
    picture(folder / "in/a.png", 20, (14, 10))
    # Of as many bytes as before.
    assert picture(folder / "in/d.bmp", 30).stat().st_size == size
    assert main(words) == 0
    second = hints(folder / "out")
    assert {name for name in first if first[name] != second[name]} == {"a.png", "d.png"}
    assert main([*words, "--param", "sigma=2"]) == 0
    third = hints(folder / "out")
    assert all(third[name] != second[name] for name in second)


def test_hints_that_ended_early_are_made_again(folder):
    """What is not known to be whole, because its stamp is void or of another file, is made anew."""
    words = ["run", "blur", str(folder / "in"), str(folder / "out")]
    assert main(words) == 0
    whole = (folder / "out/a.png").read_bytes()
    stamps = sorted((folder / "out").rglob("*.json"))
    assert len(stamps) == 3
    for damage in (lambda path: path.write_text("{}"), lambda path: path.write_text("{")):
        (folder / "out/a.png").write_bytes(b"half")
        damage(folder / "out/.cnet/a.png.json")
        assert main(words) == 0 and (folder / "out/a.png").read_bytes() == whole


def test_what_was_not_made_here_is_not_written_over(folder, capsys):
    own = picture(folder / "out/a.png", 7).read_bytes()
    assert main(["run", "invert", str(folder / "in"), str(folder / "out")]) == 1
    assert re.search(r"out.a\.png would be written over.*another OUTPUT_DIR", capsys.readouterr().err)
    assert hints(folder / "out").keys() == {"a.png"} and (folder / "out/a.png").read_bytes() == own


def test_an_output_that_is_a_file_is_named_before_anything_is_made(folder, capsys):
    """As where OUTPUT_DIR was forgotten behind a glob."""
    words = ["run", "invert", str(folder / "in/a.png"), str(folder / "in/sub/b.jpg")]
    assert main(words) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert "b.jpg, the last word, is where hints are written" in said


def test_a_drive_that_is_not_there_is_named(folder, capsys, monkeypatch):
    """On Linux one always is: of the output's folders none is found."""
    out, real = folder / "drive" / "out", os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: Path(path) not in (out, *out.parents) and real(path))
    assert main(["run", "blur", str(folder / "in"), str(out)]) == 1
    assert f"{out}, the last word, is where hints are written, and cannot be: " in capsys.readouterr().err


def test_hidden_folders_and_empty_words_are_no_inputs(folder, capsys):
    picture(folder / "in/.trash/d.png")
    main(["run", "invert", str(folder / "in"), str(folder / "out")])
    assert sorted(hints(folder / "out")) == ["a.png", "sub/b.png", "sub/deep/c.png"]
    assert main(["run", "invert", "", str(folder / "other")]) == 1
    assert "an input is empty" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["list"], ["list", "--json"]])
def test_a_reader_that_leaves_is_no_error(words):
    process = subprocess.Popen(
        [sys.executable, "-m", "annotators", *words],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert process.wait() == 141 and process.stderr.read() == b""


def test_ctrl_c_ends_in_a_line(folder, capsys, monkeypatch):
    def cancelled(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "read", cancelled)
    assert main(["run", "invert", str(folder / "in"), str(folder / "out")]) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_a_folder_within_the_input_is_no_input(folder):
    words = ["run", "invert", str(folder / "in"), str(folder / "in/hints")]
    assert main(words) == 0 and main(words) == 0
    assert sorted(hints(folder / "in/hints")) == ["a.png", "sub/b.png", "sub/deep/c.png"]


def test_a_picture_in_the_output_folder_is_named_as_such(folder, capsys):
    assert main(["run", "invert", str(folder / "in/a.png"), str(folder)]) == 1
    assert "a.png lies in the output folder" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are Unicode here")
def test_names_that_are_no_unicode_are_annotated(folder):
    odd = folder / "in" / os.fsdecode(b"caf\xe9.png")
    picture(folder / "in/z.png").rename(odd)
    for name in ("invert", "shuffle"):
        assert main(["run", name, str(folder / "in"), str(folder / name)]) == 0
        assert (folder / name / odd.name).is_file()


def test_two_pictures_of_one_hint_are_refused(folder, capsys):
    picture(folder / "in/a.jpg")
    assert main(["run", "invert", str(folder / "in"), str(folder / "out")]) == 1
    assert "would both become" in capsys.readouterr().err and not (folder / "out").exists()


def test_one_bad_file_does_not_end_a_run(folder, capsys):
    (folder / "in/bad.png").write_bytes(b"no picture")
    words = ["run", "invert", str(folder / "in"), str(folder / "out")]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "bad.png: the file is no picture" in said and "1 of 4 pictures" in said
    first = hints(folder / "out")
    assert len(first) == 3
    picture(folder / "in/bad.png")
    assert main(words) == 0
    assert hints(folder / "out").items() > first.items()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no_such", "in", "out"], "there is no annotator 'no_such'"),
        (["canny", "in", "out", "--param", "low=3"], "no parameter 'low'; it has low_threshold"),
        (["invert", "in", "out", "--param", "low=3"], "it has none"),
        (["canny", "in", "out", "--param", "low_threshold=many"], "expected a whole number"),
        (["canny", "in", "out", "--param", "low_threshold=1e3"], "expected a whole number"),
        (["canny", "in", "out", "--param", "low_threshold=-1"], "from 0 to 1000"),
        (["canny", "in", "out", "--param", "low_threshold"], "expected a whole number"),
        (["canny", "in", "out", "--param", "thresholds=some"], "choose one of fixed, automatic"),
        (["blur", "in", "out", "--param", "sigma=nan"], "expected a number"),
        (["blur", "in", "out", "--param", "sigma=1000"], "from 0.1 to 128"),
        (["canny", "in", "out", "--param", "low_threshold=300"], "low threshold 300.* above the high one"),
        (["blur", "in", "out", "--resolution", "0"], "resolution is 0"),
        (["blur", "in", "out", "--size", "0x8"], "sides begin at 1 pixel"),
        (["blur", "nowhere", "out"], "nowhere names no picture"),
        (["hed", "in", "out"], "fetch hed"),
    ],
)
def test_what_is_wrong_is_said_in_a_line_and_nothing_is_left(folder, monkeypatch, capsys, words, said):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CNET_ANNOTATORS", str(folder / "weights"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
    assert main(["run", *words]) == 1
    error = capsys.readouterr().err
    assert re.search(said, error) and "Traceback" not in error
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    "words", [["--size", "16"], ["--resize", "bend"], ["--dtype", "int8"], ["--workers", "9"]]
)
def test_words_that_are_no_options_end_with_the_usage(folder, capsys, words):
    with pytest.raises(SystemExit):
        main(["run", "blur", *words, str(folder / "in"), str(folder / "out")])
    assert words[1] in capsys.readouterr().err


def test_a_file_has_its_own_chances_whatever_else_is_annotated(folder):
    picture(folder / "in/sub/d.png", 40)
    main(["run", "shuffle", "--param", "scale=8", str(folder / "in/sub"), str(folder / "all")])
    main(["run", "shuffle", "--param", "scale=8", str(folder / "in/sub/d.png"), str(folder / "alone")])
    main(
        [
            "run",
            "shuffle",
            "--param",
            "scale=8",
            "--seed",
            "1",
            str(folder / "in/sub/d.png"),
            str(folder / "other"),
        ]
    )
    one, same, other = (files.read(folder / name / "d.png") for name in ("all", "alone", "other"))
    assert torch.equal(one, same) and not torch.equal(one, other)


def two_tones(path, low, high, size=(12, 10)):
    """A picture of mode "depth" below: grey, dark on the left."""
    pixels = np.full(size, low, np.uint8)
    pixels[:, 5:] = high
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return path


@pytest.fixture
def calls(monkeypatch):
    """An annotator of the table whose depth is the picture's grey, and how many pictures each call got."""
    made = []

    def grey(pictures, **parameters):
        made.append(len(pictures))
        if (pictures > 0.999).all(-1).all(-1).all(-1).any():
            raise RuntimeError("a white picture")
        return Annotation(depth=pictures[:, 0])

    one = replace(find("midas"), id="grey", annotate=grey, build=None, weights=(), multiple=1)
    monkeypatch.setitem(ANNOTATORS, "grey", one)
    return made


def test_pictures_of_one_size_go_together(tmp_path, calls):
    for i in range(20):
        two_tones(tmp_path / f"in/a{i:02}.png", 10 * i, 250)
    for name, size in (("b", (8, 10)), ("c", (2048, 2049)), ("d", (2048, 2049)), ("e", (8, 10))):
        two_tones(tmp_path / f"in/{name}.png", 30, 90, size)
    assert main(["run", "grey", "--extras", str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    assert calls == [16, 4, 1, 1, 1, 1]
    for i in range(20):
        assert np.load(tmp_path / f"out/a{i:02}.depth.npy")[0, 0] == np.float32(10 * i) / np.float32(255)
        assert files.read(tmp_path / f"out/a{i:02}.png")[0, 0].unique().tolist() == [0.0, 1.0]


def test_of_pictures_that_go_together_the_bad_one_alone_is_left_out(tmp_path, calls, capsys):
    for name, low in (("a", 3), ("b", 255), ("c", 9)):
        two_tones(tmp_path / f"in/{name}.png", low, 255)
    assert main(["run", "grey", str(tmp_path / "in"), str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "b.png: a white picture" in said and "1 of 3 pictures" in said
    assert sorted(hints(tmp_path / "out")) == ["a.png", "c.png"]


def test_a_sequence_has_one_span_and_is_made_as_a_whole(tmp_path, calls):
    for name, low in (("a", 0), ("b", 51), ("c", 102)):
        two_tones(tmp_path / f"in/{name}.png", low, 255)
    words = ["run", "grey", "--param", "span=sequence", str(tmp_path / "in"), str(tmp_path / "out")]

    def darkest():
        return [round(float(files.read(tmp_path / f"out/{name}.png").min()), 2) for name in "abc"]

    assert main(words) == 0
    assert darkest() == [0.0, 0.2, 0.4]
    first = hints(tmp_path / "out")
    assert main(words) == 0 and hints(tmp_path / "out") == first and calls == [3]
    (tmp_path / "out/b.png").unlink()
    assert main(words) == 0
    again = hints(tmp_path / "out")
    assert first.keys() == again.keys() and all(first[name] != again[name] for name in first)
    # A sequence that lost or changed a picture is another.
    (tmp_path / "in/a.png").unlink()
    assert main(words) == 0
    assert darkest() == [0.0, 0.0, 0.25]
    assert calls == [3, 3, 2]


def test_what_is_no_sequence_is_refused(tmp_path, calls, capsys):
    two_tones(tmp_path / "in/a.png", 0, 255)
    two_tones(tmp_path / "in/b.png", 0, 255, (10, 10))
    words = ["run", "grey", "--param", "span=sequence", str(tmp_path / "in"), str(tmp_path / "out")]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "b.png is 10x10" in said and "a.png 10x12" in said and "leave span=sequence away" in said
    (tmp_path / "in/b.png").write_bytes(b"no picture")
    assert main(words) == 1
    assert "b.png: the file is no picture" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_wrong_with_all_files_is_said_once(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    assert main(["run", "mediapipe_pose", str(folder / "in"), str(folder / "out")]) == 1
    assert capsys.readouterr().err.count("mediapipe, which is not installed") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a cuda device")
@pytest.mark.parametrize("device", ["cuda", "nonsense"])
def test_a_device_that_is_not_there_is_named(folder, capsys, device):
    words = ["hed", "--device", device, str(folder / "in"), str(folder / "out")]
    assert main(["run", *words]) == 1
    said = capsys.readouterr().err
    assert f"--device {device} cannot be used here" in said and "Traceback" not in said


def test_minus_one_is_refused_and_black_is_written(tmp_path, capsys):
    clear = np.full((4, 6, 4), 200, np.uint8)
    clear[:, :3, 3] = 0
    cv2.imwrite(str(tmp_path / "clear.png"), clear)
    words = ["run", "inpaint", str(tmp_path / "clear.png"), str(tmp_path / "out")]
    assert main(words) == 1
    assert "mark=black" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert main([*words, "--param", "mark=black"]) == 0
    made = files.read(tmp_path / "out/clear.png")[0, 0, :, 0]
    assert made[:3].eq(0).all() and made[3:].gt(0.7).all()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_pictures_of_every_format_are_turned_as_their_camera_says(tmp_path, suffix, turn):
    from PIL import Image, ImageOps

    rows = np.linspace(0, 255, 16)[:, None, None]
    columns = np.linspace(0, 255, 24)[None, :, None]
    pixels = np.concatenate(np.broadcast_arrays(rows, columns, 128.0), -1).round().astype(np.uint8)
    picture = Image.fromarray(pixels)
    exif = picture.getexif()
    exif[0x0112] = turn
    picture.save(
        tmp_path / f"a.{suffix}", exif=exif, **({"quality": 100} if suffix in ("jpg", "webp") else {})
    )
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / f"a.{suffix}")), np.float32) / 255
    found = files.read(tmp_path / f"a.{suffix}")[0].numpy()
    assert found.shape == expected.shape and np.abs(found - expected).max() < 0.1


def test_pictures_of_other_numbers_and_empty_files_are_named(folder, capsys):
    Image.fromarray(np.full((8, 8), 51000, np.int32)).save(folder / "in/whole.tif")
    (folder / "in/empty.png").write_bytes(b"")
    for annotator in ("invert", "depth_normals"):
        assert main(["run", annotator, str(folder / "in"), str(folder / annotator)]) == 1
        said = capsys.readouterr().err
        assert "whole.tif: the picture holds int32" in said and "empty.png: the file is empty" in said
        assert len(hints(folder / annotator)) == 3


def test_extras_are_written_beside_the_hint(folder):
    words = ["--extras", "--param", "min_length=3", str(folder / "in/a.png"), str(folder / "out")]
    assert main(["run", "lsd_lines", *words]) == 0
    lines = json.loads((folder / "out/a.lines.json").read_text())
    assert all(len(line) == 4 for line in lines)
    assert main(["run", "ade20k_colours", "--extras", str(folder / "in/a.png"), str(folder / "seg")]) == 0
    labels = np.load(folder / "seg/a.labels.npy")
    assert labels.shape == (12, 10) and labels.dtype == np.int64


def test_sixteen_bits_opacity_and_the_cameras_turn_are_read(tmp_path):
    deep = np.full((9, 8), 40000, np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    assert torch.allclose(files.read(tmp_path / "deep.png"), torch.tensor(40000 / 65535))
    clear = np.zeros((4, 6, 4), np.uint8)
    clear[..., 2], clear[:, :3, 3] = 255, 255
    cv2.imwrite(str(tmp_path / "clear.png"), clear)
    assert main(["run", "invert", str(tmp_path / "clear.png"), str(tmp_path / "out")]) == 0
    made = files.read(tmp_path / "out/clear.png")
    assert made[0, 0, 0].tolist() == [0, 1, 1] and made[0, 0, 5].tolist() == [1, 1, 1]
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (8, 4), "red").save(tmp_path / "turned.jpg", exif=exif)
    assert files.read(tmp_path / "turned.jpg").shape == (1, 8, 4, 3)


def test_the_list_says_what_there_is(capsys):
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    for annotator in ANNOTATORS.values():
        assert f"{annotator.id}: {annotator.condition}" in said
    assert "low_threshold=100" in said and "hed: soft edge (weights)." in said


def test_the_list_for_programs_says_all_that_a_program_needs(capsys):
    assert main(["list", "--json"]) == 0
    listed = {one["id"]: one for one in json.loads(capsys.readouterr().out)}
    assert list(listed) == list(ANNOTATORS)
    assert listed["canny"]["parameters"][0] | {"tooltip": ""} == {
        "type": "int", "name": "low_threshold", "default": 100, "minimum": 0, "maximum": 1000, "tooltip": "",
        "advanced": False,
    }  # fmt: skip
    assert listed["hed"]["weights"][0]["repository"] == "lllyasviel/Annotators"
    assert {"condition", "kind", "convention", "suits"} <= listed["bae"].keys()


@pytest.mark.parametrize(
    ("name", "device", "gpus", "needed"),
    [
        ("hed", None, 2, "GPU"),
        ("hed", None, 0, "CPU"),
        ("hed", "cuda", 1, "GPU"),
        ("hed", "cpu", 2, "CPU"),
        ("canny", None, 2, "CPU"),
        ("canny", "cuda", 2, "CPU"),
    ],
)
def test_a_worker_gets_a_gpu_where_its_network_can_use_one(name, device, gpus, needed):
    cluster = {"CPU": 8.0, "memory": 1e9} | ({"GPU": float(gpus)} if gpus else {})
    assert work.needed(work.Job(name, {}, device=device), cluster) == needed


def test_a_cluster_without_the_gpu_that_was_asked_for_is_named():
    with pytest.raises(AnnotatorError, match="--device cuda needs a GPU, and the Ray cluster has none"):
        work.needed(work.Job("hed", {}, device="cuda"), {"CPU": 8.0})


@pytest.fixture(scope="module")
def ray():
    """Ray, which ends with the tests whatever they do."""
    ray = pytest.importorskip("ray")
    yield ray
    ray.shutdown()


def test_a_local_ray_cluster_makes_the_same_hints(folder, capsys, ray):
    (folder / "in/bad.png").write_bytes(b"no picture")
    words = ["shuffle", "--param", "scale=8", str(folder / "in")]
    assert main(["run", *words, str(folder / "here")]) == 1
    capsys.readouterr()
    assert main(["run", *words, "--workers", "ray", str(folder / "spread")]) == 1
    said = capsys.readouterr().err
    assert "bad.png: the file is no picture" in said and "4/4" in said
    assert hints(folder / "here").keys() == hints(folder / "spread").keys()
    for name in hints(folder / "here"):
        assert (folder / "here" / name).read_bytes() == (folder / "spread" / name).read_bytes()
    first = hints(folder / "spread")
    assert main(["run", *words, "--workers", "ray", str(folder / "spread")]) == 1
    assert hints(folder / "spread") == first and not ray.is_initialized()


def test_what_is_wrong_with_the_settings_is_said_by_a_cluster_too(folder, capsys, ray):
    words = ["canny", "--param", "low_threshold=300", str(folder / "in"), str(folder / "out")]
    assert main(["run", *words, "--workers", "ray"]) == 1
    said = capsys.readouterr().err
    assert "low threshold 300" in said and "Traceback" not in said


def test_networks_of_a_cluster_with_gpus_reserve_them(folder, capsys, ray, monkeypatch):
    """On GPUs that Ray is told of: where there is none in truth, the workers say so of the device."""
    pytest.importorskip("controlnet_aux")
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", '{"GPU": 2}')
    weight = find("hed").weights[0]
    path = folder / "weights" / weight.file
    path.parent.mkdir()
    torch.save(network_module("hed").ControlNetHED_Apache2().state_dict(), path)
    monkeypatch.setenv("CNET_ANNOTATORS", str(path.parent))
    words = ["hed", str(folder / "in"), "--workers", "ray"]
    assert main(["run", *words, str(folder / "out")]) == 0
    assert len(hints(folder / "out")) == 3
    if not torch.cuda.is_available():
        assert main(["run", *words, "--device", "cuda", str(folder / "cuda")]) == 1
        said = capsys.readouterr().err
        assert "--device cuda cannot be used here" in said and "Traceback" not in said


def test_without_ray_the_mend_is_named(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["run", "invert", str(folder / "in"), str(folder / "out"), "--workers", "ray"]) == 1
    assert re.search(r'pip install .*"ray>=2\.9"', capsys.readouterr().err)

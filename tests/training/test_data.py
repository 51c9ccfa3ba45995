"""Finding pairs, and naming everything that is wrong with them before anything is computed."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from annotators.classical.normals import normals
from annotators.pose.keypoints import (
    FACE,
    L_ANKLE,
    L_HIP,
    L_KNEE,
    L_WRIST,
    LEFT_HAND,
    R_ANKLE,
    R_HIP,
    R_WRIST,
    RIGHT_HAND,
    parse,
)
from annotators.pose.render import render
from annotators.pose.tools import mirrored as mirrored_person
from cnet_core.errors import DataError
from cnet_core.training.buckets import LONGEST, bucket_of, buckets
from cnet_core.training.cache import Preparation
from cnet_core.training.data import from_batch, read_folder
from cnet_core.training.pictures import (
    fitted,
    mirrored,
    mirrored_hint,
    picture_size,
    read_picture,
    window,
)
from cnet_core.training.validate import contact_sheet, spread_over, validate


def picture(path: Path, size: tuple[int, int] = (64, 64), seed: int = 0) -> Path:
    """A PNG or JPEG of noise, so that no two are alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def caption(path: Path, text: str = "a picture") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three sound pairs: images, hints and captions."""
    for i in range(3):
        picture(tmp_path / "images" / f"{i}.png", seed=i)
        picture(tmp_path / "hints" / f"{i}.png", seed=10 + i)
        caption(tmp_path / "captions" / f"{i}.txt", f"number {i}")
    return tmp_path


def names(folder: Path) -> list[tuple[str, str, str]]:
    """(image, hint, caption) of each pair, files by their names."""
    pairs = read_folder(folder).pairs
    return [(Path(p.image).name, Path(p.hint).name if p.hint else "", p.caption) for p in pairs]


SQUARE = Preparation(64, 64)


def problems(
    folder: Path, preparation: Preparation = SQUARE, hints_made: bool = False
) -> dict[str, list[str]]:
    """Messages of validation by kind."""
    _, report = validate(read_folder(folder), preparation, hints_made)
    found: dict[str, list[str]] = {}
    for problem in report.problems:
        found.setdefault(problem.kind, []).append(str(problem))
    return found


def test_subfolders_are_paired_by_name_whatever_the_suffixes_and_the_order(tmp_path):
    for name in ("b", "a", "deep/c"):
        picture(tmp_path / "images" / f"{name}.jpg")
        picture(tmp_path / "hints" / f"{name}.png")
        caption(tmp_path / "captions" / f"{name}.txt", f"text {name}")
    expected = [("a.jpg", "a.png", "text a"), ("b.jpg", "b.png", "text b"), ("c.jpg", "c.png", "text deep/c")]
    assert names(tmp_path) == expected
    assert problems(tmp_path) == {}


def test_captions_may_lie_beside_the_images(tmp_path):
    picture(tmp_path / "image" / "a.png")
    picture(tmp_path / "conditioning" / "a.png")
    caption(tmp_path / "image" / "a.txt", "beside")
    assert names(tmp_path) == [("a.png", "a.png", "beside")]


def test_one_folder_of_files_with_endings(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / f"{name}.png")
        picture(tmp_path / f"{name}_hint.png")
        caption(tmp_path / f"{name}.txt", name)
    assert names(tmp_path) == [("a.png", "a_hint.png", "a"), ("b.png", "b_hint.png", "b")]


@pytest.mark.parametrize("listing", ["metadata.jsonl", "train.jsonl"])
def test_imagefolder_columns(tmp_path, listing):
    picture(tmp_path / "i" / "a.png")
    picture(tmp_path / "h" / "a.png")
    line = {"file_name": "i/a.png", "conditioning_image": "h/a.png", "text": "ä text"}
    (tmp_path / listing).write_text(json.dumps(line) + "\n", "utf-8")
    assert names(tmp_path) == [("a.png", "a.png", "ä text")]
    assert problems(tmp_path) == {}


def test_a_listing_from_windows_names_the_same_files(tmp_path):
    picture(tmp_path / "i" / "a.png")
    picture(tmp_path / "h" / "a.png")
    line = {"file_name": "i\\a.png", "conditioning_image": "h\\a.png", "text": "a text"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(line), "utf-8")
    assert names(tmp_path) == [("a.png", "a.png", "a text")]
    assert problems(tmp_path) == {}
    outside = {"file_name": "..\\b.png", "conditioning_image": "h\\a.png"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(outside), "utf-8")
    assert "outside the folder" in str(read_folder(tmp_path).problems)


@pytest.mark.parametrize("listing", ["metadata.csv", "fill50k.jsonl"])
def test_a_listing_that_is_not_read_is_an_error_where_there_are_no_captions(folder, listing):
    (folder / listing).write_text("file_name,text\n0.png,a\n", "utf-8")
    assert problems(folder) == {}
    for text in (folder / "captions").iterdir():
        text.unlink()
    (problem,) = (one for one in read_folder(folder).problems if one.kind == "layout")
    assert problem.fatal and listing in problem.where and "metadata.jsonl or train.jsonl" in problem.message


def test_prompt_json_of_the_original_release(tmp_path):
    picture(tmp_path / "source" / "0.png", seed=1)
    picture(tmp_path / "target" / "0.png", seed=2)
    line = {"source": "source/0.png", "target": "target/0.png", "prompt": "circle"}
    (tmp_path / "prompt.json").write_text(json.dumps(line) + "\n", "utf-8")
    (pair,) = read_folder(tmp_path).pairs
    assert (pair.image, pair.hint) == (tmp_path / "target" / "0.png", tmp_path / "source" / "0.png")
    assert pair.caption == "circle"


def test_a_listing_names_its_bad_lines(tmp_path):
    picture(tmp_path / "a.png")
    lines = [
        json.dumps({"file_name": "a.png", "text": "fine"}),
        "{broken",
        json.dumps({"text": "no picture"}),
        json.dumps({"file_name": "gone.png", "text": "gone"}),
        json.dumps({"file_name": "a.png", "text": "again"}),
        "[]",
        '{"id": ' + "9" * 5000 + "}",
        '{"id": ' + "[" * 100_000 + "}",
        json.dumps({"file_name": "."}),
        json.dumps({"file_name": "a.png", "text": "half \ud83d"}),
        json.dumps({"file_name": "x" * 300 + ".png"}),
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines), "utf-8")
    found = problems(tmp_path, hints_made=True)
    assert [message.split(":")[0] for message in found["layout"]] == [
        f"metadata.jsonl line {n}" for n in (2, 3, 6, 7, 8, 9, 10)
    ]
    assert "gone.png" in found["orphan"][0] and "xxx" in found["orphan"][1]
    assert "second time" in found["duplicate"][0]


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\u0085"])
def test_separators_inside_a_text_end_no_line(tmp_path, character):
    for name in ("a", "b"):
        picture(tmp_path / f"{name}.png")
    lines = [{"file_name": f"{name}.png", "text": f"one{character}two"} for name in ("a", "b")]
    text = "\r\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    (tmp_path / "metadata.jsonl").write_bytes(text.encode())
    data = read_folder(tmp_path)
    assert [pair.caption for pair in data.pairs] == ["one two"] * 2 and not data.problems


def test_looking_at_the_data_can_be_stopped_and_says_how_far_it_is(folder):
    told = []
    validate(read_folder(folder), SQUARE, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        validate(read_folder(folder), SQUARE, progress=stop)


def test_pictures_that_no_line_names_are_noted(tmp_path):
    for name in ("a.png", "h/a.png", "forgotten.png"):
        picture(tmp_path / name)
    line = {"file_name": "./a.png", "conditioning_image": "h/a.png", "text": "a"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(line), "utf-8")
    (note,) = read_folder(tmp_path).problems
    assert note.where.endswith("forgotten.png") and "named by no line" in note.message and not note.fatal


def test_pictures_that_differ_in_their_suffix_are_two_pairs(tmp_path):
    for name in ("a.png", "a.jpg", "b.png"):
        picture(tmp_path / name)
    lines = (json.dumps({"file_name": name, "text": name}) for name in ("a.png", "a.jpg", "b.png"))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines), "utf-8")
    dataset = read_folder(tmp_path)
    assert [(pair.name, pair.caption) for pair in dataset.pairs] == [
        ("a.jpg", "a.jpg"),
        ("a.png", "a.png"),
        ("b", "b.png"),
    ]
    assert not dataset.problems


def test_a_text_of_another_name_beside_pictures_is_no_caption(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / f"{name}.png")
        picture(tmp_path / f"{name}_hint.png")
    caption(tmp_path / "README.txt", "about")
    assert names(tmp_path) == [("a.png", "a_hint.png", ""), ("b.png", "b_hint.png", "")]
    (note,) = read_folder(tmp_path).problems
    assert "README.txt" in note.where and not note.fatal
    caption(tmp_path / "a.txt", "a")
    assert [str(p) for p in read_folder(tmp_path).problems if p.fatal] == [
        f"{tmp_path / 'b.png'}: has no caption of the same name; add it or remove this."
    ]


def test_an_empty_folder_teaches_the_layouts(tmp_path):
    with pytest.raises(DataError, match=r"holds no pictures[\s\S]*images/NAME\.png[\s\S]*prompt\.json"):
        read_folder(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        read_folder(tmp_path / "nowhere")


def test_folders_may_have_capitals(folder):
    before = [(pair.name, pair.caption) for pair in read_folder(folder).pairs]
    for path in list(folder.iterdir()):
        path.rename(folder / path.name.capitalize())
    for hints_made in (False, True):
        dataset = read_folder(folder, hints_made)
        assert [(pair.name, pair.caption) for pair in dataset.pairs] == before and not dataset.problems


def test_what_loses_much_of_itself_is_noted(tmp_path):
    picture(tmp_path / "images" / "long.png", (900, 100))
    picture(tmp_path / "images" / "square.png", (96, 96))
    (note,) = (
        p for p in validate(read_folder(tmp_path, True), SQUARE, True)[1].problems if p.kind == "aspect"
    )
    assert note.where == "long" and not note.fatal and "% are cut off" in note.message


def test_every_orphan_is_named(folder):
    (folder / "hints" / "1.png").unlink()
    (folder / "captions" / "2.txt").unlink()
    picture(folder / "hints" / "alone.png")
    caption(folder / "captions" / "words.txt")
    found = problems(folder)["orphan"]
    assert len(found) == 4
    for name, lack in (("1.png", "hint"), ("2.png", "caption"), ("alone", "picture"), ("words", "picture")):
        assert any(name in message and f"no {lack}" in message for message in found)
    assert [name for name, _, _ in names(folder)] == ["0.png"]


def test_two_files_of_one_name_are_named(folder):
    picture(folder / "images" / "1.jpg")
    assert "1.png" in problems(folder)["duplicate"][0]


def test_a_corrupt_picture_in_the_middle_is_named_and_the_others_stay(folder):
    whole = (folder / "hints" / "1.png").read_bytes()
    (folder / "hints" / "1.png").write_bytes(whole[: len(whole) // 2])
    sound, report = validate(read_folder(folder), SQUARE)
    (problem,) = report.problems
    assert problem.kind == "unreadable" and "hints/1.png" in problem.message.replace("\\", "/")
    assert [pair.name for pair in sound.pairs] == ["0", "2"]
    with pytest.raises(DataError, match=r"1 problems:\n- 1: .*1\.png"):
        report.raise_if_unfit()


@pytest.mark.parametrize(
    ("raw", "guess"),
    [
        ("café".encode("cp1252"), "WINDOWS-1252"),
        ("a café".encode("utf-16"), "UTF-16"),
        ("a cat".encode("utf-16-le"), "UTF-16"),
    ],
)
def test_a_caption_in_another_encoding_is_named_with_the_mend(folder, raw, guess):
    (folder / "captions" / "1.txt").write_bytes(raw)
    (message,) = problems(folder)["encoding"]
    assert "1.txt is not UTF-8" in message and f"iconv -f {guess} -t UTF-8" in message


def test_a_byte_order_mark_is_no_part_of_a_caption(folder):
    (folder / "captions" / "1.txt").write_bytes(b"\xef\xbb\xbfcaf\xc3\xa9\r\n  in the rain\n")
    assert names(folder)[1][2] == "café in the rain"


def test_sizes_shapes_and_empty_captions(folder):
    picture(folder / "hints" / "0.png", (96, 64))
    picture(folder / "hints" / "1.png", (32, 32))
    caption(folder / "captions" / "2.txt", " \n")
    sound, report = validate(read_folder(folder), SQUARE)
    kinds = {problem.where: (problem.kind, problem.fatal) for problem in report.problems}
    assert kinds == {"0": ("aspect", True), "1": ("size", False), "2": ("caption", False)}
    assert [pair.name for pair in sound.pairs] == ["1", "2"]
    (notes,) = [
        p for p in validate(read_folder(folder), Preparation(128, 64))[1].problems if "enlarged" in p.message
    ][:1]
    assert not notes.fatal


def test_hints_may_be_left_to_an_annotator(tmp_path):
    picture(tmp_path / "a.png")
    assert "no hint" in problems(tmp_path)["orphan"][0]
    assert "orphan" not in problems(tmp_path, hints_made=True)


def test_where_an_annotator_makes_the_hints_those_that_are_there_do_not_matter(folder, tmp_path):
    count = len(read_folder(folder).pairs)
    next(iter(sorted((folder / "hints").iterdir()))).unlink()
    (folder / "hints" / "odd.png").write_bytes(b"broken")
    data = read_folder(folder, hints_made=True)
    assert len(data.pairs) == count and not data.problems and all(pair.hint is None for pair in data.pairs)
    flat = tmp_path / "flat"
    flat.mkdir()
    for name in ("a", "a_hint", "remote_control"):
        Image.new("RGB", (64, 64)).save(flat / f"{name}.png")
    data = read_folder(flat, hints_made=True)
    assert [pair.name for pair in data.pairs] == ["a", "remote_control"] and not data.problems
    row = {"file_name": "a.png", "conditioning_image": "a_hint.png", "text": ""}
    (flat / "metadata.jsonl").write_text(json.dumps(row))
    data = read_folder(flat, hints_made=True)
    assert [Path(problem.where).name for problem in data.problems] == ["remote_control.png"]
    assert [pair.hint for pair in data.pairs] == [None]


def test_pictures_that_are_not_read_are_named_and_hidden_folders_are_not_looked_into(tmp_path):
    (tmp_path / "images" / ".ipynb_checkpoints").mkdir(parents=True)
    for name in ("a.png", "b.gif", ".ipynb_checkpoints/a-checkpoint.png"):
        Image.new("RGB", (64, 64)).save(tmp_path / "images" / name)
    (tmp_path / "captions").mkdir()
    for name in ("a.txt", "._a.txt"):
        (tmp_path / "captions" / name).write_text("a thing")
    data = read_folder(tmp_path)
    assert [pair.name for pair in data.pairs] == ["a"]
    (note,) = data.problems
    assert note.where.endswith("b.gif") and ".gif is not read" in note.message and not note.fatal
    (tmp_path / "phone").mkdir()
    (tmp_path / "images" / "b.gif").rename(tmp_path / "phone" / "b.gif")
    with pytest.raises(DataError, match=r"(?s)holds no pictures .*b\.gif: is left out"):
        read_folder(tmp_path / "phone")


def test_the_report_is_text_and_json(folder):
    (folder / "hints" / "1.png").unlink()
    _, report = validate(read_folder(folder), SQUARE)
    assert report.to_text().splitlines()[-1].endswith("2 sound pairs (2 of 64x64), 1 errors, 0 notes")
    said = json.loads(report.to_json())
    assert said["sound"] == 2 and said["buckets"] == [{"width": 64, "height": 64, "pairs": 2}]
    assert said["problems"][0]["kind"] == "orphan"


def test_the_contact_sheet_shows_picture_hint_and_caption():
    red = np.full((30, 60, 3), (255, 0, 0), np.uint8)
    blue = np.full((60, 60, 3), (0, 0, 255), np.uint8)
    sheet = np.asarray(contact_sheet([(red, None, "first"), (red, blue, "a longer caption " * 12)]))
    height = sheet.shape[0] // 2
    assert (sheet[height // 2, height // 2] == (255, 0, 0)).all()
    assert (sheet[height // 2, height + height // 2] == 255).all()
    assert (sheet[height + height // 2, height + height // 2] == (0, 0, 255)).all()
    text = [(sheet[row * height : (row + 1) * height, 2 * height :] < 128).any(1).sum() for row in (0, 1)]
    assert 0 < text[0] < text[1]


def test_pairs_for_the_sheet_are_spread_from_first_to_last():
    assert spread_over([*range(20)], 3) == [0, 9, 19]
    assert spread_over([1, 2], 3) == [1, 2]
    assert spread_over([*range(20)], 1) == [0]


def test_a_batch_of_the_graph(tmp_path):
    images, hints = torch.rand(2, 8, 8, 3), torch.rand(2, 8, 8, 1)
    first, second = from_batch(images, hints, ["one", "two"]).pairs
    assert first.picture().shape == first.control().shape == (8, 8, 3)
    assert (first.caption, second.caption) == ("one", "two")
    assert [p.caption for p in from_batch(images, hints, ["all"]).pairs] == ["all", "all"]
    with pytest.raises(DataError, match="2 pictures and 3 captions"):
        from_batch(images, hints, ["1", "2", "3"])
    with pytest.raises(DataError, match="2 pictures and 1 hints"):
        from_batch(images, hints[:1])


def test_pictures_are_turned_laid_over_black_and_scaled_from_sixteen_bits(tmp_path):
    sideways = Image.new("RGB", (4, 2), (9, 9, 9))
    exif = sideways.getexif()
    exif[0x0112] = 6
    sideways.save(tmp_path / "turned.png", exif=exif)
    assert read_picture(tmp_path / "turned.png").shape == (4, 2, 3)
    assert picture_size(tmp_path / "turned.png") == (2, 4)
    Image.new("RGBA", (2, 2), (200, 100, 50, 0)).save(tmp_path / "clear.png")
    assert not read_picture(tmp_path / "clear.png").any()
    depth = np.array([[0, 257, 65535]], np.uint16)
    Image.fromarray(depth).save(tmp_path / "depth.png")
    assert read_picture(tmp_path / "depth.png")[0, :, 0].tolist() == [0, 1, 255]
    Image.fromarray(np.array([[0, 0.5, 1]], np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(DataError, match=r"float\.tiff holds floating-point numbers.*8 or 16 bits"):
        read_picture(tmp_path / "float.tiff")


def test_colours_are_read_as_red_green_and_blue(tmp_path):
    colours = np.array([[[255, 0, 9], [0, 200, 30]]], np.uint8)
    Image.fromarray(colours).save(tmp_path / "colours.png")
    assert np.array_equal(read_picture(tmp_path / "colours.png"), colours)
    few = Image.new("P", (2, 1))
    few.putpalette([255, 0, 9, 0, 200, 30])
    few.putdata([0, 1])
    few.save(tmp_path / "palette.png")
    assert np.array_equal(read_picture(tmp_path / "palette.png"), colours)
    # Of a palette's colours one may be no colour.
    few.save(tmp_path / "hole.png", transparency=0)
    assert read_picture(tmp_path / "hole.png").tolist() == [[[0, 0, 0], [0, 200, 30]]]


def test_sixteen_bits_are_rounded_to_the_nearest_of_eight(tmp_path):
    every = np.arange(65536).astype(np.uint16).reshape(256, 256)
    Image.fromarray(every).save(tmp_path / "depth.png")
    found = read_picture(tmp_path / "depth.png").astype(float)
    assert np.abs(found - every[..., None] / 257).max() <= 0.5


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [
        ("jpg", "RGB"),
        ("png", "RGB"),
        ("webp", "RGB"),
        *(("tif", mode) for mode in ("RGB", "L", "RGBA", "I;16")),
    ],
)
@pytest.mark.parametrize("turn", range(1, 9))
def test_pictures_of_every_format_are_turned_and_have_that_size(tmp_path, suffix, mode, turn):
    shades = np.linspace(0, 255, 16 * 24).round().astype(np.uint8).reshape(16, 24)
    if mode == "I;16":
        picture = Image.fromarray(shades.astype(np.uint16) * 257)
    else:
        picture = Image.fromarray(shades).convert(mode)
    exif = picture.getexif()
    exif[0x0112] = turn
    options = {"quality": 100} if suffix in ("jpg", "webp") else {}
    picture.save(tmp_path / f"a.{suffix}", exif=exif, **options)
    found = read_picture(tmp_path / f"a.{suffix}")
    expected = shades.T if turn > 4 else shades
    expected = expected[::-1] if turn in (3, 4, 7, 8) else expected
    expected = expected[:, ::-1] if turn in (2, 3, 6, 7) else expected
    assert picture_size(tmp_path / f"a.{suffix}") == found.shape[1::-1] == expected.shape[::-1]
    assert np.abs(found[..., 0].astype(int) - expected).max() <= 8


SIDES = st.integers(1, 4000)


@given(SIDES, SIDES, st.sampled_from([(512, 64), (1024, 64), (128, 32)]))
def test_a_bucket_has_the_nearest_shape_and_no_more_pixels_than_the_square(width, height, sizes):
    resolution, multiple = sizes
    found = buckets(resolution, multiple)
    wide, high = bucket_of(width, height, found)
    assert wide % multiple == high % multiple == 0 and wide * high <= resolution**2
    assert max(wide / high, high / wide) <= LONGEST
    assert (high, wide) in found
    left, top, part_wide, part_high = window(width, height, wide, high)
    assert 0 <= left <= width - part_wide and 0 <= top <= height - part_high
    # One side is kept whole.
    assert part_wide == width or part_high == height


@given(SIDES, SIDES, st.sampled_from([(512, 64), (1024, 64), (128, 32)]))
def test_no_other_bucket_keeps_more_of_a_picture(width, height, sizes):
    def kept(wide: int, high: int) -> float:
        return min(width * high / (wide * height), wide * height / (width * high))

    found = buckets(*sizes)
    assert kept(*bucket_of(width, height, found)) >= max(kept(*size) for size in found) - 1e-9


def test_the_buckets_are_the_largest_of_their_sides_up_to_three_to_one():
    wide = [(768, 320), (704, 320), (640, 384), (576, 448)]
    tall = [(height, width) for width, height in reversed(wide)]
    assert buckets(512, 64) == [*wide, (512, 512), *tall]
    assert buckets(128, 64) == [(192, 64), (128, 128), (64, 192)]


def test_the_square_picture_has_the_square_bucket():
    assert bucket_of(700, 700, buckets(512, 64)) == (512, 512)
    with pytest.raises(DataError, match="choose 448 or 512"):
        buckets(500, 64)
    for multiple in (0, -64, 1, 12):
        with pytest.raises(DataError, match="multiple of 8"):
            buckets(512, multiple)


def test_picture_and_hint_are_cut_alike_whatever_their_sizes():
    ramp = np.repeat(np.linspace(0, 255, 96).astype(np.uint8)[None, :, None], 64, 0).repeat(3, 2)
    large = np.repeat(np.repeat(ramp, 2, 0), 2, 1)
    small = fitted(ramp, 64, 64).astype(int)
    assert np.abs(small - fitted(large, 64, 64)).max() <= 1
    assert small[0, 0, 0] == ramp[0, 16, 0] and small[0, -1, 0] == ramp[0, 79, 0]
    upright = fitted(np.ascontiguousarray(ramp.swapaxes(0, 1)), 64, 64)
    assert np.array_equal(upright, small.swapaxes(0, 1))


def test_what_is_shrunk_is_averaged_and_what_is_enlarged_is_smooth():
    pixels = np.random.default_rng(1).integers(0, 256, (192, 192, 3), np.uint8)
    means = pixels.reshape(64, 3, 64, 3, 3).mean((1, 3))
    assert np.abs(fitted(pixels, 64, 64) - means).max() <= 1
    # Of areas the middle of what becomes one pixel: with its corner they would lie beside the picture.
    assert np.array_equal(fitted(pixels, 64, 64, flat=True), pixels[1::3, 1::3])
    ramp = np.repeat(np.arange(0, 256, 17, np.uint8)[None, :, None], 16, 0).repeat(3, 2)
    steps = np.diff(fitted(ramp, 64, 64)[32, :, 0].astype(int))
    assert (steps >= 0).all() and steps.max() <= 6


def test_areas_keep_their_colours_when_scaled():
    pixels = np.random.default_rng(1).choice(np.array([[255, 0, 0], [0, 9, 200]], np.uint8), (90, 90))
    assert {tuple(c) for c in fitted(pixels, 64, 64, flat=True).reshape(-1, 3)} == {(255, 0, 0), (0, 9, 200)}


def skeleton(points: list[tuple[int, int, tuple[int, int, int]]], width: int = 40) -> np.ndarray:
    canvas = np.zeros((8, width, 3), np.uint8)
    for x, y, colour in points:
        canvas[y, x] = colour
    return canvas


RIGHT_SHOULDER, LEFT_SHOULDER, NECK = (255, 170, 0), (85, 255, 0), (255, 85, 0)
RIGHT_ARM, LEFT_ARM = (153, 102, 0), (102, 153, 0)


def test_a_mirrored_skeleton_has_its_sides_where_the_mirrored_person_has_them():
    drawn = skeleton([(5, 2, RIGHT_SHOULDER), (6, 2, RIGHT_ARM), (20, 2, NECK), (30, 2, LEFT_SHOULDER)])
    turned = mirrored_hint(drawn, "skeleton", "x")
    expected = [(34, 2, LEFT_SHOULDER), (33, 2, LEFT_ARM), (19, 2, NECK), (9, 2, RIGHT_SHOULDER)]
    assert np.array_equal(turned, skeleton(expected))
    assert np.array_equal(mirrored_hint(turned, "skeleton", "x"), drawn)


def test_a_skeleton_in_thousands_of_pieces_is_not_mirrored():
    pixels = np.zeros((160, 160, 3), np.uint8)
    # A knee's colour, or a hand's.
    pixels[::2, ::2] = 0, 255, 255
    with pytest.raises(DataError, match="falls into pieces"):
        mirrored_hint(pixels, "skeleton", "dust")


def test_a_skeleton_whose_colours_are_blurred_is_not_mirrored():
    noisy = np.clip(skeleton([(x, 2, RIGHT_SHOULDER) for x in range(40)]).astype(int) + 9, 0, 255)
    with pytest.raises(DataError, match=r"dancer\.png: 100 % .* cannot be told apart"):
        mirrored_hint(noisy.astype(np.uint8), "skeleton", "dancer.png")


@pytest.mark.parametrize(("strange", "fits"), [(2, True), (3, False)])
def test_two_in_a_hundred_pixels_of_a_skeleton_may_have_strange_colours(strange, fits):
    colours = [(250, 160, 20)] * strange + [RIGHT_SHOULDER] * (100 - strange)
    drawn = skeleton([(x, 2, colour) for x, colour in enumerate(colours)], 100)
    if fits:
        expected = [(99 - x, 2, LEFT_SHOULDER if x >= strange else colours[x]) for x in range(100)]
        assert np.array_equal(mirrored_hint(drawn, "skeleton", "x"), skeleton(expected, 100))
    else:
        with pytest.raises(DataError, match=r"x: 3 % .* cannot be told apart"):
            mirrored_hint(drawn, "skeleton", "x")


def test_skeletons_that_cannot_be_mirrored_are_named_before_anything_is_computed(folder):
    drawn = skeleton([(x, 2, RIGHT_SHOULDER) for x in range(40)], 64)
    Image.fromarray(np.repeat(drawn, 8, 0)).save(folder / "hints" / "1.png")
    mirroring = Preparation(64, 64, "skeleton", mirror=True)
    assert [line.partition(":")[0] for line in problems(folder, mirroring)["mirror"]] == ["0", "2"]
    assert "cannot be told apart" in problems(folder, mirroring)["mirror"][0]
    sound, report = validate(read_folder(folder), mirroring)
    assert [pair.name for pair in sound.pairs] == ["1"] and len(report.fatal) == 2
    for other in (Preparation(64, 64, "skeleton"), Preparation(64, 64, "normals", mirror=True)):
        assert problems(folder, other) == {}
    assert problems(folder, mirroring, hints_made=True) == {}


INPUTS = Path(__file__).parents[2] / "workflows" / "inputs"
DANCER = parse((INPUTS / "dancer.json").read_text("utf-8"))[0]


def with_hand(person: np.ndarray, wrist: int, hand: slice, size: float, at: np.ndarray) -> np.ndarray:
    """A person whose wrist is moved, and a hand there that points down: the wrist, five fingers of four."""
    person = person.copy()
    person[wrist, :2] = at
    angles = np.pi / 2 + 0.35 * np.arange(-2, 3)
    fingers = np.stack([np.cos(angles), np.sin(angles)], -1)[:, None]
    reach = size * np.array([0.45, 0.65, 0.83, 1.0])[:, None]
    person[hand, :2] = at + np.concatenate([np.zeros((1, 2)), (fingers * reach).reshape(-1, 2)])
    person[hand, 2] = 1.0
    return person


def drawn_pose(people: list[np.ndarray]) -> np.ndarray:
    return (render([DANCER.with_people(people)])[0].numpy() * 255).round().astype(np.uint8)


def misplaced(one: np.ndarray, other: np.ndarray) -> int:
    """Pixels of a colour that the other has nowhere within two pixels: drawing cuts off parts of pixels."""
    one, other = (pixels.astype(np.int32) @ (65536, 256, 1) for pixels in (one, other))
    count, near = 0, np.ones((5, 5), np.uint8)
    for colour in np.unique(one[one > 0]):
        there = cv2.dilate((other == colour).astype(np.uint8), near)
        count += int(((one == colour) & (there == 0)).sum())
    return count


def assert_mirrors(people: list[np.ndarray]) -> None:
    turned = mirrored_hint(drawn_pose(people), "skeleton", "x")
    expected = drawn_pose([mirrored_person(person, DANCER.width) for person in people])
    # Less than the eighth part of a joint.
    assert max(misplaced(turned, expected), misplaced(expected, turned)) < 8


def test_a_drawn_pose_is_mirrored_as_its_points_are():
    person = DANCER.people[0]
    assert_mirrors([person])
    second = person + np.array([40.0, 6.0, 0.0]) * (person[:, 2:] > 0)
    assert_mirrors([person, second])
    # Knees alone, for hips and ankles are not seen.
    alone = person.copy()
    alone[[L_HIP, L_ANKLE, R_HIP, R_ANKLE]] = 0
    assert_mirrors([alone])


@pytest.mark.parametrize("size", [3, 6, 12, 25, 60])
def test_hands_and_faces_keep_their_colours_when_a_pose_is_mirrored(size):
    person = DANCER.people[0]
    for wrist, hand in ((L_WRIST, LEFT_HAND), (R_WRIST, RIGHT_HAND)):
        person = with_hand(person, wrist, hand, size, person[wrist, :2])
    person[FACE, :2] = person[0, :2] + np.random.default_rng(0).integers(-9, 9, (70, 2))
    person[FACE, 2] = 1
    assert_mirrors([person])


@pytest.mark.parametrize("size", [3, 25, 60])
def test_a_hand_before_a_thigh_is_told_from_the_knee(size):
    person = DANCER.people[0]
    thigh = (person[L_HIP, :2] * 0.6 + person[L_KNEE, :2] * 0.4).round()
    assert_mirrors([with_hand(person, L_WRIST, LEFT_HAND, size, thigh - [0, size // 2])])


@pytest.mark.parametrize("size", [6, 30])
def test_a_hand_on_its_knee_is_refused(size):
    person = DANCER.people[0]
    pose = drawn_pose([with_hand(person, L_WRIST, LEFT_HAND, size, person[L_KNEE, :2] - [0, size // 2])])
    with pytest.raises(DataError, match=r"dancer\.png: a hand lies over a leg"):
        mirrored_hint(pose, "skeleton", "dancer.png")


def test_strange_colours_of_a_skeleton_stay_as_they_are():
    pose = drawn_pose([DANCER.people[0]])
    pose[3, 4] = (250, 160, 20)
    assert mirrored_hint(pose, "skeleton", "x")[3, -5].tolist() == [250, 160, 20]


@pytest.mark.parametrize(("kind", "axes", "x"), [("normals", "BAE", 0), ("midas_normals", "MiDaS v1.0", 2)])
def test_mirrored_normals_turn_their_x(kind, axes, x):
    pixels = np.random.default_rng(3).integers(0, 256, (4, 6, 3), np.uint8)
    turned = mirrored_hint(pixels, kind, "x")
    for channel in range(3):
        same = mirrored(pixels)[..., channel]
        assert np.array_equal(turned[..., channel], 255 - same if channel == x else same)
    assert np.array_equal(mirrored_hint(turned, kind, "x"), pixels)
    # A ramp that rises to the right, and its mirror image.
    depth = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    made, other = (
        (normals(d, axes).picture[0].movedim(0, -1) * 255).round().byte().numpy()
        for d in (depth, depth.flip(-1))
    )
    assert np.abs(mirrored_hint(made, kind, "x").astype(int) - other).max() <= 1

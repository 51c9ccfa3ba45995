"""What the table says of annotators is so; and what it says of hints, of those that need no weights."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from annotators import ade20k
from annotators.errors import ParameterError
from annotators.parameters import Bool, Choice, Float, Int
from annotators.registry import CONDITIONS, RAW, Annotation
from annotators.run import annotate
from annotators.table import ANNOTATORS, find

every = pytest.mark.parametrize("annotator", ANNOTATORS.values(), ids=ANNOTATORS)
WEIGHT_FREE = {one.id: one for one in ANNOTATORS.values() if one.build is None and one.extra is None}
weight_free = pytest.mark.parametrize("annotator", WEIGHT_FREE.values(), ids=WEIGHT_FREE)
# White lines on black, of whatever width, where the picture has lines or steps.
LINES = ("canny", "lines", "soft edge", "scribble", "line art", "anime line art")


@every
def test_an_entry_says_what_nodes_shell_and_readme_need(annotator):
    assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", annotator.id)
    assert annotator.condition in CONDITIONS and set(annotator.makes) <= set(RAW)
    assert annotator.description.endswith(".") and annotator.convention and annotator.title
    assert annotator.multiple >= 1 and (annotator.build is None or annotator.weights or annotator.extra)
    names = [parameter.name for parameter in annotator.parameters]
    assert len(set(names)) == len(names) and all(name.isidentifier() for name in names)
    for weight in annotator.weights:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", weight.repository) and weight.licence
        assert Path(weight.file).suffix in (".pth", ".pt", ".bin", ".safetensors")
        assert ".." not in weight.file and not weight.file.startswith("/")
        assert weight.sha256 is None or re.fullmatch("[0-9a-f]{64}", weight.sha256)
    if annotator.extra:
        project = (Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8")
        assert re.search(rf"^{annotator.extra} = \[", project, re.MULTILINE)


@every
def test_parameters_have_defaults_in_their_range_and_refuse_what_lies_outside(annotator):
    assert annotator.checked({}) == {one.name: one.default for one in annotator.parameters}
    for one in annotator.parameters:
        assert one.tooltip.endswith(".") and one.check(one.default) == one.default
        assert one.parse(str(one.default)) == one.default
        wrong = {Int: 0.5, Float: "x", Bool: 1, Choice: "no such"}[type(one)]
        outside = [wrong, None]
        if isinstance(one, Int | Float):
            assert one.minimum < one.maximum
            outside += [one.minimum - 1, one.maximum + 1, float("nan"), float("inf"), True]
        for value in outside:
            with pytest.raises(ParameterError, match=one.name):
                annotator.checked({one.name: value})


def finding(annotate, **changes):
    """An annotator that finds this, without a network."""
    return dataclasses.replace(find("invert"), annotate=annotate, **changes)


def blocks(count, height, width, channels=3, seed=0):
    """Pictures [B,H,W,C] of flat squares, in exact bytes."""
    drawn = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (count, -(-height // 6), -(-width // 6), channels), generator=drawn)
    return coarse.repeat_interleave(6, 1).repeat_interleave(6, 2)[:, :height, :width] / 255


@weight_free
def test_a_very_long_picture(annotator):
    hints = annotate(annotator, blocks(1, 4096, 16))
    assert hints.image.shape == (1, 4096, 16, 3)
    assert hints.image.isfinite().all() and hints.image.min() >= 0 and hints.image.max() <= 1


@weight_free
def test_grey_opaque_and_other_formats_are_the_same_picture(annotator):
    grey = blocks(1, 30, 42, 1)
    expected = annotate(annotator, grey.expand(-1, -1, -1, 3), seed=2).image
    ones = torch.ones_like(grey)
    strided = torch.zeros(1, 3, 60, 84)
    strided[..., ::2, ::2] = grey.movedim(-1, 1)
    others = [
        grey,
        torch.cat([grey, ones], -1),
        torch.cat([grey, grey, grey, ones], -1),
        grey.double(),
        strided[..., ::2, ::2].movedim(1, -1),
        grey.clone().requires_grad_(),
    ]
    for other in others:
        hint = annotate(annotator, other, seed=2).image
        assert torch.equal(hint, expected) and hint.dtype == torch.float32 and not hint.requires_grad


@weight_free
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_pictures_of_fewer_bits(annotator, dtype):
    """In which what they hold is exact: 0, a half and 1."""
    picture = (blocks(1, 30, 42) * 2).round() / 2
    assert torch.equal(annotate(annotator, picture.to(dtype)).image, annotate(annotator, picture).image)


@weight_free
def test_pictures_of_16_bits(annotator):
    """They are no other picture for the bits below the first 8."""
    fine = (blocks(1, 30, 42) * 65535 + torch.linspace(0, 100, 42)[:, None]).floor().clamp(max=65535) / 65535
    hint = annotate(annotator, fine).image
    coarse = annotate(annotator, (fine * 255).round() / 255).image
    assert hint.shape == fine.shape and hint.isfinite().all() and hint.min() >= 0 and hint.max() <= 1
    if annotator.kind not in ("lines", "areas", "normals"):
        assert (hint - coarse).abs().max() < 0.02


@weight_free
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, float("nan"), float("inf"), -float("inf"), 1e30])
def test_pictures_of_one_value(annotator, value):
    hint = annotate(annotator, torch.full((1, 20, 20, 3), value)).image
    assert hint.isfinite().all() and hint.min() >= 0 and hint.max() <= 1
    if annotator.condition in LINES:
        assert hint.max() < 1 / 510  # black in 8 bits


@weight_free
def test_every_end_of_every_range(annotator):
    picture = blocks(1, 40, 52)
    for one in annotator.parameters:
        if isinstance(one, Bool):
            ends = [False, True]
        elif isinstance(one, Choice):
            ends = list(one.options)[:8]
        else:
            ends = [one.minimum, one.maximum]
        for value in ends:
            values = {one.name: value}
            if one.name == "low_threshold":
                values["high_threshold"] = 1000
            if one.name == "high_threshold":
                values["low_threshold"] = 0
            masks = torch.ones(40, 52) if annotator.masked else None
            hint = annotate(annotator, picture, values, masks=masks).image
            assert hint.shape == picture.shape and hint.isfinite().all()
            assert hint.min() >= (-1 if annotator.kind == "inpaint" else 0) and hint.max() <= 1


@weight_free
def test_the_same_seed_gives_the_same_hint_and_the_picture_stays(annotator):
    picture = blocks(2, 40, 52)
    before = picture.clone()
    first = annotate(annotator, picture, seed=4).image
    assert torch.equal(first, annotate(annotator, picture, seed=4).image) and torch.equal(picture, before)
    assert torch.equal(first, annotate(annotator, picture, seed=5).image) != annotator.seedable


@weight_free
def test_hints_are_of_their_kind(annotator):
    hints = annotate(annotator, blocks(2, 48, 60, seed=1))
    channels = hints.image.unbind(-1)
    if annotator.kind in ("lines", "soft", "depth"):
        assert torch.equal(channels[0], channels[1]) and torch.equal(channels[0], channels[2])
    if annotator.kind == "lines":
        assert set(hints.image.unique().tolist()) <= {0.0, 1.0}
    if annotator.kind == "normals":
        assert torch.allclose((hints.image * 2 - 1).norm(dim=-1), torch.ones(2, 48, 60), atol=1e-5)
    if annotator.condition == "segmentation":
        known = {tuple(colour) for colour in ade20k.PALETTE} | {(0, 0, 0)}
        found = (hints.image * 255).round().int().reshape(-1, 3).unique(dim=0).tolist()
        assert {tuple(colour) for colour in found} <= known
    for name in RAW:
        made = getattr(hints, name)
        assert (made is not None) == (name in annotator.makes)
        if isinstance(made, torch.Tensor):
            assert made.shape == (2, 48, 60)


@pytest.mark.parametrize("name", [one.id for one in WEIGHT_FREE.values() if one.condition in LINES])
def test_lines_are_white_on_black_where_the_picture_has_them(name):
    """A dark bar on light paper, five pixels wide: it or its sides are lit, and nothing far from it is."""
    picture = torch.full((1, 96, 96, 3), 0.9)
    picture[:, 10:86, 46:51] = 0.1
    hint = annotate(find(name), picture).image[0, ..., 0]
    assert hint[20:76, 43:54].amax(1).min() > 0.4
    assert hint[:, :32].max() < 0.1 and hint[:, 64:].max() < 0.1


def test_the_hints_of_several_pictures_have_seeds_of_their_own():
    annotator = find("shuffle")
    same = blocks(1, 40, 40).expand(3, -1, -1, -1)
    hints = annotate(annotator, same, {"scale": 16}, seed=7).image
    assert not torch.equal(hints[0], hints[1])
    alone = annotate(annotator, same[:1], {"scale": 16}, seed=8).image
    assert torch.equal(hints[1:2], alone)


def test_after_the_largest_seed_comes_0():
    annotator = find("shuffle")
    same = blocks(1, 40, 40).expand(2, -1, -1, -1)
    hints = annotate(annotator, same, {"scale": 16}, seed=2**64 - 1).image
    assert torch.equal(hints[1:], annotate(annotator, same[:1], {"scale": 16}, seed=0).image)
    seen = []

    def drawn(pictures, seeds):
        seen.extend(torch.Generator().manual_seed(seed).initial_seed() for seed in seeds)
        return find("invert").annotate(pictures)

    annotate(dataclasses.replace(find("invert"), annotate=drawn, seedable=True), same, seed=2**64 - 1)
    assert seen == [2**64 - 1, 0]


def test_what_is_found_at_another_resolution_is_told_in_pixels_of_the_hint():
    def corners(pictures):
        rows, columns = pictures.shape[-2:]
        return Annotation(pictures, lines=[torch.tensor([[-0.5, -0.5, columns - 0.5, rows - 0.5]])])

    hints = annotate(finding(corners), blocks(1, 40, 60), resolution=20)
    assert hints.image.shape == (1, 40, 60, 3) and hints.lines[0].tolist() == [[-0.5, -0.5, 59.5, 39.5]]


def test_keypoints_are_told_on_the_canvas_of_the_hint():
    person = {"pose_keypoints_2d": [9.5, 19.5, 1.0, 7.0, 7.0, 0.0]}

    def pose(pictures):
        frame = {"people": [person], "canvas_width": 20, "canvas_height": 40}
        return Annotation(pictures, keypoints=[frame])

    (made,) = annotate(finding(pose), blocks(1, 40, 20), size=(80, 40), resolution=20).keypoints
    assert (made["canvas_width"], made["canvas_height"]) == (40, 80)
    assert made["people"][0]["pose_keypoints_2d"] == [19.5, 39.5, 1, 0, 0, 0]


def test_labels_of_areas_do_not_mix_when_they_are_scaled():
    def halves(pictures):
        labels = torch.zeros(len(pictures), *pictures.shape[-2:])
        labels[..., 4:] = 9
        return Annotation(pictures, labels=labels)

    annotator = finding(halves, multiple=8)
    labels = annotate(annotator, blocks(1, 6, 7), size=(9, 21), resize="stretch", resolution=6).labels
    assert labels.shape == (1, 9, 21)
    assert (labels[..., :12] == 0).all() and (labels[..., 12:] == 9).all()


def test_what_was_padded_to_an_annotators_multiple_is_cut_back():
    picture = blocks(1, 6, 7)
    assert torch.equal(annotate(finding(Annotation, multiple=8), picture).image, picture)


def test_annotators_whose_hint_is_the_picture_keep_its_bits():
    """What has more than 8 bits keeps them where nothing needs bytes."""
    fine = torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(annotate(find("invert"), fine).image, 1 - fine)
    assert torch.equal(annotate(find("inpaint"), fine).image, fine)
    assert torch.equal(annotate(find("tile"), fine, {"rate": 1.0}).image, fine)


def test_an_entry_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        find("canny").title = "Other"

"""The annotators' nodes: Annotate with any of them, a node of each, Fit Hint and Preview Hint."""

import dataclasses
import importlib
import json
import math

import pytest
import torch

from minihost import shims
from minihost.errors import NodeError
from minihost.graph import Executor

SCENE = {"class_type": "CNetExampleImage", "inputs": {"name": "scene.png"}}
LATENT = {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 48, "batch_size": 1}}
# As in an annotator's own node, but for canny, whose low threshold is another.
CHOICES = [
    ("CNetCanny", {"annotator": "canny", "annotator.low_threshold": 50}),
    ("CNetSoftEdges", {"annotator": "soft_edges"}),
    ("CNetShuffle", {"annotator": "shuffle", "annotator.seed": 3}),
]


@pytest.fixture
def run(nodes, tmp_path):
    """Run nodes beside "scene" (128 x 128) and "latent" (64 x 48); each result is seen by Preview Hint.

    run.blocked: what did not run in the last one, and why.
    """
    for kind in ("input", "output", "temp"):
        (tmp_path / kind).mkdir()
        shims.folder_paths.set_directory(kind, tmp_path / kind)

    def run(node: str, see: int = 0, **inputs):
        prompt = {
            "scene": SCENE,
            "latent": LATENT,
            "it": {"class_type": node, "inputs": inputs},
            "see": {"class_type": "CNetPreviewHint", "inputs": {"image": ["scene", 0], "hint": ["it", see]}},
        }
        executor = Executor(nodes)
        run.blocked = executor.run(prompt).blocked
        (done,) = [executor.cache[number] for key, number in executor.numbers.items() if key[0] == node]
        return [slot[0] for slot in done.slots]

    return run


@pytest.fixture
def scene(nodes):
    return nodes["CNetExampleImage"].execute("scene.png").args[0]


@pytest.mark.parametrize(("node", "choice"), CHOICES, ids=lambda one: one if isinstance(one, str) else "")
def test_annotate_gives_what_the_annotators_own_node_gives(run, node, choice):
    own = {name.removeprefix("annotator."): value for name, value in choice.items() if "." in name}
    assert torch.equal(
        run("CNetAnnotate", image=["scene", 0], **choice)[0], run(node, image=["scene", 0], **own)[0]
    )


def test_a_hint_is_as_large_as_what_is_sampled(run):
    of_latent = {"size": "of a latent", "size.latent": ["latent", 0]}
    hint = run("CNetCanny", image=["scene", 0], **of_latent)[0]
    assert hint.shape == (1, 48, 64, 3) and set(hint.unique().tolist()) == {0, 1}
    stretched = {
        "size": "width and height",
        "size.width": 40,
        "size.height": 88,
        "size.resize_mode": "stretch",
    }
    assert run("CNetAnnotate", image=["scene", 0], annotator="tile", **stretched)[0].shape == (1, 88, 40, 3)


def test_a_latent_says_how_large_its_picture_is_or_its_channels_do(call, scene):
    for channels, said, side in ((4, {}, 8), (16, {}, 8), (128, {"downscale_ratio_spacial": 32}, 32)):
        latent = {"samples": torch.zeros(1, channels, 2, 3), **said}
        made = call("CNetFitHint", hint=scene, size={"size": "of a latent", "latent": latent})
        assert made.shape == (1, 2 * side, 3 * side, 3)


def test_a_latent_whose_picture_may_be_of_any_size_is_refused(call, scene):
    size = {"size": "of a latent", "latent": {"samples": torch.zeros(1, 128, 2, 3)}}
    with pytest.raises(ValueError, match=r"128 channels, does not say.*'width and height' or 'of an image'"):
        call("CNetFitHint", hint=scene, size=size)


def test_a_grey_hint_is_fitted_as_it_is(call, scene):
    size = {"size": "width and height", "width": 40, "height": 24}
    assert call("CNetFitHint", hint=scene[..., :1], size=size).shape == (1, 24, 40, 1)


def test_what_an_annotator_makes_beside_the_hint(run, call, scene):
    lines = json.loads(run("CNetAnnotate", image=["scene", 0], annotator="lsd_lines")[4])
    (own, one) = call("CNetLsdLines", image=scene)
    assert own.shape == scene.shape and lines == json.loads(one)
    assert len(lines) == 1 and all(len(line) == 4 for line in lines[0])
    grey = call("CNetAde20kColours", image=torch.full((1, 4, 4, 3), 12 / 255), read_as="labels")[1]
    assert (grey * 255).round().eq(12).all()


def test_the_numbers_of_more_than_255_regions_stay_within_a_picture(nodes):
    """And 0, no region, is black."""
    module = importlib.import_module(nodes["CNetCanny"].__module__)
    numbers = torch.arange(1000).reshape(1, 25, 40)

    invert = module.find("invert")

    def numbered(pictures):
        return dataclasses.replace(invert.annotate(pictures), labels=numbers)

    entry = dataclasses.replace(invert, annotate=numbered, makes=("labels",), regions=True)
    _hint, labels = module._node_of(entry).execute(image=torch.rand(1, 25, 40, 3)).args
    assert labels.shape == (1, 25, 40, 3) and labels.min() == 0 and labels.max() <= 1
    assert torch.equal((labels[..., 0] * 65535).round().long(), numbers)


def test_what_an_annotator_does_not_make_goes_nowhere(run):
    hint = run("CNetAnnotate", see=1, image=["scene", 0], annotator="canny")[0]
    assert hint.any()
    (why,) = run.blocked
    assert "(CNetPreviewHint): Execution Blocked: canny makes no depth; choose an annotator that does" in why


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"low_threshold": 300}, "the low threshold 300 is above the high one 200"),
        ({"high_threshold": 5000}, "5000"),
        ({"thresholds": "best"}, "best"),
        ({"size": "width and height", "size.width": 0, "size.height": 5}, "0"),
    ],
    ids=lambda one: "" if isinstance(one, str) else next(iter(one)),
)
def test_wrong_settings_are_refused_at_the_node(run, inputs, message):
    with pytest.raises(Exception, match=message):
        run("CNetCanny", image=["scene", 0], **inputs)


def test_weights_that_are_missing_are_named_with_the_command_that_fetches_them(run, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(NodeError) as raised:
        run("CNetHed", image=["scene", 0])
    for word in (
        "lllyasviel/Annotators",
        "ControlNetHED.pth",
        "controlnet_annotators",
        "annotators fetch hed",
    ):
        assert word in str(raised.value)


def test_a_fitted_hint_stays_what_it_is(call):
    areas = torch.tensor([[1.0, 0, 0], [0, 0, 1.0]])[(torch.arange(16) // 5 % 2)].expand(1, 16, 16, 3)
    size = {"size": "width and height", "width": 7, "height": 29, "resize_mode": "crop"}
    made = call("CNetFitHint", hint=areas, size=size, kind="areas")
    assert made.shape == (1, 29, 7, 3)
    assert {tuple(colour) for colour in made.reshape(-1, 3).tolist()} <= {(1, 0, 0), (0, 0, 1)}
    lines = torch.zeros(1, 64, 64, 3)
    lines[:, 31] = 1
    small = call("CNetFitHint", hint=lines, size={**size, "width": 16, "height": 16})
    assert small[0, :, :, 0].sum(0).eq(1).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_hint_that_is_not_finite_is_refused_before_it_is_scaled(call, value):
    hint = torch.rand(1, 16, 16, 3)
    hint[0, 3, 4, 1] = value
    size = {"size": "width and height", "width": 8, "height": 8, "resize_mode": "crop"}
    with pytest.raises(ValueError, match="not finite"):
        call("CNetFitHint", hint=hint, size=size)


def test_the_marks_of_an_inpaint_hint_stay_when_it_is_fitted_as_what_it_looks_like(call):
    hint = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    hint[:, :20, :31] = -1
    size = {"size": "width and height", "width": 33, "height": 41, "resize_mode": "stretch"}
    made = call("CNetFitHint", hint=hint, size=size)
    assert torch.equal(made, call("CNetFitHint", hint=hint, size=size, kind="inpaint"))
    marked = made.eq(-1)
    assert marked.any() and (marked | (made >= 0)).all() and torch.equal(marked.any(-1), marked.all(-1))


@pytest.mark.parametrize("size", [(96, 96), (200, 260), (300, 200)])
def test_the_steps_of_8_bits_are_no_surfaces_in_another_size_either(call, size):
    ramp = torch.linspace(60, 120, 192).expand(1, 144, 192)[..., None].repeat(1, 1, 1, 3)
    given = {"size": "width and height", "width": size[1], "height": size[0], "resize_mode": "stretch"}
    coarse, fine = (
        call("CNetDepthNormals", image=depth / 255, size=given)[..., 8:-8, 8:-8, :] * 2 - 1
        for depth in (ramp.round(), ramp)
    )
    assert (coarse * fine).sum(-1).mean() > math.cos(math.radians(1))


def test_classes_do_not_mix_when_they_are_scaled(call):
    """Between the sky, 2, and a person, 12, lie no other classes."""
    labels = torch.full((1, 48, 64, 3), 2 / 255)
    labels[:, 10:40, 20:50] = 12 / 255
    size = {"size": "width and height", "width": 100, "height": 75, "resize_mode": "stretch"}
    made = call("CNetAde20kColours", image=labels, read_as="labels", size=size)[0]
    expected = call("CNetAde20kColours", image=labels, read_as="labels")[0]
    assert torch.equal(made.reshape(-1, 3).unique(dim=0), expected.reshape(-1, 3).unique(dim=0))


def test_nothing_of_what_is_masked_is_seen_around_it_in_another_size(call):
    image, mask = torch.full((1, 64, 64, 3), 0.5), torch.zeros(1, 64, 64)
    mask[:, 20:41, 20:43] = 1
    image[mask.bool()] = 1.0
    size = {"size": "width and height", "width": 48, "height": 48, "resize_mode": "stretch"}
    made = call("CNetInpaint", image=image, mask=mask, size=size)[0]
    assert set(made.unique().tolist()) == {-1.0, 0.5}


def test_a_flat_background_makes_no_normals_of_a_picture(call, scene):
    picture = torch.full_like(scene, 200 / 255)
    picture[:, 40:80, 40:80] = scene[:, 40:80, 40:80]
    size = {"size": "width and height", "width": 99, "height": 77, "resize_mode": "stretch"}
    assert torch.equal(
        call("CNetFitHint", hint=picture, size=size),
        call("CNetFitHint", hint=picture, size=size, kind="photo"),
    )


def test_shades_of_grey_are_scaled_alike_however_many_they_are(call):
    """A depth map darkened to few shades is no palette of areas."""
    ramp = torch.linspace(0, 1, 96).expand(1, 64, 96)[..., None].repeat(1, 1, 1, 3)
    size = {"size": "width and height", "width": 200, "height": 150, "resize_mode": "stretch"}
    for shades in (255, 178, 40):
        hint = (ramp * shades).round() / 255
        made = call("CNetFitHint", hint=hint, size=size)
        assert torch.equal(made, call("CNetFitHint", hint=hint, size=size, kind="depth"))
    flat = (ramp * 3).round() / 3
    assert len(call("CNetFitHint", hint=flat, size=size).unique()) == 4


@pytest.mark.parametrize("bits", [8, 32])
def test_normals_are_known_by_their_length(call, scene, bits):
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 80), indexing="ij")
    vectors = torch.stack([x, y, torch.ones_like(x)], -1)
    hint = (vectors / vectors.norm(dim=-1, keepdim=True))[None] / 2 + 0.5
    hint = (hint * 255).round() / 255 if bits == 8 else hint
    size = {"size": "width and height", "width": 33, "height": 47, "resize_mode": "stretch"}
    made = call("CNetFitHint", hint=hint, size=size)
    assert torch.equal(made, call("CNetFitHint", hint=hint, size=size, kind="normals"))
    photo = call("CNetFitHint", hint=scene, size=size)
    assert torch.equal(photo, call("CNetFitHint", hint=scene, size=size, kind="photo"))


@pytest.mark.parametrize("kind", ["auto", "lines", "normals", "inpaint"])
def test_a_hint_with_opacity_is_fitted_like_one_without(call, kind):
    """Opacity goes along as it is: it is no colour, and no coordinate of a normal."""
    hint = torch.zeros(1, 16, 16, 3)
    hint[:, 5] = -1.0 if kind == "inpaint" else 1.0
    size = {"size": "width and height", "width": 32, "height": 24}
    expected = call("CNetFitHint", hint=hint, size=size, kind=kind)
    made = call("CNetFitHint", hint=torch.cat([hint, torch.ones(1, 16, 16, 1)], -1), size=size, kind=kind)
    assert torch.equal(made, torch.cat([expected, torch.ones(1, 24, 32, 1)], -1))
    grey = torch.cat([hint[..., :1], torch.ones(1, 16, 16, 1)], -1)
    assert call("CNetFitHint", hint=grey, size=size).shape == (1, 24, 32, 2)


def test_a_preview_shows_hint_and_picture(call, scene):
    hint = torch.zeros(1, 64, 64, 3)
    hint[:, :32] = 1
    over = call("CNetPreviewHint", image=scene, hint=hint, layout="overlay", opacity=1.0)
    assert torch.equal(over[:, 64:], scene[:, 64:]) and over[:, :64].eq(1).all()
    beside = call("CNetPreviewHint", image=scene, hint=hint, layout="side by side")
    assert beside.shape == (1, 128, 256, 3) and torch.equal(beside[:, :, :128], scene)

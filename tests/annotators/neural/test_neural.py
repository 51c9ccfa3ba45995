"""Every annotator by a network, end to end: from a file of random weights to hints of any size."""

import shutil

import numpy as np
import pytest
import torch
from published import NETWORKS, quietly, write

from annotators import run, weights
from annotators.errors import AnnotatorError, WeightsError
from annotators.registry import Annotation
from annotators.table import ANNOTATORS

# Regions that are any good are rare by random weights; hands and faces take many seconds each.
VALUES = {
    "sam": {"points": 4, "quality": 0.0, "stability": 0.0},
    "openpose": {"hands": False, "face": False},
}
SLOW = ("zoe", "openpose")


# Of those that share a network, one.
LOADING = {one.build: one.id for one in ANNOTATORS.values() if one.weights}.values()
OTHERS = dict.fromkeys(("model", "optimizer", "depth_model", "state_dict"), 3) | {"epoch": torch.zeros(2)}


@pytest.mark.parametrize(
    ("name", "held"),
    [
        pytest.param(name, held, id=f"{name}-{which}", marks=pytest.mark.slow if built else ())
        for name in LOADING
        for which, held in {
            "list": [torch.zeros(2)],
            "numbered": {1: torch.zeros(2)},
            "no tensors": {"model": 3},
            "others": OTHERS,
        }.items()
        for built in [which == "others" and name in ("zoe", "depth_anything_large")]
    ],
)
def test_files_that_are_not_the_annotators_are_named_with_the_mend(tmp_path, name, held):
    annotator = ANNOTATORS[name]
    for weight in annotator.weights:
        path = (tmp_path / weight.repository / weight.file).with_suffix(".pth")
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(held, path)
    with pytest.raises(WeightsError) as raised:
        weights.build(annotator, [tmp_path])
    assert str(tmp_path) in str(raised.value) and "Put the file there" in str(raised.value)


def pictures(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Pictures [B,H,W,3] with areas, edges and grain, in exact bytes."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 200, (count, -(-height // 16), -(-width // 16), 3))
    areas = coarse.repeat(16, 1).repeat(16, 2)[:, :height, :width]
    return torch.from_numpy(areas + rng.integers(0, 56, areas.shape)).float() / 255


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in NETWORKS],
)
def case(request, tmp_path_factory):
    """An annotator, its network from a file, and parameters."""
    annotator = ANNOTATORS[request.param]
    folder = tmp_path_factory.mktemp(annotator.id)
    with quietly():
        write(annotator, NETWORKS[annotator.id](), folder)
    net = weights.build(annotator, [folder])
    shutil.rmtree(folder)
    return annotator, net, VALUES.get(annotator.id, {})


def test_hints_have_the_pictures_size_and_range_and_a_batch_is_as_its_pictures_alone(case):
    annotator, net, values = case
    images = pictures(2, 80, 96)
    hints = run.annotate(annotator, images, values, net=net, seed=3)
    assert hints.image.shape == images.shape and hints.image.dtype == torch.float32
    assert hints.image.min() >= 0 and hints.image.max() <= 1
    bound = 2e-4
    if hints.depth is not None:
        # Random weights may see hardly any depth; the picture stretches it, and its rounding too.
        bound = max(bound, float(1e-6 * hints.depth.abs().max() / (hints.depth.max() - hints.depth.min())))
    for i in range(2):
        alone = run.annotate(annotator, images[i : i + 1], values, net=net, seed=3 + i)
        apart = (alone.image - hints.image[i : i + 1]).abs()
        assert apart.max() < bound or (
            annotator.kind in ("lines", "areas") and apart.gt(0).float().mean() < 1e-3
        )
        for name in ("depth", "labels"):
            one, both = getattr(alone, name), getattr(hints, name)
            assert (one is None) == (both is None)
            if one is not None:
                assert torch.isclose(one.double(), both[i : i + 1].double(), atol=1e-4).float().mean() > 0.999


@pytest.mark.parametrize("size", [(1, 1), (17, 33), (4096, 16)])
def test_any_size_comes_out_as_it_went_in(case, size):
    annotator, net, values = case
    hints = run.annotate(annotator, pictures(1, *size), values, net=net)
    assert hints.image.shape == (1, *size, 3)
    assert hints.image.isfinite().all() and hints.image.min() >= 0 and hints.image.max() <= 1


def test_the_same_picture_gives_the_same_hint_and_nothing_global_changes(case):
    annotator, net, values = case
    state = torch.get_rng_state()
    images = pictures(1, 32, 64)
    before = images.clone()
    first = run.annotate(annotator, images, values, net=net, seed=1)
    again = run.annotate(annotator, images, values, net=net, seed=1)
    assert torch.equal(first.image, again.image)
    assert torch.equal(images, before) and torch.equal(torch.get_rng_state(), state)


def test_a_network_may_compute_in_another_format(case):
    annotator, net, values = case
    hints = run.annotate(annotator, pictures(1, 32, 64), values, net=net)
    try:
        net.to(torch.bfloat16)
        coarse = run.annotate(annotator, pictures(1, 32, 64), values, net=net)
    finally:
        net.to(torch.float32)
    assert coarse.image.dtype == torch.float32 and coarse.image.isfinite().all()
    if annotator.kind == "soft" and "scribble" not in annotator.id:
        assert (coarse.image - hints.image).abs().mean() < 0.05


def test_what_is_no_number_is_no_hint(case):
    annotator, net, values = case
    weight = next(net.parameters())
    sound = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.fill_(torch.nan)
        with pytest.raises(AnnotatorError, match="compute in fp32"):
            run.annotate(annotator, pictures(1, 32, 64), values, net=net)
    finally:
        with torch.no_grad():
            weight.copy_(sound)


def test_the_background_of_normals_may_be_that_of_the_sequence():
    """Of which the second picture is as a whole farther than the first."""
    rows = torch.arange(32.0)[:, None].expand(32, 40)
    depth = torch.stack([rows + 100, rows])
    values = {"strength": 1.0, "background": 0.5}
    finish = ANNOTATORS["midas_normals"].finish
    flat = {
        span: finish(Annotation(depth=depth), **values, span=span).picture[:, 1].eq(0.5).float().mean((1, 2))
        for span in ("picture", "sequence")
    }
    assert flat["picture"].lt(0.6).all() and flat["sequence"].gt(0.9).tolist() == [False, True]

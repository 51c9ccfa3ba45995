"""Every annotator without a network, on every kind of picture."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from annotators import ade20k
from annotators.run import annotate
from annotators.show import fitted
from annotators.table import ANNOTATORS, find

CLASSICAL = [one for one in ANNOTATORS.values() if one.build is None and one.extra is None]
named = pytest.mark.parametrize("annotator", CLASSICAL, ids=lambda one: one.id)


def pictures(count, height, width, channels=3):
    rng = np.random.default_rng(0)
    coarse = rng.random((count, -(-height // 6), -(-width // 6), channels), dtype=np.float32)
    return torch.from_numpy(coarse.repeat(6, 1).repeat(6, 2)[:, :height, :width].copy())


@named
@pytest.mark.parametrize("size", [(1, 1), (17, 33), (512, 8), (70, 50)], ids=str)
def test_a_hint_has_the_size_and_range_of_its_picture(annotator, size):
    image = annotate(annotator, pictures(1, *size)).image
    assert image.shape == (1, *size, 3) and image.dtype == torch.float32
    assert image.isfinite().all() and image.min() >= 0 and image.max() <= 1


@named
def test_a_batch_equals_a_loop(annotator):
    batch = pictures(3, 40, 30)
    together = annotate(annotator, batch, seed=5, chunk=2).image
    alone = [annotate(annotator, batch[i : i + 1], seed=5 + i).image for i in range(3)]
    assert torch.equal(together, torch.cat(alone))


@named
@pytest.mark.parametrize("mode", ["stretch", "crop", "fill"])
def test_a_hint_has_exactly_the_size_asked_for(annotator, mode):
    assert annotate(annotator, pictures(1, 40, 30), size=(33, 65), resize=mode).image.shape == (1, 33, 65, 3)


@named
@pytest.mark.parametrize("channels", [1, 4])
def test_values_that_are_no_colours_do_not_matter(annotator, channels):
    clean = pictures(1, 24, 24, channels)
    clean[:, :4], clean[:, 8:12] = 0, 1
    wild = clean.clone()
    wild[:, :4], wild[:, 8:12] = torch.nan, 1.02
    assert torch.equal(annotate(annotator, wild).image, annotate(annotator, clean).image)


def test_a_drawing_comes_out_the_same_in_black_on_white_and_in_white_on_black():
    white = torch.zeros(1, 32, 32, 3)
    white[:, 15:17, 4:28] = 1
    assert torch.equal(annotate(find("drawing"), 1 - white).image, white)
    assert torch.equal(annotate(find("drawing"), white).image, white)
    assert not annotate(find("drawing"), torch.ones(1, 32, 32, 3)).image.any()


def test_hough_lines_are_the_sides_of_a_box_and_none_runs_across_a_texture():
    box = torch.zeros(1, 96, 96, 3)
    box[:, 10:80, 15:85] = 1
    (lines,) = annotate(find("hough_lines"), box).lines
    sides = {("x", x) for x in (14, 15, 84, 85)} | {("y", y) for y in (9, 10, 79, 80)}
    found = {("x", int(a)) if a == c else ("y", int(b)) for a, b, c, d in lines.tolist() if a == c or b == d}
    assert len(found) >= 4 and found <= sides and len(lines) == len(found)

    # Upright strokes in rows: many edges lie on every slanted line through them, none runs along it.
    strokes = torch.ones(1, 128, 128, 3)
    for y in range(0, 128, 8):
        strokes[:, y : y + 5, y // 8 % 3 :: 4] = 0
    (lines,) = annotate(find("hough_lines"), strokes).lines
    assert ((lines[:, 0] == lines[:, 2]) | (lines[:, 1] == lines[:, 3])).all()


def test_a_scribble_has_no_cracks_where_two_colours_meet():
    halves = torch.zeros(1, 32, 32, 3)
    halves[:, :, :16, 0], halves[:, :, 17:, 2] = 1, 1
    halves[:, :, 16, ::2] = 0.5
    stroke = annotate(find("xdog_scribble"), halves).image[0, 16, :, 0]
    (across,) = stroke.nonzero(as_tuple=True)
    assert len(across) > 2 and across.tolist() == list(range(across[0], across[-1] + 1))


@pytest.mark.parametrize(
    ("axes", "channels"),
    [
        ("BAE", [(0, 1), (1, 1), (2, 1)]),
        ("MiDaS v1.0", [(2, 1), (1, 1), (0, 1)]),
        ("OpenGL", [(0, -1), (1, 1), (2, 1)]),
        ("DirectX", [(0, -1), (1, -1), (2, 1)]),
    ],
)
def test_the_axes_of_normals(axes, channels):
    """Each channel: which of left, up and to the viewer it is, and its sign."""
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    nearer_right_and_below = ((columns * 1.5 + rows) / 160)[None, ..., None]
    found = annotate(find("depth_normals"), nearer_right_and_below, {"axes": axes}).image[0, 32, 32] * 2 - 1
    vector = F.normalize(torch.tensor([0.6, 0.4, 1.0]), dim=0)
    torch.testing.assert_close(
        found, torch.stack([vector[i] * sign for i, sign in channels]), atol=1e-2, rtol=0
    )


def test_raw_depth_gives_the_normals_of_its_picture():
    """Nearness without a scale, minus metres, and a map of 0..1 beside them; what is no number is far."""
    _, rows, columns = torch.meshgrid(torch.arange(1), torch.arange(48), torch.arange(64), indexing="ij")
    near = ((rows / 9).sin() * (columns / 7).cos() + 1) / 2
    near = (near - near.min()) / (near.max() - near.min())
    raw = torch.cat([near * 20 + 2, near * 9 - 10, near])[..., None].expand(-1, -1, -1, 3)
    expected = annotate(find("depth_normals"), near[..., None]).image
    made = annotate(find("depth_normals"), raw).image
    assert expected.std((1, 2)).min() > 0.05
    assert torch.allclose(made, expected.expand_as(made), atol=1e-3)
    holed, filled = raw[:2].clone(), raw[:2].clone()
    holed[:, 10:12, 5], filled[:, 10:12, 5] = torch.nan, torch.tensor([2.0, -10.0])[:, None, None]
    holed[:, 20, 5:9], filled[:, 20, 5:9] = torch.inf, torch.tensor([22.0, -1.0])[:, None, None]
    both = [annotate(find("depth_normals"), one).image for one in (holed, filled)]
    assert torch.allclose(*both, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_depth_map_of_8_bits_has_no_terraces_and_keeps_its_edges(dtype):
    ramp = torch.linspace(0, 0.2, 256)[None, None, :, None].repeat(1, 256, 1, 1)
    ramp[:, 64:128] += 0.5
    exact = annotate(find("depth_normals"), ramp).image
    stepped = annotate(find("depth_normals"), ((ramp * 255).round() / 255).to(dtype)).image
    # With terraces it is 0.08 at most and 0.017 in the mean.
    off = (stepped - exact)[:, 8:-8, 8:-8].abs()
    assert off.max() < 0.035 and off.mean() < 0.003


def test_labels_get_the_colours_of_ade20k():
    labels = torch.arange(150).reshape(1, 10, 15)
    hints = annotate(find("ade20k_colours"), labels[..., None] / 255.0, {"read_as": "labels"})
    assert torch.equal(hints.labels, labels)
    again = annotate(find("ade20k_colours"), hints.image)
    assert torch.equal(again.image, hints.image)
    assert (hints.image[0, 0, 1] * 255).round().tolist() == [180, 120, 120]
    assert len(ade20k.NAMES) == len(ade20k.PALETTE) == 150


def test_every_colour_of_a_photo_gets_the_nearest_of_the_palette():
    photo = torch.rand(1, 300, 300, 3, generator=torch.manual_seed(0)).mul(255).round() / 255
    assert len(photo.view(-1, 3).unique(dim=0)) > 1 << 16
    labels = annotate(find("ade20k_colours"), photo).labels
    some = photo[:, ::30, ::30]
    assert torch.equal(annotate(find("ade20k_colours"), some).labels, labels[:, ::30, ::30])


@pytest.mark.parametrize("rows", [0, 10, 32, 40])
def test_the_border_of_an_inpaint_hint_is_marked_as_that_of_its_mask(rows):
    masks = torch.zeros(1, 64, 64)
    masks[:, :rows] = 1
    image = torch.linspace(0.4, 0.6, 64).expand(1, 64, 64)[..., None].repeat(1, 1, 1, 3)
    made = annotate(find("inpaint"), image, masks=masks, size=(64, 96), resize="fill")
    assert torch.equal(made.image.eq(-1).all(-1), made.mask.eq(1))
    colours = made.image[made.image >= 0]
    assert colours.min() > 0.39 and colours.max() < 0.61


def test_an_inpaint_hint_is_minus_one_where_to_paint():
    masks = torch.zeros(1, 8, 8)
    masks[:, 2:4] = 1
    image = pictures(1, 8, 8)
    hint = annotate(find("inpaint"), image, masks=masks).image
    assert hint[:, 2:4].eq(-1).all() and torch.equal(hint[:, 4:], image[:, 4:])
    assert set(annotate(find("inpaint"), image, masks=masks, size=(16, 16)).mask.unique().tolist()) <= {0, 1}


def test_each_picture_has_its_own_mask_in_whichever_chunk():
    masks = torch.zeros(3, 8, 8)
    masks[range(3), range(3)] = 1
    hint = annotate(find("inpaint"), pictures(3, 8, 8), masks=masks, chunk=1).image
    assert torch.equal((hint == -1).all(-1).float(), masks)


def test_memory_that_runs_out_halves_the_chunks():
    from dataclasses import replace

    seen = []

    def small(pictures):
        seen.append(len(pictures))
        if len(pictures) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return find("invert").annotate(pictures)

    image = pictures(5, 4, 4)
    hints = annotate(replace(find("invert"), annotate=small), image, chunk=5)
    assert torch.equal(hints.image, 1 - image) and seen == [5, 2, 2, 1]


@named
def test_no_hint_shares_the_memory_of_its_picture(annotator):
    image = pictures(1, 8, 8)
    values = {"cell": 1} if annotator.id == "colour_grid" else {}
    made = annotate(annotator, image, values).image
    assert made.untyped_storage().data_ptr() != image.untyped_storage().data_ptr()


def test_the_border_of_normals_is_a_normal():
    corridor = torch.tensor([0.5, 0.5, 1.0]).repeat(1, 64, 64, 1)
    for channel, side in ((0, -1), (0, 0), (1, 0), (1, -1)):
        edge = corridor[:, :, side] if channel == 0 else corridor[:, side]
        edge[:] = 0.5
        edge[..., channel] = 0.0 if side else 1.0
    tilted = (torch.tensor([0.36, 0.48, 0.8]) / 2 + 0.5).expand(1, 64, 64, 3)
    for hint, expected in ((corridor, [0.0, 0.0, 1.0]), (tilted, [0.36, 0.48, 0.8])):
        made = fitted(hint, (64, 96), "fill", "normals")
        torch.testing.assert_close(made[0, 0, 0] * 2 - 1, torch.tensor(expected), atol=1e-5, rtol=0)
    # In MiDaS' order the first axis faces the viewer.
    assert fitted(corridor.flip(-1), (64, 96), "fill", "normals")[0, 0, 0].tolist() == [1.0, 0.5, 0.5]
    for background in (0.0, 0.5):
        cut_out = corridor.clone()
        cut_out[:, [0, -1]] = cut_out[:, :, [0, -1]] = background
        assert (fitted(cut_out, (64, 96), "fill", "normals")[0, 0, 0] == background).all()


def test_the_cells_of_a_grid_are_the_means_of_what_they_cover():
    image = pictures(2, 192, 128)
    image[0] = 1.0
    grid = annotate(find("colour_grid"), image, {"cell": 64}).image
    means = image.unfold(1, 64, 64).unfold(2, 64, 64).double().mean((-2, -1)).float()
    expected = means.repeat_interleave(64, 1).repeat_interleave(64, 2)
    torch.testing.assert_close(grid, expected, atol=1e-6, rtol=0)
    assert (grid[0] == 1).all()
    # Rows that belong to two cells in parts.
    uneven = annotate(find("colour_grid"), pictures(1, 100, 96), {"cell": 30}).image
    first = pictures(1, 100, 96)[0, :34, :32].double()
    weights = torch.ones(34, 1, 1, dtype=torch.double)
    weights[33] = 1 / 3
    mean = (first * weights).sum((0, 1)) / weights.sum() / 32
    torch.testing.assert_close(uneven[0, 0, 0], mean.float(), atol=1e-5, rtol=0)

"""Where pictures and hints land in other sizes, and what hints of each kind become there."""

import pytest
import torch

from annotators import fit
from annotators.errors import ParameterError


def test_a_crop_keeps_the_middle_along_the_longer_side():
    wide = torch.arange(8.0).expand(1, 1, 4, 8)
    assert fit.fit(wide, (4, 4), "crop", "areas")[0, 0, 0].tolist() == [2, 3, 4, 5]
    assert fit.fit(wide.mT, (4, 4), "crop", "areas")[0, 0, :, 0].tolist() == [2, 3, 4, 5]


def test_a_strip_that_would_have_to_be_enormous_is_named():
    with pytest.raises(ParameterError, match=r"64 x 8000 covers 1024 x 1024 only when .* 1024 x 128000"):
        fit.place((8000, 64), (1024, 1024), "crop")
    assert fit.place((8000, 64), (1024, 1024), "fill").scaled == (1024, 8)
    # What is so large by itself is not enlarged.
    assert fit.place((9000, 9000), (9000, 8000), "crop").scaled == (9000, 9000)


def test_an_annotator_looks_at_a_size_of_the_pictures_shape():
    assert fit.pixel_perfect((4, 8), (4, 4), "crop") == (4, 8)
    assert fit.pixel_perfect((4, 8), (4, 4), "fill") == (2, 4)
    assert fit.short_side((30, 60), 10) == (10, 20)


def test_points_go_where_their_pixels_go():
    corners = torch.tensor([[-0.5, -0.5], [0.0, 0.0], [19.5, 9.5]])
    stretched = fit.place((10, 20), (40, 60), "stretch").points(corners)
    assert stretched.tolist() == [[-0.5, -0.5], [1.0, 1.5], [59.5, 39.5]]
    cropped = fit.place((10, 20), (10, 10), "crop").points(torch.tensor([9.5, 4.5]))
    assert cropped.tolist() == [4.5, 4.5]


def test_areas_take_the_colour_at_the_centre_of_each_pixel():
    row = torch.tensor([0.1, 0.2, 0.3]).expand(1, 1, 1, 3)
    assert torch.equal(fit.resize(row, (1, 2), "areas"), row[..., [0, 2]])


def test_thin_lines_stay_one_pixel_wide_and_strokes_stay_strokes():
    thin, thick = torch.zeros(2, 1, 3, 16, 16)
    thin[..., 8, :] = 1
    thick[..., 4:12, :] = 1
    widths = [fit.resize(lines, (32, 32), "lines")[0, 0, :, 16].sum().item() for lines in (thin, thick)]
    assert widths == [1, 16]


def test_an_inpaint_hint_stays_marked_where_half_of_a_pixel_is():
    hint = torch.full((1, 3, 1, 8), 0.5)
    hint[..., :3] = -1
    # A mark has all channels.
    hint[:, 0, 0, 7] = -1
    made = fit.resize(hint, (1, 4), "inpaint")
    assert made[0, 1, 0].tolist() == [-1, -1, 0.5, 0.5] and made[0, 0, 0, 3] >= 0
    hint[..., 3:5] = -1
    assert fit.resize(hint, (1, 2), "inpaint")[0, 1, 0].tolist() == [-1, 0.5]


def test_a_hint_of_unknown_origin_has_the_kind_that_it_looks_like():
    disc, line = torch.zeros(2, 3, 32, 32)
    disc[:, 8:24, 8:24], line[:, 16] = 1, 1
    marked = disc * -1
    metres = torch.linspace(-9, 9, 1024).reshape(1, 32, 32).expand(3, -1, -1)
    kinds = [fit.kind_of(picture) for picture in (disc, line, marked, metres)]
    assert kinds == ["areas", "lines", "inpaint", "depth"]


@pytest.mark.parametrize(
    ("kind", "colour"), [("skeleton", 0), ("lines", 0), ("soft", 0), ("depth", 1), ("photo", 1)]
)
def test_the_border_is_black_around_what_is_drawn_on_black(kind, colour):
    made = fit.fit(torch.ones(1, 3, 8, 8), (8, 16), "fill", kind)
    assert (made[..., :4] == colour).all() and (made[..., 4:12] == 1).all()

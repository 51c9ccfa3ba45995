"""Control images as hints, and hints spread over a batch."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cnet_core.control.hint import extended, prepare_hint, spread, stacked, unstacked
from cnet_core.control.residuals import Residuals
from cnet_core.errors import HintError


def picture(channels: int, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, channels, 5, 7, generator=torch.Generator().manual_seed(channels))


def test_rgb_passes_unchanged():
    image = picture(3)
    assert torch.equal(prepare_hint(image), image)


@pytest.mark.parametrize("lowest", [-1.0, 0.0])
def test_values_beyond_the_range_are_cut_off_and_the_image_stays_as_it_was(lowest):
    image = picture(3) * 4 - 2
    before = image.clone()
    assert torch.equal(prepare_hint(image, lowest=lowest), before.clamp(lowest, 1))
    assert torch.equal(image, before)


@pytest.mark.parametrize("wanted", [1, 3])
@pytest.mark.parametrize("found", [1, 3, 4])
def test_what_an_inpaint_hint_marks_stays_marked(found, wanted):
    image = picture(found)
    image[:, :3, 2:] = -1
    if found == 4:
        image[:, 3] = 1
    hint = prepare_hint(image, wanted)
    assert torch.allclose(hint[:, :, 2:], torch.tensor(-1.0)) and hint[:, :, :2].min() >= 0


def test_an_opacity_below_0_is_transparent():
    image = -torch.ones(1, 4, 2, 2)
    assert not prepare_hint(image).any()


def test_grey_fills_three_channels():
    image = picture(1)
    assert torch.equal(prepare_hint(image), torch.cat([image] * 3, 1))


def test_transparent_places_are_black_whatever_colour_lies_below():
    image = torch.ones(1, 4, 2, 2)
    image[:, 3] = torch.tensor([[0.0, 0.25], [0.5, 1.0]])
    assert torch.equal(prepare_hint(image), image[:, 3:].expand(-1, 3, -1, -1))


def test_a_network_of_as_many_channels_takes_them_as_they_are():
    image = picture(4)
    assert torch.equal(prepare_hint(image, channels=4), image)


def test_a_grey_network_takes_a_grey_map_from_three_channels_as_it_is():
    image = picture(1)
    assert torch.allclose(prepare_hint(image.expand(-1, 3, -1, -1), channels=1), image, atol=1e-6)
    assert torch.equal(prepare_hint(image, channels=1), image)
    assert prepare_hint(torch.ones(1, 3, 2, 2), channels=1).max() <= 1


def test_a_grey_network_sees_the_luminance_of_colours():
    image = torch.eye(3)[None, :, :, None]
    assert torch.equal(prepare_hint(image, channels=1).flatten(), torch.tensor([0.299, 0.587, 0.114]))


def test_a_grey_network_sees_transparent_places_black():
    image = torch.ones(1, 4, 1, 2)
    image[:, 3] = torch.tensor([[0.0, 0.5]])
    assert torch.allclose(prepare_hint(image, channels=1), torch.tensor([[[[0.0, 0.5]]]]), atol=1e-6)


@pytest.mark.parametrize("found", [1, 3, 4, 6])
@pytest.mark.parametrize("wanted", [2, 4, 6])
def test_networks_of_other_numbers_take_just_that_number(found, wanted):
    if found == wanted:
        assert torch.equal(prepare_hint(picture(found), wanted), picture(found))
        return
    with pytest.raises(HintError, match=f"has {found} channels.*wants {wanted}"):
        prepare_hint(picture(found), wanted)


def test_half_precision_is_read_as_float():
    assert prepare_hint(picture(3).half()).dtype == torch.float32


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_no_numbers_are_refused(value):
    image = picture(3)
    image[1, 2, 4, 6] = value
    with pytest.raises(HintError, match="not finite"):
        prepare_hint(image)


def test_numbers_whose_sum_is_none_are_clamped():
    image = torch.full((1, 3, 4, 4), 3e38)
    assert image.sum().isinf()
    assert torch.equal(prepare_hint(image), torch.ones(1, 3, 4, 4))


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (1, 3, 0, 8), (1, 3, 8, 0), (3, 8, 8)])
def test_empty_images_are_refused(shape):
    with pytest.raises(HintError, match="at least one"):
        prepare_hint(torch.zeros(shape))


@pytest.mark.parametrize("channels", [2, 5])
def test_other_channels_are_refused_by_number(channels):
    with pytest.raises(HintError, match=f"has {channels} channels.*wants 3"):
        prepare_hint(picture(channels))


@given(hints=st.integers(1, 5), latents=st.integers(1, 9))
def test_hints_go_to_the_latents_in_turn(hints, latents):
    features = torch.arange(hints)[:, None]
    assert spread(features, latents)[:, 0].tolist() == [i % hints for i in range(latents)]


def test_residuals_are_read_block_by_block_the_middle_last():
    down = [torch.zeros(1), torch.ones(1)]
    mid = torch.full((1,), 2.0)
    assert [float(block) for block in Residuals(down, mid)] == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("size", [(16, 32), (9, 17), (1, 31)])
def test_extended_repeats_the_last_pixels_up_to_a_multiple(size):
    image = torch.rand(2, 3, *size)
    longer = extended(image, 16)
    assert tuple(longer.shape[-2:]) == tuple(-(-side // 16) * 16 for side in size)
    assert torch.equal(longer[..., : size[0], : size[1]], image)
    assert (longer[..., size[0] :, : size[1]] == image[..., -1:, :]).all()
    assert (longer[..., size[1] :] == longer[..., size[1] - 1 : size[1]]).all()


@pytest.mark.parametrize("counts", [(1, 1, 1), (3, 1, 3), (2, 3, 1), (1,), (4,)])
def test_what_is_cut_out_of_stacked_pictures_is_cut_out_of_each(counts):
    pictures = [torch.rand(count, 1 + i, 16, 24) for i, count in enumerate(counts)]
    stack = stacked(pictures)
    assert stack.shape[-2:] == (16, 24)
    parts = unstacked(stack[..., 4:12, 6:], pictures)
    for part, picture in zip(parts, pictures, strict=True):
        assert torch.equal(part, picture[..., 4:12, 6:].expand(part.shape[0], -1, -1, -1))


def test_smaller_pictures_of_a_stack_are_cut_and_enlarged_to_the_largest():
    small = torch.rand(1, 3, 12, 8)
    parts = unstacked(stacked([small, torch.rand(1, 3, 16, 16)]), [small, small])
    assert torch.equal(parts[0], small[..., 2:10, :].repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert unstacked(torch.zeros(1, 5, 8, 8), [small, small]) is None

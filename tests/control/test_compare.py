"""Sizes and agreement of residuals, on residuals that are made to be alike, opposed, unrelated or silent."""

import pytest
import torch

from cnet_core.control.compare import agreement, residual_sizes


@pytest.fixture
def blocks() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, c, s, s + 1, generator=generator) for c, s in ((4, 8), (6, 4), (8, 2))]


def expect(value: float, batch: int = 2) -> torch.Tensor:
    return torch.full((batch, 8, 9), value)


@pytest.mark.parametrize(("factor", "value"), [(1.0, 1.0), (0.01, 1.0), (-1.0, -1.0), (-30.0, -1.0)])
def test_the_same_agrees_and_the_opposite_conflicts_however_loud(blocks, factor, value):
    found = agreement(blocks, [factor * block for block in blocks], 8, 9)
    torch.testing.assert_close(found, expect(value))


def test_what_is_orthogonal_is_neither(blocks):
    first, second = [block.clone() for block in blocks], [block.clone() for block in blocks]
    for one, other in zip(first, second, strict=True):
        half = one.shape[1] // 2
        one[:, half:], other[:, :half] = 0, 0
    torch.testing.assert_close(agreement(first, second, 8, 9), expect(0.0))


def test_silence_is_0(blocks):
    assert torch.equal(agreement(blocks, [torch.zeros_like(b) for b in blocks], 8, 9), expect(0.0))
    assert not agreement(blocks, [None] * 3, 8, 9).any()
    assert not agreement([], [], 8, 9).any()


def test_conflicts_are_found_where_they_are(blocks):
    other = [block.clone() for block in blocks]
    for block in other:
        block[..., : block.shape[-1] // 2] *= -1
    found = agreement(blocks, other, 8, 9)
    assert (found[..., :2] < -0.5).all() and (found[..., -2:] > 0.5).all()


def test_a_loud_block_outweighs_a_quiet_one(blocks):
    other = [1000 * blocks[0], -blocks[1], None]
    assert (agreement(blocks, other, 8, 9) > 0).all()
    assert (agreement([1e-4 * blocks[0], *blocks[1:]], [1e-4 * other[0], *other[1:]], 8, 9) < 0).all()


def test_a_block_of_which_one_says_nothing_does_not_count(blocks):
    torch.testing.assert_close(agreement(blocks, [blocks[0], None, None], 8, 9), expect(1.0))
    torch.testing.assert_close(agreement(blocks, blocks[:1], 8, 9), expect(1.0))


def test_tokens_lie_on_the_latents_grid():
    tokens = torch.randn(1, 4 * 6, 5, generator=torch.Generator().manual_seed(2))
    other = tokens.clone()
    other.view(1, 4, 6, 5)[:, :2] *= -1
    found = agreement([tokens], [other], 8, 12)
    torch.testing.assert_close(found[:, :2], torch.full((1, 2, 12), -1.0))
    torch.testing.assert_close(found[:, -2:], torch.full((1, 2, 12), 1.0))


def test_half_precision_does_not_overflow():
    loud = torch.full((1, 512, 2, 2), 300.0, dtype=torch.float16)
    assert residual_sizes([loud]) == [300.0]
    torch.testing.assert_close(agreement([loud], [-loud], 2, 2), torch.full((1, 2, 2), -1.0))


def test_sizes_are_root_mean_squares():
    assert residual_sizes([torch.tensor([[3.0, -4.0]]), None, torch.zeros(1, 2)]) == [
        pytest.approx(12.5**0.5), 0.0, 0.0,
    ]  # fmt: skip

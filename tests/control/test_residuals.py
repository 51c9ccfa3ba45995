"""Residuals, and what becomes of them as a whole."""

import torch

from cnet_core.control.residuals import Residuals, pooled


def test_residuals_are_read_block_by_block_the_middle_last():
    down = [torch.zeros(1), torch.ones(1)]
    mid = torch.full((1,), 2.0)
    assert [float(block) for block in Residuals(down, mid)] == [0.0, 1.0, 2.0]


def test_pooled_is_the_mean_over_the_image_of_each_row_and_channel():
    generator = torch.Generator().manual_seed(1)
    down = [torch.randn(2, 3, 4, 5, generator=generator), None, torch.randn(2, 6, 2, 3, generator=generator)]
    residuals = Residuals(down, torch.randn(2, 6, 1, 1, generator=generator), [None, down[0]])
    found = pooled(residuals)
    for block, mean in zip([*residuals, *residuals.encoder], [*found, *found.encoder], strict=True):
        if block is None:
            assert mean is None
            continue
        assert mean.shape == block.shape
        expected = block.flatten(2).double().mean(2)[:, :, None, None]
        assert (mean - expected).abs().max() < 1e-6
    assert torch.equal(found.mid, residuals.mid)


def test_pooled_takes_no_memory_per_place_and_changes_nothing():
    block = torch.rand(1, 2, 8, 8)
    before = block.clone()
    (mean, _) = pooled(Residuals([block]))
    assert mean.untyped_storage().nbytes() == 2 * 4
    assert torch.equal(block, before)

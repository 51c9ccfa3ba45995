"""Rows of a batch, chosen without an index that must be copied to a device."""

import pytest
import torch

from cnet_core.control.rows import first_alike, index_of, pick


@pytest.mark.parametrize("rows", [[0], [3], [0, 1, 2, 3], [1, 2], [0, 0, 0], [3, 1], [0, 2], [2, 2, 1]])
def test_pick(rows):
    value = torch.randn(4, 3, 2)
    assert torch.equal(pick(value, rows), value[rows])


def test_neighbours_are_a_view_and_copies_take_no_memory():
    value = torch.randn(4, 3)
    assert pick(value, [1, 2]).data_ptr() == value[1].data_ptr()
    assert pick(value, [2] * 50).untyped_storage().data_ptr() == value.untyped_storage().data_ptr()


def test_others_are_an_index_made_on_the_device():
    found = index_of([2, 0], torch.device("meta"))
    assert isinstance(found, torch.Tensor)
    assert found.device.type == "meta" and found.dtype == torch.long


def test_equal_rows_of_a_chunk_have_one_to_stand_for_them():
    one, two, three = torch.randn(3, 1, 4, 2)
    value = torch.cat([one, one, one, one, two, one, three, three, three])
    assert first_alike(value, 3) == [0, 0, 0, 3, 4, 5, 6, 6, 6]
    # Equal texts of two sides stay apart.
    assert first_alike(torch.cat([one, one]), 2) == [0, 1]

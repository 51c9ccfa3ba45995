"""Reference-only's attention: what each row reads, and how much of it."""

import pytest
import torch

from cnet_core.control.reference import Reading, Recording
from cnet_core.errors import ControlError
from cnet_core.networks.blocks import sdpa

HERE = {"block": ("input", 4), "block_index": 1, "n_heads": 2}


def attend(q, k, v, extra_options, rows):
    assert len(rows) == len(q)
    return sdpa(q, k, v, extra_options["n_heads"])


@pytest.fixture
def tokens():
    return torch.randn(3, 3, 6, 8, generator=torch.Generator().manual_seed(0)).unbind()


def reading(k, v, weights, sources=(0, 1, 2), mask=None, attend=attend):
    return Reading(attend, k, v, sources, weights, torch.tensor(weights), lambda q: mask)


def test_a_recording_keeps_keys_and_values_and_attends_as_before(tokens):
    recording = Recording(attend)
    assert torch.equal(recording(*tokens, HERE), sdpa(*tokens, 2))
    keys, values = recording.kept["input", 4, 1]
    assert keys is tokens[1] and values is tokens[2]


def test_a_picture_that_is_its_own_reference_stays_as_it_is(tokens):
    """The same keys twice get half the attention each."""
    q, k, v = tokens
    torch.testing.assert_close(reading(k, v, [1.0, 1.0, 1.0])(q, k, v, HERE), sdpa(q, k, v, 2))


def test_rows_read_their_sources_by_their_weights(tokens):
    q, k, v = tokens
    keys, values = torch.randn(2, 2, 5, 8, generator=torch.Generator().manual_seed(1)).unbind()
    plain = sdpa(q, k, v, 2)
    full = sdpa(q, torch.cat([k, keys[[0, 1, 0]]], 1), torch.cat([v, values[[0, 1, 0]]], 1), 2)
    found = reading(keys, values, [1.0, 0.0, 0.3], [0, 1, 0])(q, k, v, HERE)
    assert torch.equal(found[1], plain[1])
    torch.testing.assert_close(found[0], full[0])
    torch.testing.assert_close(found[2], 0.3 * full[2] + 0.7 * plain[2])
    assert torch.equal(reading(keys, values, [0.0, 0.0, 0.0])(q, k, v, HERE), plain)


def test_a_mask_weighs_the_picture_s_tokens(tokens):
    q, k, v = tokens
    keys, values = k + 1, v + 1
    mask = torch.zeros(3, 6, 1)
    mask[:, :2] = 1
    found = reading(keys, values, [1.0, 1.0, 1.0], mask=mask)(q, k, v, HERE)
    full = reading(keys, values, [1.0, 1.0, 1.0])(q, k, v, HERE)
    torch.testing.assert_close(found[:, :2], full[:, :2])
    torch.testing.assert_close(found[:, 2:], sdpa(q, k, v, 2)[:, 2:])


def test_two_references_are_read_together(tokens):
    q, k, v = tokens
    first = reading(k + 1, v + 1, [1.0, 0.0, 1.0])
    second = reading(k - 1, v - 1, [0.0, 1.0, 1.0], attend=first.over)
    found = second(q, k, v, HERE)
    both = sdpa(q, torch.cat([k, k - 1, k + 1], 1), torch.cat([v, v - 1, v + 1], 1), 2)
    torch.testing.assert_close(found[0], first(q, k, v, HERE)[0])
    torch.testing.assert_close(found[1], reading(k - 1, v - 1, [1.0] * 3)(q, k, v, HERE)[1])
    torch.testing.assert_close(found[2], both[2])


def test_tokens_that_another_patch_rearranged_are_refused(tokens):
    with pytest.raises(ControlError, match="rearranges the tokens"):
        reading(tokens[1], tokens[2], [1.0, 1.0])(*tokens, HERE)

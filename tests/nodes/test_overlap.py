"""Control networks that run beside the UNet's encoder. What a GPU makes of it, benchmarks compare there."""

import sys

import pytest
import torch


@pytest.fixture
def overlap(nodes):
    """The pack's module, by the name that the host gave it."""
    load = sys.modules[nodes["CNetLoadControlNet"].__module__]
    return sys.modules[f"{load.host.__name__}.overlap"]


def test_residuals_are_waited_for_when_one_is_taken(overlap):
    waits = []
    residuals = overlap.Awaited([torch.zeros(1), torch.ones(1)], lambda: waits.append(len(residuals)))
    # The host looks whether there are any before its encoder runs.
    assert len(residuals) == 2
    assert residuals
    assert waits == []
    assert residuals.pop() == 1
    assert [float(r) for r in residuals] == [0.0]
    assert residuals[0] == 0
    assert waits == [2, 1, 1]


def test_on_a_cpu_it_changes_nothing(call, files, prompts, draw, apply, hint, unit, merge):
    def load(**settings):
        return call("CNetLoadControlNet", control_net_name="first.safetensors", **settings)

    beside, plain = load(overlap=True), load()
    assert beside.network is plain.network
    applied = apply(prompts, beside, hint)
    assert applied["positive"][0][1]["control"].overlap
    assert torch.equal(draw(**applied), draw(**apply(prompts, plain, hint)))
    twice = draw(**merge(prompts, unit(beside, hint), unit(beside, hint)))
    assert torch.equal(twice, draw(**merge(prompts, unit(plain, hint), unit(plain, hint))))

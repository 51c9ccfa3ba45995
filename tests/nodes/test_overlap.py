"""Control networks that run beside the UNet's encoder. What a GPU makes of it, benchmarks compare there."""

import pytest
import torch


@pytest.fixture
def load(call, files):
    return lambda **settings: call("CNetLoadControlNet", control_net_name="first.safetensors", **settings)


def test_residuals_are_waited_for_when_one_is_taken(host):
    waits = []
    residuals = host.overlap.Awaited([torch.zeros(1), torch.ones(1)], lambda: waits.append(len(residuals)))
    # The host looks whether there are any before its encoder runs.
    assert len(residuals) == 2
    assert residuals
    assert waits == []
    assert residuals.pop() == 1
    assert [float(r) for r in residuals] == [0.0]
    assert residuals[0] == 0
    assert waits == [2, 1, 1]


def test_on_a_cpu_it_changes_nothing(load, prompts, draw, apply, hint, unit, merge):
    beside, plain = load(overlap=True), load()
    assert beside.network is plain.network
    applied = apply(prompts, beside, hint)
    assert applied["positive"][0][1]["control"].overlap
    assert torch.equal(draw(**applied), draw(**apply(prompts, plain, hint)))
    twice = draw(**merge(prompts, unit(beside, hint), unit(beside, hint)))
    assert torch.equal(twice, draw(**merge(prompts, unit(plain, hint), unit(plain, hint))))


def test_a_merge_runs_beside_the_unet_only_where_all_its_controls_may(
    load, prompts, draw, hint, unit, merge, host, monkeypatch
):
    asked, chained = set(), host.merged.chained
    monkeypatch.setattr(
        host.merged,
        "chained",
        lambda control, call, own, overlap: asked.add(overlap) or chained(control, call, own, overlap),
    )
    for other in (False, True):
        asked.clear()
        draw(**merge(prompts, unit(load(overlap=True), hint), unit(load(overlap=other), hint)))
        assert asked == {other}

"""AdamW by its paper; in 8 bits near that, exactly resumed, and refused where it cannot be."""

import dataclasses
import sys

import pytest
import torch

from cnet_core.errors import TrainingError
from cnet_core.training.loop import STATES, fit
from cnet_core.training.optimizer import make_optimizer
from cnet_core.training.state import read_state

from .conftest import SETTINGS, make_learner
from .test_loop import Cancelled, cancel_at, same

EIGHT = dataclasses.replace(SETTINGS, optimizer="adamw8bit", rate=1e-3)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_its_steps_are_those_of_the_paper(weight_decay):
    """arXiv 1711.05101, algorithm 2, with the usual betas and epsilon: weights decay by the rate alone."""
    settings = dataclasses.replace(SETTINGS, rate=0.05, weight_decay=weight_decay)
    generator = torch.Generator().manual_seed(1)
    weight = torch.nn.Parameter(torch.randn(20, generator=generator))
    optimizer = make_optimizer([weight], settings)
    wanted, first, second = weight.detach().double().clone(), 0, 0
    for step in range(1, 6):
        gradient = torch.randn(20, generator=generator)
        weight.grad = gradient.clone()
        optimizer.step()
        first = 0.9 * first + 0.1 * gradient.double()
        second = 0.999 * second + 0.001 * gradient.double() ** 2
        moved = first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        wanted = wanted - 0.05 * (moved + weight_decay * wanted)
        torch.testing.assert_close(weight.detach().double(), wanted, rtol=1e-4, atol=1e-5)


@pytest.fixture
def bitsandbytes():
    """Of a version that computes on the CPU."""
    pytest.importorskip("bitsandbytes")
    try:
        make_learner(EIGHT)
    except TrainingError as error:
        pytest.skip(str(error))


def test_in_8_bits_it_ends_near_the_other(bitsandbytes, source):
    whole, eight = make_learner(dataclasses.replace(EIGHT, optimizer="adamw")), make_learner(EIGHT)
    before = [p.detach().clone() for p in eight.weights]
    for _ in range(6):
        torch.testing.assert_close(whole.advance(source), eight.advance(source), rtol=1e-3, atol=0)
    # Those of 4096 weights and more are in 8 bits.
    for one, other, old in zip(whole.weights, eight.weights, before, strict=True):
        assert one.numel() < 4096 or eight.optimizer.state[other]["state1"].dtype == torch.uint8
        assert torch.linalg.norm(one - other) < 0.05 * torch.linalg.norm(one - old)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_stopped_in_8_bits_it_goes_on_bit_for_bit(bitsandbytes, tmp_path, source, precision):
    settings = dataclasses.replace(EIGHT, precision=precision)
    straight, resumed = make_learner(settings), make_learner(settings)
    fit(straight, source, tmp_path / "straight")
    with pytest.raises(Cancelled):
        fit(make_learner(settings), source, tmp_path / "cut", report=cancel_at(3))
    state = read_state(tmp_path / "cut" / STATES / "step-00000003.safetensors")
    kept = {t.dtype for name, t in state.tensors.items() if name.endswith((".state1", ".state2"))}
    assert kept == {torch.uint8, torch.float32}
    assert fit(resumed, source, tmp_path / "cut", resume=True)
    assert same(resumed.state().tensors, straight.state().tensors)
    assert resumed.state().facts == straight.state().facts


def test_without_bitsandbytes_the_mend_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(
        TrainingError, match=r"needs bitsandbytes, .* pip install .*bitsandbytes>=.* adamw\.$"
    ):
        make_learner(EIGHT)


def test_a_version_that_does_not_know_the_device_is_refused_before_anything_is_trained(
    bitsandbytes, monkeypatch
):
    """As those before 0.50 did on a CPU."""
    from bitsandbytes.optim import AdamW8bit

    def step(self):
        raise RuntimeError("All input tensors need to be on the same GPU")

    monkeypatch.setattr(AdamW8bit, "step", step)
    with pytest.raises(
        TrainingError, match=r"no 8-bit optimizer for cpu: All input .* use the optimizer adamw\."
    ):
        make_learner(EIGHT)

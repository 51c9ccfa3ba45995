"""Half precision: fp16's scaled losses, bf16, and that both end near fp32."""

import dataclasses

import pytest
import torch

from cnet_core.errors import TrainingError
from cnet_core.training.learner import Learner
from cnet_core.training.loop import STATES, fit
from cnet_core.training.state import read_state
from cnet_core.training.step import PRECISIONS

from .conftest import SETTINGS, make_base, make_learner
from .test_loop import Cancelled, cancel_at, same

HALF = dataclasses.replace(SETTINGS, precision="fp16")


def half_learner(settings=HALF, scale: float | None = None) -> Learner:
    """With a base of the settings' precision, as the shell loads it; scale: of the loss, at first."""
    learner = make_learner(settings, make_base().to(PRECISIONS[settings.precision]))
    if scale is not None:
        learner.scaler.load_state_dict({**learner.scaler.state_dict(), "scale": scale})
    return learner


def counted(learner):
    """Steps as AdamW counts them."""
    return {float(own["step"]) for own in learner.optimizer.state.values()}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("rank", [0, 2], ids=["whole", "low rank"])
def test_a_training_in_half_precision_ends_near_that_in_fp32(source, precision, rank):
    settings = dataclasses.replace(SETTINGS, rate=1e-3, rank=rank)
    whole, half = make_learner(settings), half_learner(dataclasses.replace(settings, precision=precision))
    before = [p.detach().clone() for p in half.weights]
    for _ in range(6):
        losses = whole.advance(source), half.advance(source)
        torch.testing.assert_close(*losses, rtol=0.02, atol=0)
    assert all(p.dtype == torch.float32 for p in half.weights)

    def path(learner):
        moved = [(p.detach() - old).flatten() for p, old in zip(learner.weights, before, strict=True)]
        return torch.cat(moved)

    assert torch.cosine_similarity(path(whole), path(half), dim=0) > 0.97
    torch.testing.assert_close(path(half).norm(), path(whole).norm(), rtol=0.02, atol=0)


def test_steps_whose_gradients_overflow_change_nothing_until_the_scale_has_fallen(source):
    learner = half_learner(dataclasses.replace(HALF, ema=0.9), scale=2.0**24)
    taken = 0
    for step in range(1, 20):
        before, scale = [p.detach().clone() for p in learner.weights], learner.scaler.get_scale()
        learner.advance(source)
        still = all(torch.equal(p, old) for p, old in zip(learner.weights, before, strict=True))
        assert still == (learner.scaler.get_scale() == scale / 2)
        taken += not still
        assert learner.step == step and counted(learner) == {taken}
    assert 0 < taken < step
    assert all(torch.isfinite(p).all() for p in [*learner.weights, *learner.average])


@pytest.mark.parametrize("step", [2, 5], ids=["while it overflows", "later"])
def test_stopped_in_fp16_it_goes_on_bit_for_bit_with_the_scale_that_it_had(tmp_path, source, step):
    straight, resumed = half_learner(scale=2.0**24), half_learner()
    fit(straight, source, tmp_path / "straight")
    with pytest.raises(Cancelled):
        fit(half_learner(scale=2.0**24), source, tmp_path / "cut", report=cancel_at(step))
    state = read_state(tmp_path / "cut" / STATES / f"step-{step:08}.safetensors")
    assert state.facts["scaler"]["scale"] == 2.0 ** (24 - min(step, 4))
    assert fit(resumed, source, tmp_path / "cut", resume=True)
    assert same(resumed.state().tensors, straight.state().tensors)
    assert resumed.state().facts == straight.state().facts
    assert counted(resumed) == {2}


def test_stopped_in_bf16_it_goes_on_bit_for_bit(tmp_path, source):
    settings = dataclasses.replace(SETTINGS, precision="bf16")
    straight, resumed = half_learner(settings), half_learner(settings)
    fit(straight, source, tmp_path / "straight")
    with pytest.raises(Cancelled):
        fit(half_learner(settings), source, tmp_path / "cut", report=cancel_at(3))
    assert fit(resumed, source, tmp_path / "cut", resume=True)
    assert same(resumed.state().tensors, straight.state().tensors)


def test_gradients_that_overflow_at_every_scale_are_an_error(tmp_path, source):
    """Steps without them would go on to the end, and the network would have learnt nothing."""
    learner = half_learner(dataclasses.replace(HALF, steps=40, save_every=40))
    learner.weights[-1].register_hook(lambda gradient: gradient + float("inf"))
    before = [p.detach().clone() for p in learner.weights]
    with pytest.raises(TrainingError, match=r"overflow in fp16 at any scale, up to step 40;.* bf16 in place"):
        fit(learner, source, tmp_path)
    assert all(torch.equal(p, old) for p, old in zip(learner.weights, before, strict=True))
    assert not list((tmp_path / STATES).iterdir())

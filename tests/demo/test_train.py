"""The trainings of the mini checkpoints: rate, data, loss, and that they go on after an interruption."""

import math

import pytest
import torch
from torch import nn

from cnet_core.training.diffusion import alpha_sigma
from demo.scenes import draw_scene
from demo.train import FIRST_TRAINING_SEED, Plan, Scenes, batches, diffusion_loss, train


def test_the_rate_warms_up_and_decays() -> None:
    plan = Plan(steps=300, batch=1, rate=2.0, seed=0)
    rates = [plan.rate_at(step) for step in (0, 99, 200, 300)]
    assert rates == pytest.approx([0.02, 2.0, 2.0 * 0.525, 2.0 * 0.05])


class Steady(Plan):
    """Whose rate does not depend on its length."""

    def rate_at(self, step: int) -> float:
        return self.rate


def test_a_training_that_goes_on_ends_as_one_that_was_not_interrupted(tmp_path) -> None:
    begun = []

    def trained(name: str, steps: int) -> nn.Module:
        torch.manual_seed(0)
        net = nn.Linear(2, 1)

        def data(start):
            begun.append(start)
            for scene in range(start, 100, 2):
                yield from [torch.full((2, 2), math.sin(scene))] * 2

        def loss_of(batch, generator):
            return (net(batch + torch.randn(2, 2, generator=generator)) - 1).square().mean()

        plan = Steady(steps=steps, batch=2, rate=0.1, seed=1)
        train(name, {"net": net}, plan, data, loss_of, tmp_path / f"{name}.pt")
        return net

    whole = trained("whole", 8)
    trained("halves", 4)
    torch.testing.assert_close(trained("halves", 8).state_dict(), whole.state_dict())
    # Each batch of two scenes is given twice.
    assert begun == [0, 0, 4]
    # What comes out is an average, and no state to go on from.
    last = torch.load(tmp_path / "whole.pt", weights_only=True)["module"]
    assert not torch.equal(last["net.weight"], whole.weight)


def test_scenes_of_a_training_are_its_own_and_each_is_given_twice() -> None:
    drawn = batches(Scenes(2, 4, "depth"))
    first, again, second = (next(drawn) for _ in range(3))
    assert first is again
    scenes = [draw_scene(FIRST_TRAINING_SEED + number) for number in (4, 5, 6, 7)]
    assert [*first["captions"], *second["captions"]] == [scene.caption for scene in scenes]
    assert torch.allclose(second["hints"][1, 0], torch.from_numpy(scenes[3].depth), atol=0.51 / 255)


class Words(nn.Module):
    def tokenize(self, captions):
        self.captions = captions
        return torch.zeros(len(captions), 1)

    def forward(self, tokens):
        return tokens


class Knows(nn.Module):
    """Answers v for latents of ones, whatever their noise."""

    def forward(self, noisy, timesteps, context, residuals=None):
        alpha, sigma = alpha_sigma(timesteps)
        return alpha * (noisy - alpha) / sigma - sigma


def test_the_loss_is_that_of_v_and_some_captions_are_dropped() -> None:
    words = Words()
    loss = diffusion_loss(Knows(), words, drop=0.25)
    batch = {"latents": torch.ones(400, 4, 2, 2), "captions": ["a"] * 400}
    assert float(loss(batch, torch.Generator().manual_seed(0))) == pytest.approx(0, abs=1e-3)
    assert words.captions.count("") == pytest.approx(100, abs=30)

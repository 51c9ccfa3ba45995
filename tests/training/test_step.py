"""One step: what the paper and others say of it, and that the base is only read."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler

from cnet_core.training.diffusion import min_snr_weights, noised, target
from cnet_core.training.order import mixed
from cnet_core.training.shards import checksum
from cnet_core.training.start import trainable
from cnet_core.training.step import Objective, Trainee, draw, losses

from .conftest import CONFIG, HINT_WIDTHS, SETTINGS, XL, Memory, make_base, make_learner

PLAIN = Objective()
SCHEDULER = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def spoken(net):
    """The network with joins that are no longer zero, as after some training."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in net.parameters():
            if not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return net


@pytest.fixture
def net(base):
    return spoken(trainable(base, SETTINGS, hint_widths=HINT_WIDTHS))


def a_step(base, net, batch, objective=PLAIN, recompute=False):
    """Losses and gradients by name of one batch."""
    net.zero_grad()
    noise, timesteps = draw(batch, torch.Generator().manual_seed(4))
    found = losses(base, Trainee(net, recompute=recompute), batch, noise, timesteps, objective)
    found.mean().backward()
    return found.detach(), {name: p.grad.clone() for name, p in net.named_parameters()}


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_the_loss_is_that_of_diffusers_scheduler(base, net, source, prediction):
    batch = source.batch(0, 4, 0, 0.0)
    noise, timesteps = draw(batch, torch.Generator().manual_seed(1))
    scheduler = DDPMScheduler(**SCHEDULER)
    x = scheduler.add_noise(batch.latents, noise, timesteps)
    torch.testing.assert_close(noised(batch.latents, noise, timesteps), x, rtol=1e-5, atol=1e-5)
    wanted = noise if prediction == "eps" else scheduler.get_velocity(batch.latents, noise, timesteps)
    with torch.no_grad():
        residuals = net(x, net.encode_hint(batch.hints.float() / 255), timesteps, batch.context)
        said = base(x, timesteps, batch.context, residuals=residuals)
        found = losses(base, Trainee(net), batch, noise, timesteps, Objective(prediction))
    each = F.mse_loss(said, wanted, reduction="none").mean((1, 2, 3))
    torch.testing.assert_close(found, each, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_min_snr_weighs_the_prediction_of_the_latents_as_its_paper_says(prediction):
    """By the paper's own definition: the loss of the latents that are predicted, times min(SNR, gamma)."""
    generator = torch.Generator().manual_seed(2)
    latents, noise, wrong = torch.randn(3, 5, 4, 2, 2, generator=generator).double()
    timesteps = torch.tensor([1, 200, 500, 800, 999])
    kept = DDPMScheduler(**SCHEDULER).alphas_cumprod[timesteps].double()[:, None, None, None]
    alpha, sigma = kept.sqrt(), (1 - kept).sqrt()
    x = alpha * latents + sigma * noise
    said = (noise if prediction == "eps" else alpha * noise - sigma * latents) + 0.1 * wrong
    clean = (x - sigma * said) / alpha if prediction == "eps" else alpha * x - sigma * said
    snr = kept / (1 - kept)
    paper = (snr.clamp(max=5) * (clean - latents) ** 2).mean((1, 2, 3))
    plain = ((said - target(latents, noise, timesteps, prediction)) ** 2).mean((1, 2, 3))
    ours = plain * min_snr_weights(timesteps, prediction, 5.0)
    torch.testing.assert_close(ours, paper, rtol=1e-3, atol=0)


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("gamma", [5.0, 0.5])
def test_the_loss_is_weighed_by_min_snr_where_it_is_asked_for(base, net, source, prediction, gamma):
    batch = source.batch(0, 4, 0, 0.0)
    noise, timesteps = draw(batch, torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain, weighed = (
            losses(base, Trainee(net), batch, noise, timesteps, Objective(prediction, min_snr))
            for min_snr in (0.0, gamma)
        )
    kept = DDPMScheduler(**SCHEDULER).alphas_cumprod[timesteps]
    snr = kept / (1 - kept)
    weights = snr.clamp(max=gamma) / (snr if prediction == "eps" else snr + 1)
    torch.testing.assert_close(weighed, plain * weights, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    "white", [torch.tensor(255, dtype=torch.uint8), torch.tensor(1.0)], ids=["8 bits", "float"]
)
def test_white_hints_are_one_for_the_network(base, net, source, white):
    batch = dataclasses.replace(source.batch(0, 2, 0, 0.0), hints=white.expand(2, 3, 32, 32).clone())
    noise, timesteps = draw(batch, torch.Generator().manual_seed(1))
    seen = []

    def control(x, hints, *more):
        seen.append(hints)
        return Trainee(net)(x, hints, *more)

    losses(base, control, batch, noise, timesteps, PLAIN)
    assert torch.equal(seen[0], torch.ones(2, 3, 32, 32))


def test_every_timestep_is_drawn_alike_and_noise_has_unit_variance(source):
    many = torch.zeros(40_000, 2, 1, 1)
    batch = dataclasses.replace(source.batch(0, 1, 0, 0.0), latents=many)
    noise, timesteps = draw(batch, torch.Generator().manual_seed(1))
    # 40 of each, give or take their root.
    counts = torch.bincount(timesteps)
    assert len(counts) == 1000 and counts.min() > 10 and counts.max() < 80
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
    assert noise.shape == many.shape and len(noise.unique()) > 0.9 * noise.numel()


@pytest.mark.parametrize("config", [CONFIG, XL], ids=["sd15", "sdxl"])
def test_before_the_first_step_the_controlled_base_is_the_base_bit_for_bit(config):
    base, batch = make_base(config), Memory(4, config).batch(0, 4, 0, 0.5)
    control = Trainee(trainable(base, SETTINGS, hint_widths=HINT_WIDTHS))
    noise, timesteps = draw(batch, torch.Generator().manual_seed(1))
    with torch.no_grad():
        x = noised(batch.latents, noise, timesteps)
        plain = F.mse_loss(base(x, timesteps, batch.context, batch.y), noise, reduction="none")
        found = losses(base, control, batch, noise, timesteps, Objective())
    assert torch.equal(found, plain.mean((1, 2, 3)))


def test_gradients_reach_the_joins_first_then_the_copy_and_the_hints_last(base):
    """Section 3.2 of the paper: zero joins have gradients, what lies behind them has none until they move."""
    source, learner = Memory(), make_learner()
    batch = source.batch(0, 4, 0, 0.0)
    _, first = a_step(base, learner.net, batch)
    moved = {name for name, gradient in first.items() if gradient.any()}
    assert moved == {name for name in first if name.startswith(("zero_convs.", "middle_block_out."))}
    last = f"input_hint_block.{len(learner.net.input_hint_block) - 1}."
    learner.advance(source)
    _, second = a_step(base, learner.net, batch)
    still = {name for name, gradient in second.items() if not gradient.any()}
    # Behind the hint encoder's own zero convolution, one step later.
    assert still == {n for n in second if n.startswith("input_hint_block.") and not n.startswith(last)}
    learner.advance(source)
    learner.advance(source)
    _, later = a_step(base, learner.net, batch)
    assert all(gradient.any() for gradient in later.values())


@pytest.mark.parametrize("config", [CONFIG, XL], ids=["sd15", "sdxl"])
@pytest.mark.parametrize("all_", [False, True], ids=["control", "all"])
def test_activations_computed_twice_give_the_same_gradients(config, all_):
    base, batch = make_base(config), Memory(4, config).batch(0, 2, 0, 0.0)
    net = spoken(trainable(base, SETTINGS, hint_widths=HINT_WIDTHS))
    found, plain = a_step(base, net, batch)
    again, twice = a_step(base, net, batch, Objective(recompute_base=all_), recompute=True)
    assert torch.equal(found, again)
    assert all(torch.equal(plain[name], twice[name]) for name in plain)


def test_recomputing_keeps_less(base, net, source):
    """Bytes that autograd keeps, for which the option is there."""
    batch = source.batch(0, 4, 0, 0.0)
    noise, timesteps = draw(batch, torch.Generator().manual_seed(4))

    def kept(recompute: bool, all_: bool) -> int:
        seen: dict[int, int] = {}

        def note(tensor):
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            objective = Objective(recompute_base=all_)
            loss = losses(base, Trainee(net, recompute=recompute), batch, noise, timesteps, objective)
        del loss
        return sum(seen.values())

    assert kept(False, False) > kept(True, False) > kept(True, True)


def test_the_base_has_no_gradients_and_keeps_its_hash(base, source):
    before = checksum(base.state_dict())
    learner = make_learner(base=base)
    for _ in range(3):
        learner.advance(source)
    assert all(p.grad is None for p in base.parameters())
    assert checksum(base.state_dict()) == before
    theirs = {p.data_ptr() for p in base.parameters()}
    assert not theirs & {p.data_ptr() for p in learner.net.parameters()}


def test_a_step_leaves_torchs_own_generator_alone(source):
    state = torch.get_rng_state()
    make_learner(dataclasses.replace(SETTINGS, rank=2)).advance(source)
    assert torch.equal(torch.get_rng_state(), state)


def test_bf16_arithmetic_keeps_fp32_weights_and_moves_them_all(source):
    learner = make_learner(dataclasses.replace(SETTINGS, precision="bf16", rate=1e-5, warm_up=0))
    before = [p.detach().clone() for p in learner.weights]
    for _ in range(8):
        learner.advance(source)
    assert all(p.dtype == torch.float32 for p in learner.weights)
    moved = sum(int((p != old).sum()) for p, old in zip(learner.weights, before, strict=True))
    assert moved / sum(p.numel() for p in learner.weights) > 0.99


def test_two_batches_of_two_give_the_gradients_of_one_of_four(base, net, source):
    whole = source.batch(0, 4, 0, 0.0)
    noise, timesteps = draw(whole, torch.Generator().manual_seed(mixed(1)))
    losses(base, Trainee(net), whole, noise, timesteps, Objective()).mean().backward()
    at_once = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    for half in (slice(0, 2), slice(2, 4)):
        part = dataclasses.replace(
            whole, latents=whole.latents[half], hints=whole.hints[half], context=whole.context[half]
        )
        found = losses(base, Trainee(net), part, noise[half], timesteps[half], Objective())
        (found.mean() / 2).backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.grad, at_once[name], rtol=1e-4, atol=1e-6)


def test_a_step_reads_the_next_batches_by_the_settings():
    asked = []

    class Asked(Memory):
        def batch(self, *arguments):
            asked.append(arguments)
            return super().batch(*arguments)

    learner, source = make_learner(dataclasses.replace(SETTINGS, accumulation=3, seed=5, drop=0.3)), Asked()
    learner.advance(source)
    learner.advance(source)
    assert asked == [(index, 2, 5, 0.3) for index in range(6)]


def test_what_the_settings_say_of_the_loss_is_what_is_computed(source):
    settings = dataclasses.replace(SETTINGS, prediction="v", min_snr=2.0, precision="bf16", recompute="all")
    assert settings.objective == Objective("v", 2.0, "bf16", True)
    assert SETTINGS.objective == Objective("eps", 0.0, "fp32", False)
    found = {
        float(make_learner(dataclasses.replace(SETTINGS, prediction=kind, min_snr=gamma)).advance(source))
        for kind in ("eps", "v")
        for gamma in (0.0, 0.1)
    }
    assert len(found) == 4


def test_a_step_is_taken_at_its_own_rate(source):
    learner, taken = make_learner(dataclasses.replace(SETTINGS, warm_up=4, rate=1.0)), []
    learner.optimizer.register_step_pre_hook(
        lambda *_: taken.extend(group["lr"] for group in learner.optimizer.param_groups)
    )
    for _ in range(3):
        learner.advance(source)
    assert taken == [0.25, 0.5, 0.75]


@pytest.mark.parametrize("clip", [0.0, 1e-3, 1e3])
def test_a_step_follows_the_mean_gradient_of_its_batches_up_to_a_length(source, clip):
    def followed(accumulation, clip, step):
        """At the weights of the beginning, whatever the step."""
        learner = make_learner(dataclasses.replace(SETTINGS, accumulation=accumulation, clip=clip))
        taken = []
        learner.optimizer.register_step_pre_hook(
            lambda *_: taken.append(torch.cat([p.grad.flatten() for p in learner.weights]))
        )
        learner.step = step
        learner.advance(source)
        return taken[0]

    mean = (followed(1, 0.0, 0) + followed(1, 0.0, 1)) / 2
    assert mean.norm() > 1e-2
    wanted = mean * min(1.0, clip / mean.norm()) if clip else mean
    torch.testing.assert_close(followed(2, clip, 0), wanted, rtol=1e-3, atol=1e-7)

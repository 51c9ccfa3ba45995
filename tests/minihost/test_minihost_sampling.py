"""Noise levels against the closed form, samplers against exact solutions, guidance and controls."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minihost import sampling
from minihost.errors import MinihostError
from minihost.guidance import COND, Guider
from minihost.shims import model_management, samplers
from minihost.shims import sample as comfy_sample
from minihost.shims.model_management import InterruptProcessingException
from minihost.shims.model_sampling import EPS, V_PREDICTION, ModelSamplingDiscrete

LEVELS = ModelSamplingDiscrete()


def closed_form():
    """sigma_t of Stable Diffusion, from its betas, in Python's floats."""
    kept, sigmas = 1.0, []
    for t in range(1000):
        root = math.sqrt(0.00085) + (math.sqrt(0.012) - math.sqrt(0.00085)) * t / 999
        kept *= 1 - root * root
        sigmas.append(math.sqrt((1 - kept) / kept))
    return sigmas


def test_noise_levels_are_those_of_the_betas():
    expected = closed_form()
    assert LEVELS.sigmas.tolist() == pytest.approx(expected, rel=1e-6)
    assert float(LEVELS.sigma_min) == pytest.approx(0.02917, abs=1e-5)
    assert float(LEVELS.sigma_max) == pytest.approx(14.6146, abs=1e-4)


def test_timesteps_and_noise_levels_invert_each_other():
    steps = torch.arange(1000)
    assert torch.equal(LEVELS.timestep(LEVELS.sigma(steps)), steps)
    low, high = closed_form()[500:502]
    assert float(LEVELS.sigma(torch.tensor(500.5))) == pytest.approx(math.sqrt(low * high), rel=1e-5)
    assert float(LEVELS.sigma(torch.tensor(2000.0))) == pytest.approx(float(LEVELS.sigma_max), rel=1e-6)


@given(st.floats(0.001, 0.999), st.floats(0.001, 0.999))
def test_percent_falls_from_the_highest_level_to_nothing(one, other):
    low, high = sorted((one, other))
    assert 0.0 < LEVELS.percent_to_sigma(high) <= LEVELS.percent_to_sigma(low) <= float(LEVELS.sigma_max)
    assert LEVELS.percent_to_sigma(0.0) > float(LEVELS.sigma_max)
    assert LEVELS.percent_to_sigma(1.0) == 0.0


def test_normal_schedule_is_even_in_time():
    expected = closed_form()
    found = sampling.make_sigmas(LEVELS, "normal", 4).tolist()
    assert found == pytest.approx([expected[999], expected[666], expected[333], expected[0], 0.0], rel=1e-5)


def test_karras_schedule_is_even_in_the_seventh_root():
    sigmas = sampling.make_sigmas(LEVELS, "karras", 9)
    roots = sigmas[:-1].double() ** (1 / 7)
    assert torch.allclose(roots.diff(), roots.diff().mean().expand(8), rtol=1e-4)
    assert float(sigmas[0]) == pytest.approx(14.6146, abs=1e-3)
    assert float(sigmas[-2]) == pytest.approx(0.02917, abs=1e-5)


@pytest.mark.parametrize("scheduler", sampling.SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 2, 7, 30])
def test_every_schedule_falls_from_the_highest_level_to_zero(scheduler, steps):
    sigmas = sampling.make_sigmas(LEVELS, scheduler, steps)
    assert len(sigmas) == steps + 1
    assert float(sigmas[0]) == pytest.approx(14.6146, abs=1e-3)
    assert float(sigmas[-1]) == 0.0
    assert (sigmas.diff() < 0).all()


@pytest.mark.parametrize("scheduler", sampling.SCHEDULERS)
def test_denoise_takes_the_last_steps_of_a_longer_schedule(scheduler):
    longer = sampling.make_sigmas(LEVELS, scheduler, 20)
    assert torch.equal(sampling.make_sigmas(LEVELS, scheduler, 8, denoise=0.4), longer[-9:])
    assert len(sampling.make_sigmas(LEVELS, scheduler, 8, denoise=0.0)) == 0


@given(st.integers(0, 2**64 - 1))
def test_noise_is_the_hosts_and_leaves_the_global_generator_alone(seed):
    before = torch.random.get_rng_state()
    found = sampling.prepare_noise(torch.Size([2, 4, 3, 3]), seed)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(seed)
    assert torch.equal(found, torch.randn(2, 4, 3, 3))


def nothing(*step):
    pass


def gaussian(mean, spread):
    """The exact denoiser for data of this mean and spread: the mean of the data given x."""

    def denoise(x, sigma):
        return (spread**2 * x + sigma**2 * mean) / (spread**2 + sigma**2)

    return denoise


def error(sampler, steps):
    """Distance from the exact solution of the probability flow, which is known for gaussian data."""
    mean, spread, first, last = 0.7, 0.5, 10.0, 0.02
    sigmas = torch.linspace(math.log(first), math.log(last), steps + 1, dtype=torch.float64).exp()
    x = torch.tensor([12.0, -3.0, 0.4], dtype=torch.float64)
    exact = mean + (x - mean) * math.hypot(spread, last) / math.hypot(spread, first)
    return float((sampling.SAMPLERS[sampler](gaussian(mean, spread), x, sigmas, nothing) - exact).abs().max())


@pytest.mark.parametrize(("sampler", "order"), [("euler", 1), ("dpmpp_2m", 2)])
def test_samplers_converge_with_their_order(sampler, order):
    coarse, fine = error(sampler, 50), error(sampler, 100)
    assert fine < 0.02
    assert coarse / fine == pytest.approx(2**order, rel=0.25)


@pytest.mark.parametrize("sampler", sampling.SAMPLERS)
@given(levels=st.lists(st.floats(0.05, 20.0), min_size=1, max_size=8, unique=True), mean=st.floats(-3, 3))
def test_one_possible_picture_is_found_whatever_the_steps(sampler, levels, mean):
    sigmas = torch.tensor([*sorted(levels, reverse=True), 0.0], dtype=torch.float64)
    x = torch.full((2,), 5.0, dtype=torch.float64)
    found = sampling.SAMPLERS[sampler](lambda x, sigma: torch.full_like(x, mean), x, sigmas, nothing)
    assert torch.allclose(found, torch.full_like(x, mean), atol=1e-9)


@given(st.floats(0.03, 14.0), st.floats(-2, 2), st.floats(-2, 2))
def test_predictions_give_the_data_back(sigma, data, noise):
    """From x = data + sigma * noise a perfect eps is noise, a perfect v (noise - sigma * data) / n."""
    x, level = torch.tensor([[data + sigma * noise]]), torch.tensor([sigma])
    scale = 1 / math.sqrt(1 + sigma**2)  # 1 / n
    for kind, output in ((EPS, noise), (V_PREDICTION, scale * noise - sigma * scale * data)):
        model = type("Model", (kind,), {"sigma_data": 1.0})()
        assert float(model.calculate_denoised(level, torch.tensor([[output]]), x)) == pytest.approx(
            data, abs=1e-4
        )
        assert float(model.calculate_input(level, x)) == pytest.approx(scale * float(x), abs=1e-5)


@pytest.fixture
def loaded(nodes, tiny):
    """Model, positive and negative conditioning of the tiny pack, and its apply node."""
    model, clip, _ = nodes["TinyLoad"].execute("v").args
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("one", "two"))
    return model, positive, negative


def run(model, positive, negative, latent=None, **changes):
    given = {"seed": 5, "steps": 3, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal", **changes}
    latent = torch.zeros(1, 4, 4, 5) if latent is None else latent
    noise = comfy_sample.prepare_noise(latent, given["seed"])
    with torch.inference_mode():
        return comfy_sample.sample(
            model, noise, positive=positive, negative=negative, latent_image=latent, **given
        )


def test_the_picture_depends_on_the_seed_and_the_text_alone(loaded):
    model, positive, negative = loaded
    assert torch.equal(run(model, positive, negative), run(model, positive, negative))
    assert not torch.equal(run(model, positive, negative), run(model, positive, negative, seed=6))
    assert not torch.equal(run(model, positive, negative), run(model, negative, positive))


def test_denoise_of_zero_gives_the_latent_back(loaded):
    latent = torch.randn(1, 4, 4, 5)
    assert run(*loaded, latent, denoise=0.0) is latent


def test_noise_by_the_places_that_latents_come_from():
    latent = torch.zeros(3, 4, 3, 3)
    found = comfy_sample.prepare_noise(latent, 5, [3, 1, 3])
    torch.manual_seed(5)
    each = [torch.randn(1, 4, 3, 3) for _ in range(4)]
    assert torch.equal(found, torch.cat([each[3], each[1], each[3]]))


def test_a_run_in_two_parts_is_the_whole_run(loaded):
    """Euler has no memory, so the second half goes on from the first one's latent, without new noise."""
    model, positive, negative = loaded
    seen = []
    whole = run(*loaded, callback=lambda i, data, x, total: seen.append((i, data.shape, x.shape, total)))
    assert seen == [(i, (1, 4, 4, 5), (1, 4, 4, 5), 3) for i in range(3)]
    given = {"steps": 3, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal"}
    given |= {"positive": positive, "negative": negative, "disable_pbar": True}
    latent = torch.zeros(1, 4, 4, 5)
    noise = comfy_sample.prepare_noise(latent, 5)
    with torch.inference_mode():
        half = comfy_sample.sample(model, noise, latent_image=latent, last_step=2, **given)
        rest = comfy_sample.sample(model, torch.zeros_like(noise), latent_image=half, start_step=2, **given)
        assert comfy_sample.sample(model, noise, latent_image=latent, start_step=3, **given) is latent
    assert not torch.allclose(half, whole, atol=1e-4)
    assert torch.allclose(rest, whole, atol=1e-4)


def test_the_simple_schedule_is_rounded_as_the_host_rounds():
    """At 38 steps the host's quotient of 1000 / 38 is a little small, and 19 of it less than 500."""
    sigmas = sampling.simple_schedule(LEVELS, 38)
    assert sigmas[19] == LEVELS.sigmas[500]
    assert sigmas[1] == LEVELS.sigmas[999 - 26]


def test_schedules_by_name():
    assert torch.equal(samplers.calculate_sigmas(LEVELS, "karras", 5), sampling.karras_schedule(LEVELS, 5))
    with pytest.raises(ValueError, match=r"'kl_optimal'.*karras"):
        samplers.calculate_sigmas(LEVELS, "kl_optimal", 5)


def test_what_sample_cannot_do_is_refused(loaded):
    with pytest.raises(ValueError, match="noise mask"):
        run(*loaded, noise_mask=torch.ones(1, 4, 5))
    with pytest.raises(ValueError, match=r"'heun'.*euler"):
        run(*loaded, sampler_name="heun")


def controlled(nodes, positive, negative, **changes):
    given = {"value": 2.0, "same_object": True, "interrupt_at": -1, **changes}
    return nodes["TinyApply"].execute(positive, negative, **given).args


def test_one_control_for_both_makes_one_pass_per_step(nodes, tiny, loaded):
    model, positive, negative = loaded
    run(model, *controlled(nodes, positive, negative))
    told = [
        ("pre_run", (999999999.9, 0.0)),
        ("pre_run", (999999999.9, 0.0)),
        *[("get_control", (2, 4, 4, 5), (1, 0))] * 3,
        ("cleanup",),
    ]
    assert tiny.events == told


def test_two_controls_make_two_passes_with_the_same_result(nodes, tiny, loaded):
    model, positive, negative = loaded
    together = run(model, *controlled(nodes, positive, negative))
    tiny.events.clear()
    apart = run(model, *controlled(nodes, positive, negative, same_object=False))
    steps = [event[1:] for event in tiny.events if event[0] == "get_control"]
    assert steps == [((1, 4, 4, 5), (0,)), ((1, 4, 4, 5), (1,))] * 3
    assert torch.allclose(together, apart, atol=1e-4)
    assert not torch.allclose(together, run(model, positive, negative), atol=1e-2)


def test_at_cfg_one_the_negative_costs_nothing(nodes, tiny, loaded):
    model, positive, negative = loaded
    run(model, *controlled(nodes, positive, negative), cfg=1.0)
    assert {event[1:] for event in tiny.events if event[0] == "get_control"} == {((1, 4, 4, 5), (0,))}


@pytest.mark.parametrize("interrupt_at", [-1, 3])
def test_the_model_stays_bit_for_bit_what_it_was(nodes, tiny, loaded, interrupt_at):
    model, positive, negative = loaded
    before = {key: value.clone() for key, value in model.model.state_dict().items()}
    conditioning = controlled(nodes, positive, negative, interrupt_at=interrupt_at)
    if interrupt_at >= 0:
        with pytest.raises(InterruptProcessingException):
            run(model, *conditioning)
        assert not model_management.processing_interrupted()
    else:
        run(model, *conditioning)
    assert all(torch.equal(value, before[key]) for key, value in model.model.state_dict().items())


def predict(model, positive, sigma=3.0):
    guider = Guider(model, positive, [], 1.0)
    x = torch.randn(1, 4, 4, 5, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode(), guider.run(x):
        return guider.predict(x, torch.tensor(sigma), (COND,))[COND]


def test_entries_are_averaged_by_their_strength(loaded):
    model, one, other = loaded
    weighted = [[one[0][0], {"strength": 3.0}], [other[0][0], {}]]
    expected = (3 * predict(model, one) + predict(model, other)) / 4
    assert torch.allclose(predict(model, weighted), expected, atol=1e-5)


def test_entries_act_within_their_range(loaded):
    model, one, other = loaded
    halves = [[one[0][0], {"start_percent": 0.0, "end_percent": 0.5}], [other[0][0], {"start_percent": 0.5}]]
    middle = LEVELS.percent_to_sigma(0.5)
    assert torch.allclose(
        predict(model, halves, middle * 1.01), predict(model, one, middle * 1.01), atol=1e-6
    )
    assert torch.allclose(
        predict(model, halves, middle * 0.99), predict(model, other, middle * 0.99), atol=1e-6
    )


@pytest.mark.parametrize("key", ["area", "mask", "hooks"])
def test_what_would_be_left_out_is_refused(loaded, key):
    model, positive, negative = loaded
    with pytest.raises(MinihostError, match=f"'{key}'"):
        run(model, [[positive[0][0], {key: torch.ones(1, 4, 5)}]], negative)
    patched = model.clone()
    patched.model_options["sampler_cfg_function"] = nothing
    with pytest.raises(MinihostError, match="'sampler_cfg_function'"):
        run(patched, positive, negative)
    assert run(model, positive, negative).isfinite().all()


settings.register_profile("minihost", deadline=None, max_examples=50)
settings.load_profile("minihost")


def test_an_empty_latent_gets_the_models_channels_and_another_stays(loaded):
    model = loaded[0]
    assert comfy_sample.fix_empty_latent_channels(model, torch.zeros(2, 16, 3, 3)).shape == (2, 4, 3, 3)
    for latent in (torch.zeros(1, 4, 3, 3), torch.ones(1, 16, 3, 3)):
        assert comfy_sample.fix_empty_latent_channels(model, latent) is latent

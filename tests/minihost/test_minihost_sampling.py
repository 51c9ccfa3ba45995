"""Noise levels against the closed form, samplers against exact solutions, guidance and controls."""

import math
from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minihost import sampling
from minihost.errors import MinihostError
from minihost.guidance import COND, UNCOND, Guider
from minihost.shims import model_management, samplers
from minihost.shims import sample as comfy_sample
from minihost.shims.controlnet import ControlBase, StrengthType
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


def test_percents_are_places_among_the_timesteps():
    assert LEVELS.percent_to_sigma(0.25) == pytest.approx(float(LEVELS.sigma(torch.tensor(749.25))))


@pytest.mark.parametrize(
    ("scheduler", "timesteps"), [("normal", [999, 666, 333, 0]), ("sgm_uniform", [999, 666, 333])]
)
def test_schedules_are_even_in_time(scheduler, timesteps):
    sigmas = closed_form()
    found = sampling.make_sigmas(LEVELS, scheduler, len(timesteps)).tolist()
    assert found == pytest.approx([*(sigmas[t] for t in timesteps), 0.0], rel=1e-5)


def test_exponential_schedule_is_even_in_the_logarithm():
    logarithms = sampling.make_sigmas(LEVELS, "exponential", 9)[:-1].log()
    assert torch.allclose(logarithms.diff(), logarithms.diff().mean().expand(8), rtol=1e-4)


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
    # The host cuts the longer one's number of steps, here 66.7, to a whole one.
    longer = sampling.make_sigmas(LEVELS, scheduler, 66)
    assert torch.equal(sampling.make_sigmas(LEVELS, scheduler, 20, denoise=0.3), longer[-21:])


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


@pytest.mark.parametrize("denoise", [1.0, 0.5])
def test_what_begins_as_noise_alone_has_the_variance_that_the_network_knows(loaded, denoise):
    """Together with that of the data, 1, which is not there yet; less noise is laid over a picture."""
    seen = []
    run(*loaded, steps=4, denoise=denoise, callback=lambda i, data, x, total: seen.append(x))
    level = float(sampling.make_sigmas(LEVELS, "normal", 4, denoise)[0])
    noise = comfy_sample.prepare_noise(torch.zeros(1, 4, 4, 5), 5)
    assert torch.allclose(seen[0], noise * (math.hypot(1, level) if denoise == 1 else level))


@pytest.mark.parametrize("sampler", sampling.SAMPLERS)
def test_the_sampler_node_samples_as_it_is_told(nodes, loaded, sampler):
    model, positive, negative = loaded
    latent = torch.randn(1, 4, 4, 5)
    given = {
        "seed": 6,
        "steps": 4,
        "cfg": 3.0,
        "sampler_name": sampler,
        "scheduler": "karras",
        "denoise": 0.5,
    }
    expected = run(*loaded, latent, **given)
    given |= {"model": model, "positive": positive, "negative": negative}
    with torch.inference_mode():
        (found,) = (
            nodes["KSampler"].execute(**given, latent_image={"samples": latent, "batch_index": [0]}).args
        )
    assert torch.equal(found["samples"], expected) and found["batch_index"] == [0]
    with pytest.raises(ValueError, match="noise mask"):
        nodes["KSampler"].execute(**given, latent_image={"samples": latent, "noise_mask": latent})


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


def test_the_last_of_fewer_steps_may_end_without_noise(loaded):
    given = {"scheduler": "karras", "last_step": 2}
    levels = sampling.make_sigmas(LEVELS, "karras", 3)[:3]
    noisy, clean = run(*loaded, **given), run(*loaded, **given, force_full_denoise=True)
    assert torch.equal(noisy, run(*loaded, sigmas=levels))
    assert torch.equal(clean, run(*loaded, sigmas=levels * torch.tensor([1.0, 1.0, 0.0])))
    assert not torch.allclose(noisy, clean, atol=1e-4)


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


def test_where_no_entry_acts_nothing_is_predicted(loaded):
    model, positive, _ = loaded
    late = [[positive[0][0], {"start_percent": 0.9}]]
    assert torch.equal(predict(model, late, 10.0), torch.zeros(1, 4, 4, 5))


def test_prompts_may_differ_in_their_length(loaded):
    model, short, other = loaded
    long = [[torch.cat([other[0][0]] * 2, dim=1), {}]]
    expected = (predict(model, short) + predict(model, long)) / 2
    assert torch.allclose(predict(model, [*short, *long]), expected, atol=1e-5)


def test_guidance_leads_from_the_negative_through_the_positive(loaded):
    guider = Guider(*loaded, 3.0)
    x, sigma = torch.randn(1, 4, 4, 5), torch.tensor(3.0)
    with torch.inference_mode(), guider.run(x) as denoise:
        found = guider.predict(x, sigma, (COND, UNCOND))
        expected = found[UNCOND] + 3 * (found[COND] - found[UNCOND])
        assert torch.allclose(denoise(x, sigma), expected, atol=1e-5)


@pytest.mark.parametrize("key", ["area", "mask", "gligen", "hooks", "control_apply_to_uncond", "default"])
def test_conditioning_that_would_be_left_out_is_refused(loaded, key):
    model, positive, negative = loaded
    with pytest.raises(MinihostError, match=f"'{key}'"):
        run(model, [[positive[0][0], {key: torch.ones(1, 4, 5)}]], negative)


@pytest.mark.parametrize(
    "key",
    [
        "model_function_wrapper",
        "sampler_cfg_function",
        "sampler_post_cfg_function",
        "sampler_pre_cfg_function",
        "sampler_calc_cond_batch_function",
        "denoise_mask_function",
        "context_handler",
    ],
)
def test_patches_of_a_model_that_would_be_left_out_are_refused(loaded, key):
    model, positive, negative = loaded
    patched = model.clone()
    patched.model_options[key] = nothing
    with pytest.raises(MinihostError, match=f"'{key}'"):
        run(patched, positive, negative)
    assert run(model, positive, negative).isfinite().all()


def test_hooks_on_a_control_are_refused(nodes, loaded):
    model, positive, negative = loaded
    conditioning = controlled(nodes, positive, negative)
    conditioning[0][0][1]["control"].extra_hooks = object()
    with pytest.raises(MinihostError, match="hooks on a control"):
        run(model, *conditioning)


@pytest.mark.parametrize("interrupt_at", [-1, 3])
def test_the_patcher_is_cleaned_up_also_after_a_run_that_was_stopped(nodes, loaded, interrupt_at):
    model, positive, negative = loaded
    cleaned = []
    model.add_callback_with_key("on_cleanup", "mine", cleaned.append)
    with suppress(InterruptProcessingException):
        run(model, *controlled(nodes, positive, negative, interrupt_at=interrupt_at))
    assert cleaned == [model]


def test_what_stands_in_for_a_part_of_a_model_is_found_in_its_place(loaded):
    model = loaded[0]
    patched = model.clone()
    patched.add_object_patch("model_sampling", "mine")
    assert patched.get_model_object("model_sampling") == "mine"
    assert model.get_model_object("model_sampling") is model.model.model_sampling


def outputs(*values):
    """What a control adds to the output blocks, a number each."""
    made = [None if value is None else torch.full((1, 1, 1, 1), value) for value in values]
    return {"input": [], "middle": [], "output": made}


@pytest.mark.parametrize(
    ("kind", "expected"), [(StrengthType.CONSTANT, [0.5] * 3), (StrengthType.LINEAR_UP, [0.125, 0.25, 0.5])]
)
def test_strength_is_even_or_grows_towards_the_middle(kind, expected):
    control = ControlBase()
    control.strength, control.strength_type = 0.5, kind
    merged = control.control_merge(outputs(1.0, 1.0, 1.0), None, None)["output"]
    assert [float(one) for one in merged] == expected


def test_a_chain_of_controls_is_added_up_each_with_its_own_strength():
    control = ControlBase()
    control.strength = 0.5
    merged = control.control_merge(outputs(2.0, 4.0, None), outputs(8.0, None, 1.0), None)["output"]
    assert [float(one) for one in merged] == [9.0, 2.0, 1.0]


def test_a_tensor_that_several_blocks_share_is_weighed_once():
    control, (shared,) = ControlBase(), outputs(2.0)["output"]
    control.strength = 0.5
    merged = control.control_merge({"output": [shared, shared]}, None, None)["output"]
    assert [float(one) for one in merged] == [1.0, 1.0]


settings.register_profile("minihost", deadline=None, max_examples=50)
settings.load_profile("minihost")


def test_an_empty_latent_gets_the_models_channels_and_another_stays(loaded):
    model = loaded[0]
    assert comfy_sample.fix_empty_latent_channels(model, torch.zeros(2, 16, 3, 3)).shape == (2, 4, 3, 3)
    for latent in (torch.zeros(1, 4, 3, 3), torch.ones(1, 16, 3, 3)):
        assert comfy_sample.fix_empty_latent_channels(model, latent) is latent

"""Controls that are not computed at each step, in minihost: what runs, and that runs never see each other."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cnet_core.control.reuse import Reuse
from minihost.shims import model_management

STEPS = 12
COND, UNCOND = 0, 1


@pytest.fixture
def runs(load):
    """The rows of each forward pass of the control called "first"."""
    control, rows = load("first"), []
    handle = control.network.net.middle_block_out[0].register_forward_hook(
        lambda _module, inputs, _out: rows.append(inputs[0].shape[0])
    )
    yield SimpleNamespace(control=control, rows=rows)
    handle.remove()


@pytest.fixture
def sample(call, base):
    """The latent [B,4,4,5] that STEPS steps with these conditionings give."""

    def sample(controlled: dict[str, list], batch: int = 1, seed: int = 7, **settings: Any) -> torch.Tensor:
        defaults = {
            "sampler_name": "euler",
            "scheduler": "normal",
            "denoise": 1.0,
            "cfg": 3.0,
            "steps": STEPS,
        }
        latent = {"samples": torch.zeros(batch, 4, 4, 5)}
        inputs = {
            "model": base[0],
            "seed": seed,
            "latent_image": latent,
            **controlled,
            **defaults,
            **settings,
        }
        return call("KSampler", **inputs)["samples"]

    return sample


def reuse_node(call, method="predicted", anchors="uniform", **numbers):
    return call("CNetResidualReuse", method=method, anchors={"anchors": anchors, **numbers})


# How often


@pytest.mark.parametrize(("economy", "passes"), [("exact", 12), ("light", 4), ("strong", 3)])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_an_economy_says_how_many_steps_are_computed(
    prompts, apply, hint, sample, runs, economy, passes, sampler
):
    sample(apply(prompts, runs.control, hint, economy=economy), sampler_name=sampler)
    assert runs.rows == [2] * passes


def test_exact_is_what_it_was_and_the_others_are_near_it(prompts, load, apply, hint, sample):
    without, exact = sample(prompts), sample(apply(prompts, load("first"), hint))
    assert torch.equal(exact, sample(apply(prompts, load("first"), hint, economy="exact")))
    errors = [
        (sample(apply(prompts, load("first"), hint, economy=economy)) - exact).norm()
        for economy in ("light", "strong")
    ]
    assert 0 < errors[0] < errors[1] < 0.2 * (without - exact).norm()


@pytest.mark.parametrize(
    ("start", "end", "steps", "computed"),
    [(0.0, 0.5, 6, 2), (0.5, 1.0, 6, 2), (0.1, 0.4, 3, 1), (0.4, 0.9, 5, 2)],
)
def test_the_steps_of_its_range_are_what_counts(
    prompts, apply, hint, sample, runs, start, end, steps, computed
):
    for economy, passes in (("exact", steps), ("light", computed)):
        runs.rows.clear()
        settings = {"economy": economy, "start_percent": start, "end_percent": end}
        sample(apply(prompts, runs.control, hint, **settings))
        assert runs.rows == [2] * passes


def test_at_less_denoise_the_steps_of_the_run_are_what_counts(prompts, apply, hint, sample, runs):
    sample(apply(prompts, runs.control, hint, economy="light"), denoise=0.5)
    assert runs.rows == [2] * 4


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_a_range_that_holds_no_step_of_the_run_costs_nothing(
    prompts, load, apply, unit, merge, hint, sample, runs, sampler
):
    """As in a second pass at less denoise: all noise levels lie below the range."""
    settings = {"economy": "light", "end_percent": 0.2}
    run = {"denoise": 0.5, "steps": 6, "sampler_name": sampler}
    without = sample(prompts, **run)
    assert torch.equal(sample(apply(prompts, runs.control, hint, **settings), **run), without)
    both = unit(runs.control, hint, **settings), unit(runs.control, hint)
    alone = sample(merge(prompts, both[1]), **run)
    assert torch.equal(sample(merge(prompts, *both), **run), alone)
    assert runs.rows == [2] * 12


def test_settings_of_ones_own_go_before_the_economy(call, prompts, apply, hint, sample, runs):
    half = reuse_node(call, "hold", share=0.5)
    sample(apply(prompts, runs.control, hint, economy="strong", reuse=half))
    assert runs.rows == [2] * 6


def test_adaptive_steps_follow_the_error_that_is_accepted(call, prompts, apply, hint, sample, runs):
    for error, least, most in ((1e-3, 12, 24), (1.0, 2, 6)):
        runs.rows.clear()
        sample(apply(prompts, runs.control, hint, reuse=reuse_node(call, anchors="adaptive", error=error)))
        assert least <= len(runs.rows) <= most


def test_a_merge_economises_the_units_that_do_not_say_otherwise(call, prompts, unit, hint, sample, runs):
    two = {"unit0": unit(runs.control, hint), "unit1": unit(runs.control, hint.flip(1), economy="strong")}
    for economy, rows in (("exact", [2] * 9 + [4] * 3), ("light", [2] * 5 + [4] * 1)):
        runs.rows.clear()
        merged = call("CNetMerge", **prompts, units=two, mode={"mode": "sum"}, economy=economy)
        sample(dict(zip(prompts, merged, strict=True)))
        # Steps that both compute are one batch: with light, steps 0, 3, 5, 8 and 0, 4, 8.
        assert sorted(runs.rows) == rows


def test_a_pose_and_a_depth_map_have_an_economy_too(call, prompts, unit, hint, sample, runs):
    pair = {"pose": unit(runs.control, hint), "depth": unit(runs.control, hint.flip(1))}
    out = call("CNetPoseDepth", **prompts, **pair, preset="pose leads", economy="light")
    sample(dict(zip(("positive", "negative"), out, strict=True)))
    assert runs.rows == [4] * 4


@pytest.mark.parametrize("wrong", [{"economy": "tiny"}, {"reuse": 3}])
def test_wrong_settings_are_told(prompts, load, apply, hint, wrong):
    with pytest.raises(ValueError, match=r"light, strong|Residual Reuse"):
        apply(prompts, load("first"), hint, **wrong)


# What is said


def test_strengths_that_change_between_computed_steps_weigh_the_prediction(
    call, prompts, load, apply, hint, sample, runs
):
    """A fade has the same predictions in it as the whole, weighed by each step's own strength."""
    fade = None
    for percent, strength in ((0.0, 1.0), (1.0, 0.0)):
        fade = call("CNetKeyframe", percent=percent, strength=strength, interpolation="linear", previous=fade)
    exact = sample(apply(prompts, load("first"), hint, schedule=fade))
    light = sample(apply(prompts, load("first"), hint, schedule=fade, economy="light"))
    whole = sample(apply(prompts, load("first"), hint))
    assert (light - exact).norm() < 0.1 * (whole - exact).norm()


class Asked:
    """A control in a conditioning, asked as a host would, along a run of noise levels."""

    def __init__(self, base: Any, prompts: dict[str, list], controlled: dict[str, list]):
        self.model = base[0].model
        self.control = controlled["positive"][0][1]["control"]
        self.sigmas = self.model.model_sampling.sigmas.flip(0)[::100]
        self.texts = {COND: prompts["positive"][0][0], UNCOND: prompts["negative"][0][0]}
        self.control.pre_run(self.model, self.model.model_sampling.percent_to_sigma)

    def __call__(
        self, step: float, sides: tuple[int, ...], frames: tuple[int, ...] = (0,), window: bool = False
    ) -> list[torch.Tensor]:
        """Residuals [sides*frames,...]; a side's and frame's latent is the same in whatever company."""
        noise = torch.randn(8, 4, 4, 5, generator=torch.Generator().manual_seed(3))[list(frames)]
        x = (noise * (1 + step / 10)).repeat(len(sides), 1, 1, 1)
        below = self.sigmas[min(int(step) + 1, len(self.sigmas) - 1)]
        sigma = self.sigmas[int(step)] ** (1 - step % 1) * below ** (step % 1)
        options = {"cond_or_uncond": list(sides), "uuids": list(sides)}
        options["sample_sigmas"] = torch.cat([self.sigmas, torch.zeros(1)])
        if window:
            options["context_window"] = SimpleNamespace(dim=0, index_list=list(frames), total_frames=8)
        context = torch.cat([self.texts[side].repeat(len(frames), 1, 1) for side in sides])
        answer = self.control.get_control(
            x, sigma.expand(len(x)), {"c_crossattn": context}, len(sides), options
        )
        return [*answer["output"], *answer["middle"]]


@pytest.fixture
def asked(base, prompts):
    return lambda controlled: Asked(base, prompts, controlled)


def assert_near(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("anchors", ["uniform", "adaptive"])
def test_sides_together_apart_and_in_another_order_say_the_same(
    call, prompts, apply, hint, asked, runs, anchors
):
    reuse = reuse_node(call, anchors=anchors, **({"error": 0.1} if anchors == "adaptive" else {}))
    controlled = apply(prompts, runs.control, hint, reuse=reuse)
    ask = asked(controlled)
    together = [ask(step, (UNCOND, COND)) for step in range(10)]
    passes = sum(runs.rows)
    for orders in ([(UNCOND,), (COND,)], [(COND,), (UNCOND,)], [(COND, UNCOND)]):
        runs.rows.clear()
        ask = asked(controlled)
        for step in range(10):
            said: dict[int, list[torch.Tensor]] = {}
            for sides in orders:
                for i, side in enumerate(sides):
                    said[side] = [block[i : i + 1] for block in ask(step, sides)]
            apart = [torch.cat(both) for both in zip(said[UNCOND], said[COND], strict=True)]
            assert_near(apart, together[step])
        assert sum(runs.rows) == passes


def test_half_steps_are_predicted_between_the_computed_ones(prompts, apply, hint, asked, runs):
    """Of twice as many calls the same share is computed, and never one at a half step."""
    ask = asked(apply(prompts, runs.control, hint, economy="light"))
    for step in range(10):
        ask(step, (UNCOND, COND))
        before = len(runs.rows)
        ask(step + 0.5, (UNCOND, COND))
        assert len(runs.rows) == before
    assert runs.rows == [2] * 6
    runs.rows.clear()
    # Samplers that ask twice at one noise level, the second time with a better latent.
    ask = asked(apply(prompts, runs.control, hint, economy="light"))
    for step in range(9):
        ask(step, (UNCOND, COND))
        ask(step + 1, (UNCOND, COND))
    assert runs.rows == [2] * 3


def test_rows_of_unlike_prompts_sides_and_sizes_have_names_of_their_own(host):
    def names(sides: list[int], width: int = 5) -> list:
        options = {"cond_or_uncond": sides, "uuids": ["one", "two"]}
        return host.calls.Call(torch.zeros(4, 4, 4, width), torch.ones(4), {}, 2, options).row_names

    found = [*names([COND, COND]), *names([UNCOND, UNCOND]), *names([COND, COND], width=6)]
    assert len(set(found)) == 12


def test_overlapping_and_wandering_windows_share_what_frames_have_in_common(prompts, apply, asked, runs):
    hints = torch.rand(8, 32, 40, 3, generator=torch.Generator().manual_seed(2))
    controlled = apply(prompts, runs.control, hints, economy="light")
    whole = asked(controlled)
    expected = [whole(step, (UNCOND, COND), tuple(range(8)), window=True) for step in range(10)]
    rows = sum(runs.rows)
    runs.rows.clear()
    ask = asked(controlled)
    for step in range(10):
        start = step % 3
        for frames in (
            tuple((start + i) % 8 for i in range(5)),
            tuple((start + 4 + i) % 8 for i in range(5)),
        ):
            found = ask(step, (UNCOND, COND), frames, window=True)
            places = [side * 8 + frame for side in range(2) for frame in frames]
            assert_near(found, [block[places] for block in expected[step]])
    assert sum(runs.rows) == rows


def test_frames_of_strengths_of_their_own(call, prompts, apply, hint, sample, runs):
    schedule = call("CNetFrameStrengths", strengths="1, 0\n0.5")
    controlled = apply(prompts, runs.control, hint, schedule=schedule, economy="light")
    batch = sample(controlled, batch=3)
    # Both sides of the two frames that speak, at four steps.
    assert runs.rows == [4] * 4
    assert torch.equal(batch[1:2], sample(prompts, batch=3)[1:2])


# Runs


@pytest.mark.parametrize("economy", ["light", "strong"])
def test_a_second_run_is_like_a_fresh_start(prompts, load, apply, hint, sample, economy):
    controlled = apply(prompts, load("first"), hint, economy=economy)
    first = sample(controlled)
    sample(controlled, seed=8, denoise=0.6)
    again, fresh = sample(controlled), sample(apply(prompts, load("first"), hint, economy=economy))
    assert torch.equal(first, again) and torch.equal(first, fresh)


def kept(controlled: dict[str, list]) -> list[Any]:
    """What a control still holds of its last run."""
    run = controlled["positive"][0][1]["control"].run
    return [] if run is None else [held for held in (run.past, run.features, run.masks, run.texts) if held]


@pytest.mark.parametrize("how", ["cancelled", "failed"])
def test_a_run_that_breaks_off_leaves_nothing_and_the_next_is_like_a_fresh_start(
    prompts, load, apply, hint, sample, base, how
):
    controlled = apply(prompts, load("first"), hint, economy="light")
    fresh = sample(controlled)
    calls = []

    def break_off(_module, _inputs):
        calls.append(1)
        if len(calls) == 6:
            assert kept(controlled)
            if how == "failed":
                raise RuntimeError("broken by the test")
            model_management.interrupt_current_processing()
            model_management.throw_exception_if_processing_interrupted()

    handle = base[0].model.diffusion_model.register_forward_pre_hook(break_off)
    try:
        with pytest.raises(BaseException, match=r"broken by the test|") as stopped:
            sample(controlled, seed=9)
    finally:
        handle.remove()
    assert len(calls) == 6
    del stopped
    assert not kept(controlled)
    assert not base[0].callbacks.get("on_cleanup")
    assert torch.equal(sample(controlled), fresh)
    assert not kept(controlled)


def test_what_is_kept_is_in_the_memory_estimate(prompts, load, apply, hint):
    exact, light = (
        apply(prompts, load("first"), hint, economy=economy)["positive"][0][1]["control"]
        for economy in ("exact", "light")
    )
    estimates = [control.inference_memory_requirements(torch.float32) for control in (exact, light)]
    config = light.network.net.config
    residuals = sum(
        c / s**2 for c, s in zip(config.residual_channels, config.residual_scales, strict=True)
    ) * 4 * 5  # fmt: skip
    assert estimates[1] - estimates[0] == pytest.approx(Reuse("predicted").kept * 2 * residuals * 4, rel=0.01)


# The preview


def test_the_preview_tells_the_computed_steps(call, prompts, apply, hint, sample, base, runs):
    def chart(**settings):
        controlled = apply(prompts, runs.control, hint, **settings)
        return controlled, call(
            "CNetPreviewStrength", positive=controlled["positive"], model=base[0], scheduler="normal",
            steps=STEPS, denoise=1.0,
        )  # fmt: skip

    _, exact = chart()
    controlled, light = chart(economy="light")
    sample(controlled)
    # Bars in full colour where the network runs, pale ones elsewhere.
    full = (light == torch.tensor([0, 114, 178]) / 255).all(-1)[0].any(0)
    every = (exact == torch.tensor([0, 114, 178]) / 255).all(-1)[0].any(0)
    assert full.sum() / every.sum() == pytest.approx(len(runs.rows) / STEPS, abs=0.02)
    _, adaptive = chart(reuse=reuse_node(call, anchors="adaptive", error=0.1))
    assert not torch.equal(adaptive, exact)

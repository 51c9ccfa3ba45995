"""Economised controls in the real host: near the exact picture, fewer passes, and nothing left of any run."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from .hosting import Host, Run, api_prompt, nodes_of
from .test_workflows import broken, changed_seed, interrupt_at, pixels, psnr, saved

STEPS = 12
Link = list[Any]


@dataclass
class Build:
    """A graph being built: what samplers start from, and the seed of the first."""

    seed: int
    nodes: dict[str, Any] = field(default_factory=dict)
    model: Link = field(default_factory=list)
    vae: Link = field(default_factory=list)
    positive: Link = field(default_factory=list)
    negative: Link = field(default_factory=list)
    latent: Link = field(default_factory=list)

    def add(self, name: str, class_type: str, /, **inputs: Any) -> Link:
        """Put a node into the graph, and return the link to its first output."""
        self.nodes[name] = {"class_type": class_type, "inputs": inputs}
        return [name, 0]

    def common(self) -> dict[str, Any]:
        return {
            "model": self.model, "positive": self.positive, "negative": self.negative,
            "latent_image": self.latent, "steps": STEPS, "cfg": 2.5, "sampler_name": "euler",
            "scheduler": "normal",
        }  # fmt: skip

    def ksampler(self, name: str = "sampler", **settings: Any) -> Link:
        return self.add(name, "KSampler", **{**self.common(), "seed": self.seed, "denoise": 1.0, **settings})


Sampling = Callable[[Build], Link]


def by_sampler(name: str, scheduler: str = "normal") -> Sampling:
    return lambda build: build.ksampler(sampler_name=name, scheduler=scheduler)


def custom(guider: str, sampler: str) -> Sampling:
    """SamplerCustomAdvanced with a guider."""

    def sampling(build: Build) -> Link:
        sides = {"positive": build.positive, "negative": build.negative}
        schedule = {"scheduler": "normal", "steps": STEPS, "denoise": 1.0}
        return build.add(
            "sampler",
            "SamplerCustomAdvanced",
            noise=build.add("noise", "RandomNoise", noise_seed=build.seed),
            guider=build.add("guider", guider, model=build.model, cfg=2.5, **sides),
            sampler=build.add("select", "KSamplerSelect", sampler_name=sampler),
            sigmas=build.add("sigmas", "BasicScheduler", model=build.model, **schedule),
            latent_image=build.latent,
        )

    return sampling


def img2img(build: Build) -> Link:
    image = build.add("scene", "CNetExampleImage", name="scene.png")
    build.latent = build.add("encode", "VAEEncode", pixels=image, vae=build.vae)
    return build.ksampler(denoise=0.6)


def two_in_a_row(build: Build) -> Link:
    build.latent = build.ksampler("before")
    return build.ksampler(seed=build.seed + 1, denoise=0.7)


def in_two_parts(build: Build) -> Link:
    """One run that two samplers share."""
    for name, noise, start, end in (("before", "enable", 0, 6), ("sampler", "disable", 6, STEPS)):
        leftover = "enable" if end < STEPS else "disable"
        build.latent = build.add(
            name, "KSamplerAdvanced", **build.common(), noise_seed=build.seed, add_noise=noise,
            start_at_step=start, end_at_step=end, return_with_leftover_noise=leftover,
        )  # fmt: skip
    return build.latent


def hires(build: Build) -> Link:
    larger = {"width": 192, "height": 160, "upscale_method": "bilinear", "crop": "disabled"}
    build.latent = build.add("larger", "LatentUpscale", samples=build.ksampler("before"), **larger)
    return build.ksampler(denoise=0.6)


def frames(build: Build) -> Link:
    """Six pictures, with two hints that take turns and a strength for each."""
    hints = [build.add(name, "CNetExampleImage", name=f"{name}.png") for name in ("pose_left", "pose_right")]
    pose = build.nodes["pose"]["inputs"]
    pose["image"] = build.add("hints", "ImageBatch", image1=hints[0], image2=hints[1])
    pose["schedule"] = build.add("strengths", "CNetFrameStrengths", strengths="1\n0.8\n0.6\n1\n0\n0.4")
    build.nodes["empty"]["inputs"]["batch_size"] = 6
    return build.ksampler()


def windows(schedule: str) -> Sampling:
    """The same in context windows of four."""

    def sampling(build: Build) -> Link:
        build.model = build.add(
            "windows", "ContextWindowsManual", model=build.model, context_length=4, context_overlap=2,
            context_schedule=schedule, context_stride=1, closed_loop=False, fuse_method="pyramid", dim=0,
            freenoise=False, cond_retain_index_list="", split_conds_to_windows=False,
            latent_retain_index_list="", causal_window_fix=True,
        )  # fmt: skip
        return frames(build)

    return sampling


SAMPLINGS: dict[str, Sampling] = {
    **{
        name: by_sampler(name)
        for name in (
            "euler", "euler_ancestral", "heun", "dpm_2", "dpm_adaptive", "dpmpp_2m", "dpmpp_2s_ancestral",
            "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde", "uni_pc", "ddim", "lcm", "res_multistep",
            "euler_cfg_pp", "euler_ancestral_cfg_pp", "dpmpp_2m_cfg_pp",
        )
    },
    "dpmpp_2m, karras": by_sampler("dpmpp_2m", "karras"),
    "CFG guider": custom("CFGGuider", "euler"),
    "sides apart": custom("HostProbeApartGuider", "euler"),
    "sides apart, heun": custom("HostProbeApartGuider", "heun"),
    "img2img": img2img,
    "two in a row": two_in_a_row,
    "in two parts": in_two_parts,
    "hires": hires,
    "frames": frames,
    "windows": windows("standard_static"),
    "wandering windows": windows("standard_uniform"),
}  # fmt: skip


def merged(build: Build, economy: str) -> Link:
    """Pose and depth, summed, both with this economy."""
    units = {
        f"units.unit{i}": build.add(
            kind, "CNetUnit", control_net=[f"watch_{kind}", 0], image=[f"hint_{kind}", 0], strength=1.0,
            start_percent=0.0, end_percent=1.0, economy="exact",
        )
        for i, kind in enumerate(("pose", "depth"))
    }  # fmt: skip
    sides = {"positive": build.positive, "negative": build.negative}
    return build.add("merge", "CNetMerge", **sides, mode="sum", economy=economy, **units)


def alone(build: Build, economy: str) -> Link:
    """The pose, its strength falling from step to step."""
    key = {"strength": 1.0, "interpolation": "linear"}
    first = build.add("first", "CNetKeyframe", percent=0.0, **key)
    last = build.add("last", "CNetKeyframe", **{**key, "percent": 0.8, "strength": 0.3}, previous=first)
    return applied(build, "pose", "CNetApply", "watch_pose", economy=economy, schedule=last)


def chained(build: Build, economy: str) -> Link:
    """The pose by our apply node after the depth by the host's own, which knows of no economy."""
    # By a precision of its own it is another network than that which merges watch.
    file = {"control_net_name": "cnet_mini_depth.safetensors", "precision": "fp32"}
    build.add("net_unwatched", "CNetLoadControlNet", **file, global_average_pooling="auto")
    both = applied(build, "depth", "ControlNetApplyAdvanced", "net_unwatched", strength=0.8)
    build.positive, build.negative = both, [both[0], 1]
    return applied(build, "pose", "CNetApply", "watch_pose", strength=0.7, end_percent=0.9, economy=economy)


def applied(build: Build, kind: str, node: str, net: str, **settings: Any) -> Link:
    inputs = {
        "positive": build.positive, "negative": build.negative, "control_net": [net, 0],
        "image": [f"hint_{kind}", 0], "strength": 1.0, "start_percent": 0.0, "end_percent": 1.0,
    }  # fmt: skip
    return build.add(kind, node, **{**inputs, **settings})


CONTROLS = {"alone": alone, "merged": merged, "chained": chained}


def prompt(sampling: Sampling, controls: str, economy: str | None, seed: int) -> dict[str, Any]:
    """The mini model under controls with an economy (None: no control), to a saved latent and a report."""
    build = Build(seed)
    build.model = build.add("mini", "CNetLoadMiniSD")
    clip, build.vae = ["mini", 1], ["mini", 2]
    text = "a purple dancer, orange and yellow and teal things, red ground, mist"
    build.positive = build.add("yes", "CLIPTextEncode", clip=clip, text=text)
    build.negative = build.add("no", "CLIPTextEncode", clip=clip, text="")
    build.latent = build.add("empty", "EmptyLatentImage", width=128, height=128, batch_size=1)
    for kind in ("pose", "depth"):
        build.add(f"hint_{kind}", "CNetExampleImage", name=f"{kind}.png")
        file = {"control_net_name": f"cnet_mini_{kind}.safetensors", "precision": "auto"}
        net = build.add(f"net_{kind}", "CNetLoadControlNet", **file, global_average_pooling="auto")
        build.add(f"watch_{kind}", "HostProbeWatchControl", control_net=net)
    both = CONTROLS[controls](build, economy or "exact")
    build.positive, build.negative = both, [both[0], 1]
    if economy is None:
        build.positive, build.negative = ["yes", 0], ["no", 0]
    result = sampling(build)
    build.add("save", "SaveLatent", samples=result, filename_prefix="reuse")
    build.add("report", "HostProbeReport", after=result)
    return build.nodes


def drawn(run: Run) -> tuple[torch.Tensor, int]:
    """The latent of a run that went to its end, and how many rows its controls' networks were given."""
    assert "save" not in run.checked().messages["execution_cached"]["nodes"]
    assert run.ui("report")["held"][0]["anchors"] == 0, "a run that is over is still remembered"
    return run.latent("save"), sum(run.ui("report").get("passes", []))


def held(host: Host) -> dict[str, int]:
    """What is alive while nothing runs."""
    report = {"report": {"class_type": "HostProbeReport", "inputs": {}}}
    (found,) = host.queue(report).checked().ui("report")["held"]
    return found


# Samplers of each kind: of one call a step and two, with noise and without, with uncond apart.
VARIED = ("euler_ancestral", "heun", "dpmpp_sde", "uni_pc", "euler_cfg_pp")


@pytest.mark.parametrize(
    ("name", "controls"),
    [
        *((name, "merged") for name in SAMPLINGS),
        *((name, controls) for controls in ("alone", "chained") for name in VARIED),
    ],
)
def test_every_sampler_draws_nearly_the_same_with_fewer_passes(host: Host, name: str, controls: str) -> None:
    def draw(economy: str | None, seed: int = 1) -> tuple[torch.Tensor, int]:
        return drawn(host.queue(prompt(SAMPLINGS[name], controls, economy, seed)))

    bare, _ = draw(None)
    exact, passes = draw("exact")
    light, few = draw("light")
    strong, fewer = draw("strong")
    effect = (exact - bare).norm()
    errors = [float((latent - exact).norm() / effect) for latent in (light, strong)]
    print(f"{name}: {passes} rows; light {few / passes:.2f} of them, error {errors[0]:.3f}", end="; ")
    print(f"strong {fewer / passes:.2f}, error {errors[1]:.3f}")
    # Three tenths of eleven steps are four of them.
    assert fewer <= few <= 0.37 * passes or name == "dpm_adaptive"
    assert max(errors) < 1
    draw("light", seed=2)
    assert torch.equal(draw("strong")[0], strong)
    assert torch.equal(draw("light")[0], light)


@pytest.mark.parametrize("economy", ["light", "strong"])
@pytest.mark.parametrize("controls", CONTROLS)
@pytest.mark.parametrize("how", ["raise", "wait"])
def test_a_run_that_breaks_off_leaves_nothing_and_the_next_is_a_fresh_start(
    host: Host, controls: str, economy: str, how: str, tmp_path: Path
) -> None:
    """In minihost too; here the host's own way with errors and cancels is what counts."""

    def graph(seed: int) -> dict[str, Any]:
        return prompt(by_sampler("dpmpp_2m"), controls, economy, seed)

    host.free()
    fresh, _ = drawn(host.queue(graph(1)))
    before = held(host)
    marker = tmp_path / "marker"
    breaking = broken(graph(2), how, marker, step=6)
    stopped = host.queue(breaking) if how == "raise" else interrupt_at(host, breaking, marker)
    assert stopped.error if how == "raise" else stopped.interrupted
    assert json.loads(marker.read_text())["anchors"] > 0
    after = held(host)
    assert after["anchors"] == 0
    # What a run remembers is some megabytes. Outputs that the host keeps, and drops when memory is short, are
    # half a megabyte.
    assert after["bytes"] < before["bytes"] + 1_000_000
    assert torch.equal(drawn(host.queue(graph(1)))[0], fresh)


@pytest.mark.parametrize("name", ["canny", "pose", "pose_depth"])
def test_shipped_workflows_draw_nearly_the_same(host: Host, name: str, tmp_path: Path) -> None:
    def graph(economy: str, seed: int) -> dict[str, Any]:
        made = changed_seed(api_prompt(name), seed)
        for kind in ("CNetApply", "CNetUnit", "CNetMerge"):
            for node in nodes_of(made, kind):
                made[node]["inputs"]["economy"] = economy
        return made

    def draw(economy: str, seed: int = 301) -> np.ndarray:
        (picture,) = saved(host.queue(graph(economy, seed)).checked())
        return pixels(picture)

    exact = draw("exact")
    for economy, least in (("light", 35.0), ("strong", 28.0)):
        host.free()
        fresh = draw(economy)
        print(f"{name}, {economy}: PSNR {psnr(fresh, exact):.1f} dB")
        assert psnr(fresh, exact) >= least
        marker = tmp_path / economy
        assert interrupt_at(host, broken(graph(economy, 302), "wait", marker, step=6), marker).interrupted
        assert np.array_equal(draw(economy), fresh)

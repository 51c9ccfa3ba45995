"""Preview Strength and Compare Controls on the pose and depth workflow, with the host's own schedules."""

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from .hosting import Host, Run, api_prompt, nodes_of


@pytest.fixture(scope="module")
def shown(host: Host) -> Run:
    """Both nodes in the place of the workflow's sampler."""
    prompt: dict[str, Any] = api_prompt("pose_depth")
    (sampler,), (merge,) = nodes_of(prompt, "KSampler"), nodes_of(prompt, "CNetMerge")
    settings = prompt[sampler]["inputs"]
    units = {name: link for name, link in prompt[merge]["inputs"].items() if name.startswith("units.")}
    kept = ("model", "latent_image", "seed", "steps", "cfg", "sampler_name", "scheduler")
    compare = {
        **{name: settings[name] for name in kept},
        "positive": prompt[merge]["inputs"]["positive"],
        "negative": prompt[merge]["inputs"]["negative"],
        **units,
        "percent": 0.3,
    }
    strength = {
        "positive": settings["positive"], "model": settings["model"], "scheduler": "beta", "steps": 12,
        "denoise": 0.8,
    }  # fmt: skip
    for node in (*nodes_of(prompt, "SaveImage"), *nodes_of(prompt, "PreviewImage")):
        del prompt[node]
    levels = {"model": settings["model"], "denoise": 1.0, **{k: settings[k] for k in ("scheduler", "steps")}}
    prompt["levels"] = {"class_type": "BasicScheduler", "inputs": levels}
    given = {"sigmas": ["levels", 0], "steps": 1}
    area = {
        "conditioning": compare["positive"],
        "width": 0.5,
        "height": 0.5,
        "x": 0.5,
        "y": 0.0,
        "strength": 1.0,
    }
    prompt["area"] = {"class_type": "ConditioningSetAreaPercentage", "inputs": area}
    both = {"conditioning_1": compare["positive"], "conditioning_2": ["area", 0]}
    prompt["both"] = {"class_type": "ConditioningCombine", "inputs": both}
    for name, class_type, inputs in (
        ("compare", "CNetCompareControls", compare),
        ("strength", "CNetPreviewStrength", strength),
        ("compare by sigmas", "CNetCompareControls", compare | given),
        ("strength by sigmas", "CNetPreviewStrength", strength | given),
        ("compare by heun", "CNetCompareControls", compare | {"sampler_name": "heun"}),
        ("compare by uni_pc", "CNetCompareControls", compare | {"sampler_name": "uni_pc", "percent": 1.0}),
        ("compare at once", "CNetCompareControls", compare | {"percent": 0.0}),
        ("compare with an area", "CNetCompareControls", compare | {"percent": 0.0, "positive": ["both", 0]}),
        ("compare in an area", "CNetCompareControls", compare | {"percent": 0.0, "positive": ["area", 0]}),
    ):
        prompt[name] = {"class_type": class_type, "inputs": inputs}
        prompt[f"see {name}"] = {"class_type": "PreviewImage", "inputs": {"images": [name, 0]}}
    return host.queue(prompt).checked()


def pictures(run: Run, node: str) -> list[np.ndarray]:
    return [np.asarray(Image.open(BytesIO(run.host.file(item)))) for item in run.ui(node)["images"]]


def test_the_strength_is_drawn_on_the_node(shown: Run) -> None:
    (chart,) = pictures(shown, "strength")
    assert chart.shape[1] == 560
    assert (chart == (0, 114, 178)).all(-1).sum() > 5000


def test_the_sigmas_of_a_scheduler_s_node_are_those_of_the_scheduler(shown: Run) -> None:
    for ours, theirs in zip(pictures(shown, "compare by sigmas"), pictures(shown, "compare"), strict=True):
        assert (ours == theirs).all()
    (chart,) = pictures(shown, "strength by sigmas")
    assert (chart == (0, 114, 178)).all(-1).sum() > 5000


def test_a_prompt_for_an_area_does_not_hide_the_whole_picture(shown: Run) -> None:
    """At the first step, where both begin from the same noise, what is said of the whole is the same."""
    for ours, plain in zip(
        pictures(shown, "compare with an area"), pictures(shown, "compare at once"), strict=True
    ):
        assert np.abs(ours.astype(int) - plain).max() <= 1


def test_maps_of_an_area_are_said_to_be(shown: Run) -> None:
    (whole,), (area,) = shown.ui("compare at once")["text"], shown.ui("compare in an area")["text"]
    assert "of a prompt for an area, 64x64" in area and "area" not in whole


def test_what_is_compared_was_said_at_the_step_itself(shown: Run) -> None:
    """Heun's method asks at the next step's noise level as well, and uni_pc leaves out the last but one."""
    where = {
        name: shown.ui(f"compare{name}")["text"][0].splitlines()[0] for name in ("", " by heun", " by uni_pc")
    }
    assert where[""] == where[" by heun"]
    prompt = api_prompt("pose_depth")
    steps = prompt[nodes_of(prompt, "KSampler")[0]]["inputs"]["steps"]
    assert f"step {steps} of {steps}" in where[" by uni_pc"]


def test_conflicts_and_sizes_are_shown_on_the_node(shown: Run) -> None:
    conflicts, sizes = pictures(shown, "compare")
    assert conflicts.shape == (512 + 64, 512, 3) and conflicts[:512].std() > 5
    assert sizes.shape[1] == 560
    (table,) = shown.ui("compare")["text"]
    assert "cnet_mini_pose" in table and len(table.splitlines()) == 2 + 13

"""The shipped workflows in the real host: minihost's pictures, and nothing left behind in the base model."""

import json
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from .hosting import WORKFLOWS, Host, Run, api_prompt, nodes_of, workflow_file

Pictures = Callable[[str], list[Path]]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal to noise ratio in dB of two uint8 pictures; infinite where they are equal."""
    assert a.shape == b.shape
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def saved(run: Run) -> list[Image.Image]:
    """The pictures that a run saved to the output folder, in the order of their names."""
    items = [item for out in run.entry["outputs"].values() for item in out.get("images", [])]
    kept = sorted((item for item in items if item["type"] == "output"), key=lambda item: item["filename"])
    return [Image.open(BytesIO(run.host.file(item))) for item in kept]


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflow_gives_minihosts_picture(host: Host, minihost_pictures: Pictures, name: str) -> None:
    ours = minihost_pictures(name)
    theirs = saved(host.queue(api_prompt(name)).checked())
    assert len(ours) == len(theirs) > 0
    for path, picture in zip(ours, theirs, strict=True):
        assert pixels(picture).std() > 5, "the picture is blank"
        value = psnr(pixels(Image.open(path)), pixels(picture))
        print(f"{name}: PSNR {value:.1f} dB")
        assert value >= 40


def test_both_hosts_embed_prompt_and_workflow_alike(host: Host, minihost_pictures: Pictures) -> None:
    workflow = json.loads(workflow_file("pose").read_text())
    run = host.wait(host.submit(api_prompt("pose"), workflow)).checked()
    (theirs,) = (picture.info for picture in saved(run))
    (ours,) = (Image.open(path).info for path in minihost_pictures("pose"))
    assert json.loads(theirs["workflow"]) == json.loads(ours["workflow"]) == workflow
    prompt = json.loads(theirs["prompt"])
    for node in prompt.values():
        # ComfyUI notes the fingerprints of inputs in the prompt that it runs, and so in the picture.
        node.pop("is_changed", None)
    assert prompt == json.loads(ours["prompt"])


def with_hash(prompt: dict[str, Any]) -> dict[str, Any]:
    """The prompt with a probe on its model loader."""
    (loader,) = nodes_of(prompt, "CNetLoadMiniSD")
    return {**prompt, "hash": {"class_type": "HostProbeHashModel", "inputs": {"model": [loader, 0]}}}


def broken(prompt: dict[str, Any], how: str, marker: Path, step: int = 1) -> dict[str, Any]:
    """The prompt with a sampler that raises, or waits to be interrupted, in a step (counted from 0)."""
    prompt = json.loads(json.dumps(prompt))
    (sampler,) = nodes_of(prompt, "KSampler")
    inputs = {"model": prompt[sampler]["inputs"]["model"], "how": how, "step": step, "marker": str(marker)}
    prompt[sampler]["inputs"]["model"] = ["broken", 0]
    return {**prompt, "broken": {"class_type": "HostProbeBreakModel", "inputs": inputs}}


def interrupt_at(host: Host, prompt: dict[str, Any], marker: Path) -> Run:
    """Queue a prompt that waits in mid sampling, interrupt it there, and return its end."""
    running = host.submit(prompt)
    deadline = time.monotonic() + 120
    while not marker.exists():
        assert time.monotonic() < deadline, host.log[-3000:]
        time.sleep(0.02)
    host.interrupt()
    return host.wait(running)


def test_the_base_is_untouched_by_success_error_and_interrupt(host: Host, tmp_path: Path) -> None:
    prompt = api_prompt("pose_depth")
    (loader,) = nodes_of(prompt, "CNetLoadMiniSD")
    alone = with_hash({loader: prompt[loader]})

    def base() -> dict[str, Any]:
        return host.queue(alone).checked().ui("hash")

    before = base()
    success = host.queue(with_hash(prompt)).checked()
    assert success.ui("hash") == before
    assert base() == before

    failed = host.queue(broken(prompt, "raise", tmp_path / "raised"))
    assert failed.error is not None and "broken by the test" in failed.error["exception_message"]
    assert base() == before

    stopped = interrupt_at(host, broken(prompt, "wait", tmp_path / "waiting"), tmp_path / "waiting")
    assert stopped.interrupted
    assert base() == before


def test_after_an_interrupt_the_same_workflow_gives_the_same_picture(host: Host, tmp_path: Path) -> None:
    prompt = api_prompt("pose_depth")
    first = saved(host.queue(changed_seed(prompt, 101)).checked())
    stopped = interrupt_at(host, broken(changed_seed(prompt, 102), "wait", tmp_path / "m"), tmp_path / "m")
    assert stopped.interrupted
    # Another seed in between, so that the host cannot answer from its cache.
    host.queue(changed_seed(prompt, 103)).checked()
    again = saved(host.queue(changed_seed(prompt, 101)).checked())
    assert len(first) == len(again) > 0
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(pixels(one), pixels(other))


def changed_seed(prompt: dict[str, Any], seed: int) -> dict[str, Any]:
    prompt = json.loads(json.dumps(prompt))
    (sampler,) = nodes_of(prompt, "KSampler")
    prompt[sampler]["inputs"]["seed"] = seed
    return prompt

"""An interrupt in mid sampling leaves nothing behind: queued again, a graph draws the same to the bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cnet_core.checkpoints import load_controlnet

from .hosting import REPO, Host, Run, api_prompt, nodes_of
from .test_workflows import broken, changed_seed, interrupt_at

POSE = REPO / "demo" / "weights" / "controlnet" / "cnet_mini_pose.safetensors"


def random_adapter(path: Path, width: int) -> None:
    """A T2I-Adapter for a UNet of this width, in the layout that the host's loader knows."""
    generator = torch.Generator().manual_seed(4)
    state: dict[str, torch.Tensor] = {}

    def convolution(name: str, fan_in: int, fan_out: int, size: int) -> None:
        weight = torch.randn(fan_out, fan_in, size, size, generator=generator)
        state[f"{name}.weight"] = weight * (fan_in * size * size) ** -0.5
        state[f"{name}.bias"] = torch.zeros(fan_out)

    convolution("conv_in", 192, width, 3)
    widths = [width, width, 2 * width, 2 * width] + [4 * width] * 4
    for i, own in enumerate(widths):
        before = widths[max(0, i - 1)]
        if before != own:
            convolution(f"body.{i}.in_conv", before, own, 1)
        convolution(f"body.{i}.block1", own, own, 3)
        convolution(f"body.{i}.block2", own, own, 1)
    save_file(state, path)


@pytest.fixture
def graph(host: Host) -> dict[str, Any]:
    """Pose and depth merged, then the host's own adapter under keyframes; the latent is saved."""
    width = load_controlnet(POSE).config.model_channels
    random_adapter(host.base / "models" / "controlnet" / "interrupt_adapter.safetensors", width)
    prompt: dict[str, Any] = json.loads(json.dumps(api_prompt("pose_depth")))
    (sampler,) = nodes_of(prompt, "KSampler")
    unit = nodes_of(prompt, "CNetUnit")[0]
    inputs = prompt[sampler]["inputs"]
    prompt["start"] = {
        "class_type": "CNetKeyframe",
        "inputs": {"percent": 0.0, "strength": 1.0, "interpolation": "smooth"},
    }
    prompt["end"] = {
        "class_type": "CNetKeyframe",
        "inputs": {"percent": 0.9, "strength": 0.2, "interpolation": "linear", "previous": ["start", 0]},
    }
    prompt[unit]["inputs"]["schedule"] = ["end", 0]
    prompt["adapter"] = {
        "class_type": "ControlNetLoader",
        "inputs": {"control_net_name": "interrupt_adapter.safetensors"},
    }
    prompt["apply"] = {
        "class_type": "CNetApply",
        "inputs": {
            "positive": inputs["positive"], "negative": inputs["negative"], "control_net": ["adapter", 0],
            "image": prompt[unit]["inputs"]["image"], "strength": 0.5, "start_percent": 0.0,
            "end_percent": 1.0, "schedule": ["end", 0],
        },
    }  # fmt: skip
    inputs.update(positive=["apply", 0], negative=["apply", 1])
    prompt["latent"] = {
        "class_type": "SaveLatent",
        "inputs": {"samples": [sampler, 0], "filename_prefix": "interrupt"},
    }
    return prompt


def drawn(run: Run) -> torch.Tensor:
    """The latent of a run that went to its end, and that the host did not take from its cache."""
    assert "latent" not in run.checked().messages["execution_cached"]["nodes"]
    return run.latent("latent")


def test_queued_again_after_an_interrupt_it_draws_the_same_to_the_last_bit(
    host: Host, graph: dict[str, Any], tmp_path: Path
) -> None:
    host.free()
    fresh = drawn(host.queue(changed_seed(graph, 201)))
    without = json.loads(json.dumps(graph))
    without["apply"]["inputs"]["strength"] = 0.0
    assert not torch.equal(drawn(host.queue(changed_seed(without, 201))), fresh), "the adapter does nothing"
    stop = broken(changed_seed(graph, 202), "wait", tmp_path / "m")
    assert interrupt_at(host, stop, tmp_path / "m").interrupted
    assert torch.equal(drawn(host.queue(changed_seed(graph, 201))), fresh)

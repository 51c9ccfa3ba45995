"""At SD1.5's full width with random weights: our nodes equal the host's own, and the two mix freely."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from .hosting import Host
from .random_weights import give_weights

pytestmark = pytest.mark.slow

Link = list[Any]


@pytest.fixture(scope="session")
def wide(host: Host, weights: Path) -> Host:
    give_weights(host, weights)
    return host


LOADERS = {
    "host": ("ControlNetLoader", "control_net_name"),
    "cnet": ("CNetLoadControlNet", "control_net_name"),
}
APPLIES = {"host": "ControlNetApplyAdvanced", "cnet": "CNetApply"}


def prompt(
    *controls: tuple[str, str, float, float, float], file: str = "sd15_control.safetensors"
) -> dict[str, Any]:
    """Two steps at 64x64 under a chain of controls: (loader, apply node, strength, start, end) each."""
    nodes: dict[str, Any] = {
        "model": {
            "class_type": "UNETLoader",
            "inputs": {"unet_name": "sd15.safetensors", "weight_dtype": "default"},
        },
        "hint": {"class_type": "LoadImage", "inputs": {"image": "hint.png"}},
        "yes": {"class_type": "HostProbeRandomConditioning", "inputs": {"seed": 1, "width": 768}},
        "no": {"class_type": "HostProbeRandomConditioning", "inputs": {"seed": 2, "width": 768}},
        "empty": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
    }
    positive, negative = ["yes", 0], ["no", 0]
    for i, (loader, apply, strength, start, end) in enumerate(controls):
        class_type, file_input = LOADERS[loader]
        nodes[f"net_{loader}"] = {
            "class_type": class_type,
            "inputs": {file_input: file},
        }
        nodes[f"apply{i}"] = {
            "class_type": APPLIES[apply],
            "inputs": {
                "positive": positive, "negative": negative, "control_net": [f"net_{loader}", 0],
                "image": ["hint", 0], "strength": strength, "start_percent": start, "end_percent": end,
            },
        }  # fmt: skip
        positive, negative = [f"apply{i}", 0], [f"apply{i}", 1]
    # A low starting noise keeps the latent near one in size, where 1e-5 means something in fp32.
    nodes["sampler"] = {
        "class_type": "KSampler",
        "inputs": {
            "model": ["model", 0], "positive": positive, "negative": negative, "latent_image": ["empty", 0],
            "seed": 11, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal",
            "denoise": 0.2,
        },
    }  # fmt: skip
    nodes["save"] = {
        "class_type": "SaveLatent",
        "inputs": {"samples": ["sampler", 0], "filename_prefix": "latent"},
    }
    return nodes


@pytest.fixture(scope="session")
def latent(wide: Host) -> Callable[..., torch.Tensor]:
    """Runs a chain of controls once and remembers its latent."""
    known: dict[Any, torch.Tensor] = {}

    def run(*controls: tuple[str, str, float, float, float]) -> torch.Tensor:
        if controls not in known:
            known[controls] = wide.queue(prompt(*controls)).checked().latent("save")
        return known[controls]

    return run


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape and a.isfinite().all() and b.isfinite().all()
    return (a - b).abs().max().item()


@pytest.mark.parametrize(
    ("loader", "apply"), [("cnet", "cnet"), ("cnet", "host"), ("host", "cnet")], ids=lambda room: room
)
def test_plain_apply_equals_the_hosts(latent: Callable[..., torch.Tensor], loader: str, apply: str) -> None:
    reference = latent(("host", "host", 1.0, 0.0, 1.0))
    assert difference(reference, latent()) > 1e-2, "the control does nothing, so the comparison says nothing"
    found = difference(reference, latent((loader, apply, 1.0, 0.0, 1.0)))
    print(f"{loader} loader, {apply} apply: max abs difference {found:.2e} of {reference.abs().max():.2f}")
    assert found <= 1e-5


def test_strength_and_range_equal_the_hosts(latent: Callable[..., torch.Tensor]) -> None:
    reference = latent(("host", "host", 0.6, 0.0, 0.9))
    assert difference(reference, latent(("host", "host", 1.0, 0.0, 1.0))) > 1e-3
    assert difference(reference, latent(("cnet", "cnet", 0.6, 0.0, 0.9))) <= 1e-5


def test_chains_with_the_hosts_controls_in_either_order(latent: Callable[..., torch.Tensor]) -> None:
    one, two = (1.0, 0.0, 1.0), (0.5, 0.0, 1.0)
    reference = latent(("host", "host", *one), ("host", "host", *two))
    assert difference(reference, latent(("host", "host", *one))) > 1e-3
    assert difference(reference, latent(("cnet", "cnet", *one), ("host", "host", *two))) <= 1e-5
    assert difference(reference, latent(("host", "host", *one), ("cnet", "cnet", *two))) <= 1e-5

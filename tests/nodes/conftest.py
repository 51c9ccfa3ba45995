"""The pack's nodes in minihost, with the tiny random model of minihost's tests and ControlNets for it."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

from cnet_core.checkpoints.load import save_controlnet, save_network
from cnet_core.checkpoints.shapes import config_metadata
from cnet_core.networks.config import UNetConfig
from cnet_core.networks.controlnet import ControlNet
from cnet_core.networks.union import UnionControlNet
from minihost import loader, shims

Net = TypeVar("Net", bound=torch.nn.Module)

TINY_PACK = Path(__file__).parents[1] / "minihost" / "tinypack"
# Made for the tiny model's UNet.
BASE = UNetConfig(32, (1, 2), (1, 1), (1, 0), context_dim=8, num_heads=2)
OTHERS = {
    "wide_text": UNetConfig(32, (1, 2), (1, 1), (1, 0), context_dim=16, num_heads=2),
    "wide": UNetConfig(64, (1, 2), (1, 1), (1, 0), context_dim=8, num_heads=2),
}
WIDTHS = (4, 8, 8, 16)


@pytest.fixture(scope="session")
def nodes(tmp_path_factory) -> dict[str, Any]:
    # Previews are written there, else below whoever runs the tests.
    shims.folder_paths.set_directory("temp", tmp_path_factory.mktemp("temp"))
    return {**loader.load_nodes(), **loader.load_pack(TINY_PACK)}


@pytest.fixture(scope="session")
def host(nodes) -> Any:
    """The pack's room that knows its host, by the name that the host gave it, with its modules."""
    return sys.modules[f"{nodes['CNetApply'].__module__.rpartition('.')[0]}.host"]


@pytest.fixture(scope="session")
def answers(nodes) -> Any:
    """The pack's module of that name."""
    return sys.modules[f"{nodes['CNetApply'].__module__.rpartition('.')[0]}.answers"]


@pytest.fixture(scope="session")
def call(nodes) -> Callable[..., Any]:
    """Execute a node: call("CNetApply", positive=..., ...) gives its outputs, or its only one."""

    def call(node: str, **inputs: Any) -> Any:
        outputs = nodes[node].execute(**inputs).args
        return outputs[0] if len(outputs) == 1 else outputs

    return call


def randomised(net: Net, seed: int) -> Net:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return net


def random_controlnet(config: UNetConfig, seed: int) -> ControlNet:
    return randomised(ControlNet(config, hint_widths=WIDTHS), seed)


@pytest.fixture(scope="session")
def files(tmp_path_factory, nodes) -> Path:
    """A controlnet folder that the loader knows: first, second, silent, union (6 types) for the tiny model,
    and others."""
    folder = tmp_path_factory.mktemp("controlnet")
    save_controlnet(random_controlnet(BASE, 1), folder / "first.safetensors")
    save_controlnet(random_controlnet(BASE, 2), folder / "second.safetensors")
    save_controlnet(ControlNet(BASE, hint_widths=WIDTHS), folder / "silent.safetensors")
    save_network(
        randomised(UnionControlNet(BASE, hint_widths=WIDTHS, types=6), 1),
        folder / "union.safetensors",
        config_metadata(BASE),
    )
    for name, config in OTHERS.items():
        save_controlnet(random_controlnet(config, 3), folder / f"{name}.safetensors")
    shims.folder_paths.add_model_folder_path("controlnet", str(folder))
    return folder


@pytest.fixture(scope="session")
def load(call, files) -> Callable[[str], Any]:
    return lambda name: call("CNetLoadControlNet", control_net_name=f"{name}.safetensors")


@pytest.fixture(scope="session")
def base(call) -> Any:
    return call("TinyLoad", prediction="v")


@pytest.fixture(scope="session")
def vivid_base(call) -> Any:
    """The tiny model with weights under which its attentions say much."""
    loaded = call("TinyLoad", prediction="v")
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in loaded[0].model.diffusion_model.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
            else:
                scale = parameter[0].numel() ** -0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return loaded


@pytest.fixture
def prompts(base) -> dict[str, list]:
    """Positive and negative conditioning, by the names of the inputs that take them."""
    clip = base[1]
    return {
        kind: clip.encode_from_tokens_scheduled(clip.tokenize(text))
        for kind, text in (("positive", "one"), ("negative", "two"))
    }


@pytest.fixture
def hint() -> torch.Tensor:
    return torch.rand(1, 32, 40, 3, generator=torch.Generator().manual_seed(6))


@pytest.fixture
def draw(call, base) -> Callable[..., torch.Tensor]:
    """The latent [B,4,4,5] that four steps with these conditionings give."""

    def draw(
        positive: list, negative: list, batch: int = 1, model: Any = None, cfg: float = 3.0
    ) -> torch.Tensor:
        latent = call(
            "KSampler",
            model=model or base[0],
            seed=7,
            steps=4,
            cfg=cfg,
            sampler_name="euler",
            scheduler="normal",
            positive=positive,
            negative=negative,
            latent_image={"samples": torch.zeros(batch, 4, 4, 5)},
            denoise=1.0,
        )
        return latent["samples"]

    return draw


ALWAYS = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}


@pytest.fixture
def apply(call) -> Callable[..., dict[str, list]]:
    """Apply ControlNet as a chain reads: conditionings in, conditionings out, by name."""

    def apply(
        prompts: dict[str, list], control: Any, image: torch.Tensor, **settings: float
    ) -> dict[str, list]:
        out = call("CNetApply", **prompts, control_net=control, image=image, **{**ALWAYS, **settings})
        return dict(zip(("positive", "negative"), out, strict=True))

    return apply


@pytest.fixture
def unit(call) -> Callable[..., Any]:
    def unit(control: Any, image: torch.Tensor, **settings: float) -> Any:
        return call("CNetUnit", control_net=control, image=image, **{**ALWAYS, **settings})

    return unit


@pytest.fixture
def merge(call) -> Callable[..., dict[str, list]]:
    def merge(prompts: dict[str, list], *units: Any, mode: str = "sum", **options: float) -> dict[str, list]:
        slots = {f"unit{i}": unit for i, unit in enumerate(units)}
        out = call("CNetMerge", **prompts, units=slots, mode={"mode": mode, **options})
        return dict(zip(("positive", "negative"), out, strict=True))

    return merge

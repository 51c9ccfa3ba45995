"""Our union ControlNet against ComfyUI's own class, in the host's Python."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cnet_core.networks.config import UNetConfig
from cnet_core.networks.union import UnionControlNet

from .conftest import HOSTS, NONE
from .hosting import host_label, host_python

SCRIPT = Path(__file__).with_name("union_reference.py")
TOLERANCE = 1e-5

# The host has the width of the released files' first level written into its code; a single level is enough.
CONFIGS = {
    "sd15": UNetConfig(320, (1,), (1,), (1,), context_dim=16, num_heads=8),
    "sdxl": UNetConfig(
        320,
        (1,),
        (1,),
        (1,),
        context_dim=16,
        num_head_channels=64,
        use_linear_in_transformer=True,
        adm_in_channels=24,
    ),
}

# Topology, types of the network, types of the hint; none is what the host calls "auto".
CASES: list[tuple[str, int, list[int]]] = [
    ("sdxl", 6, [3]),
    ("sdxl", 8, [7]),
    ("sdxl", 8, []),
    ("sd15", 8, [0]),
    ("sd15", 6, []),
]


def random_net(config: UNetConfig, count: int) -> UnionControlNet:
    """Variance 1/fan_in, so that the residuals have the size of real ones."""
    torch.manual_seed(count)
    net = UnionControlNet(config, types=count)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            else:
                # Embeddings of types are drawn 18 times as large, and would drown the hint.
                parameter.normal_(std=1 if name == "task_embedding" else parameter[0].numel() ** -0.5)
    return net.eval().requires_grad_(False)


def host_arguments(config: UNetConfig, count: int) -> dict:
    """The host's names for the same network."""
    heads = (
        {"num_heads": config.num_heads}
        if config.num_heads
        else {"num_head_channels": config.num_head_channels}
    )
    return {
        "image_size": 8,
        "in_channels": config.in_channels,
        "model_channels": config.model_channels,
        "hint_channels": 3,
        "num_res_blocks": config.num_res_blocks,
        "channel_mult": config.channel_mult,
        "transformer_depth": config.transformer_depth,
        "transformer_depth_middle": config.transformer_depth_middle,
        "context_dim": config.context_dim,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": config.use_linear_in_transformer,
        "legacy": False,
        "adm_in_channels": config.adm_in_channels,
        "num_classes": None if config.adm_in_channels is None else "sequential",
        "union_controlnet_num_control_type": count,
        **heads,
    }


def host_inputs(config: UNetConfig) -> dict[str, Tensor]:
    """Two rows with hints of their own."""
    inputs = {
        "x": torch.randn(2, 4, 8, 8),
        "hint": torch.rand(2, 3, 64, 64) * torch.tensor([1.0, 0.2])[:, None, None, None],
        "timesteps": torch.tensor([981.0, 17.0]),
        "context": torch.randn(2, 7, config.context_dim),
    }
    if config.adm_in_channels:
        inputs["y"] = torch.randn(2, config.adm_in_channels)
    return inputs


@dataclass
class Case:
    """A network, its inputs, and what the host's class makes of them, the middle last."""

    net: UnionControlNet
    inputs: dict[str, Tensor]
    theirs: list[Tensor]


@pytest.fixture(
    scope="module", params=HOSTS or [NONE], ids=[host_label(root) for root in HOSTS] or ["no-ComfyUI"]
)
def cases(request, tmp_path_factory) -> list[Case]:
    """All cases, in one process of the host's Python, which takes long to start."""
    root, folder = request.param, tmp_path_factory.mktemp("union")
    found, files = [], []
    for number, (topology, count, types) in enumerate(CASES):
        net, inputs = random_net(CONFIGS[topology], count), host_inputs(CONFIGS[topology])
        weights = {f"weights.{name}": tensor for name, tensor in net.state_dict().items()}
        arguments = json.dumps(host_arguments(net.config, count))
        files += [folder / f"{number}.in", folder / f"{number}.out"]
        save_file({**weights, **inputs}, files[-2], {"arguments": arguments, "types": json.dumps(types)})
        found.append(Case(net, inputs, []))
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    command = [host_python(root), SCRIPT, root, *files]
    done = subprocess.run(command, check=False, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for case, path in zip(found, files[1::2], strict=True):
        blocks = load_file(path)
        case.theirs = [blocks[str(i)] for i in range(len(blocks))]
    return found


@torch.no_grad()
@pytest.mark.parametrize("number", range(len(CASES)), ids=[str(case) for case in CASES])
def test_one_type_and_none_equal_comfyui(cases, number):
    case, types = cases[number], CASES[number][2]
    net, inputs = case.net, case.inputs
    hint = inputs["hint"]
    features = net.encode_hints([hint], types) if types else net.encode_hint(hint)
    ours = list(net(inputs["x"], features, inputs["timesteps"], inputs["context"], inputs.get("y")))
    differences = [float((a - b).abs().max()) for a, b in zip(ours, case.theirs, strict=True)]
    print(f"largest difference {max(differences):.2g}")
    assert min(float(block.std()) for block in case.theirs) > 0.05
    assert max(differences) <= TOLERANCE

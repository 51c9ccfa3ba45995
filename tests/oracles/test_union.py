"""Our union ControlNet against diffusers' ControlNetUnionModel, which runs the released files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cnet_core.checkpoints import load_controlnet
from cnet_core.checkpoints.convert import from_diffusers
from cnet_core.checkpoints.shapes import config_metadata
from cnet_core.networks.config import SDXL, UNetConfig
from cnet_core.networks.union import UnionControlNet

diffusers = pytest.importorskip("diffusers")

HINT_WIDTHS = (8, 16, 24, 32)
TOLERANCE = 1e-5
POOLED, TIME_IDS, TYPE_CHANNELS, SIDE = 16, 8, 8, 6
COUNTS = [6, 8]

THEIRS: dict[str, dict[str, Any]] = {
    "sd15": {
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "cross_attention_dim": 24,
        "attention_head_dim": 8,
        # In diffusers the width of the types' embedding too.
        "addition_time_embed_dim": TYPE_CHANNELS,
    },
    "sdxl": {
        "block_out_channels": (32, 64),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "transformer_layers_per_block": (1, 2),
        "cross_attention_dim": 48,
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": TYPE_CHANNELS,
        "projection_class_embeddings_input_dim": POOLED + 6 * TIME_IDS,
    },
}
HEADS = {"sd15": UNetConfig(num_heads=8), "sdxl": UNetConfig(num_head_channels=16)}


def their_net(topology: str, count: int) -> nn.Module:
    """Random weights, none left at zero or one, or an exchange of two would go unseen."""
    torch.manual_seed(count)
    net = diffusers.ControlNetUnionModel(
        **THEIRS[topology],
        conditioning_embedding_out_channels=HINT_WIDTHS,
        num_control_type=count,
        num_trans_channel=32,
        num_proj_channel=32,
        num_trans_layer=2,
    )
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif name.startswith(("controlnet_", "spatial_ch_projs")):
                parameter.normal_(std=parameter[0].numel() ** -0.5)
        # Else the types' tokens drown those of the hints.
        net.task_embedding.mul_(0.1)
    return net.eval().requires_grad_(False)


@pytest.fixture(params=[(t, n) for t in THEIRS for n in COUNTS], ids=str, scope="module")
def nets(request, tmp_path_factory) -> tuple[Any, UnionControlNet]:
    """Theirs, and ours out of the file that theirs makes."""
    topology, count = request.param
    theirs = their_net(topology, count)
    path: Path = tmp_path_factory.mktemp("union") / "net.safetensors"
    save_file(theirs.state_dict(), path, config_metadata(HEADS[topology]))
    ours = load_controlnet(path)
    assert isinstance(ours, UnionControlNet) and ours.types == count
    return theirs, ours


def inputs(ours: UnionControlNet, rows: int = 1) -> dict[str, Any]:
    torch.manual_seed(3)
    pooled, ids = torch.randn(rows, POOLED), torch.rand(rows, 6) * 1000
    adm = ours.config.adm_in_channels
    half = TIME_IDS // 2
    angles = ids[..., None] * torch.logspace(0, -4 * (1 - 1 / half), half)
    y = torch.cat([pooled, torch.cat([angles.cos(), angles.sin()], dim=-1).flatten(1)], dim=1)
    return {
        "x": torch.randn(rows, 4, SIDE, SIDE),
        "t": torch.linspace(981.0, 17.0, rows),
        "context": torch.randn(rows, 7, ours.config.context_dim),
        "added": {"text_embeds": pooled, "time_ids": ids} if adm else None,
        "y": y if adm else None,
    }


def hints(number: int, rows: int = 1) -> list[Tensor]:
    """Noise, of another brightness in each row."""
    generator = torch.Generator().manual_seed(7)
    brightness = torch.linspace(1, 0.1, rows)[:, None, None, None]
    return [brightness * torch.rand(rows, 3, 8 * SIDE, 8 * SIDE, generator=generator) for _ in range(number)]


def run_theirs(net: Any, v: dict[str, Any], images: list[Tensor], types: list[int]) -> list[Tensor]:
    flags = torch.zeros(len(v["x"]), net.config.num_control_type)
    flags[:, types] = 1
    down, mid = net(
        v["x"], v["t"], v["context"], images, flags, types, added_cond_kwargs=v["added"], return_dict=False
    )
    return [*down, mid]


def run_ours(net: UnionControlNet, v: dict[str, Any], images: list[Tensor], types: list[int]) -> list[Tensor]:
    return list(net(v["x"], net.encode_hints(images, types), v["t"], v["context"], v["y"]))


def difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The largest over all blocks."""
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("types", [[0], [3], [-1], [1, 4], [5, 0, 2]], ids=str)
def test_one_type_and_several_equal_diffusers(nets, types):
    theirs, ours = nets
    types = [number % ours.types for number in types]
    v, images = inputs(ours), hints(len(types))
    expected = run_theirs(theirs, v, images, types)
    assert min(block.std() for block in expected) > 0.05
    assert difference(run_ours(ours, v, images, types), expected) <= TOLERANCE


@torch.no_grad()
def test_cond_and_uncond_with_one_hint_equal_diffusers(nets):
    """The rows of a batch, as guidance makes them: other latents and texts, the same hints."""
    theirs, ours = nets
    v, images = inputs(ours, rows=2), hints(2)
    expected = run_theirs(theirs, v, [image.expand(2, -1, -1, -1) for image in images], [1, 3])
    features = tuple(f.expand(2, *f.shape[1:]) for f in ours.encode_hints(images, [1, 3]))
    residuals = ours(v["x"], features, v["t"], v["context"], v["y"])
    assert difference(list(residuals), expected) <= TOLERANCE


@torch.no_grad()
def test_different_hints_in_a_batch_equal_diffusers_one_by_one(nets):
    """In diffusers, and in the release, the attention runs along the batch: images change each other."""
    theirs, ours = nets
    v, images = inputs(ours, rows=2), hints(2, rows=2)
    found = run_ours(ours, v, images, [0, 4])
    for i in range(2):
        row = {k: {n: t[i : i + 1] for n, t in a.items()} if isinstance(a, dict) else a if a is None
               else a[i : i + 1] for k, a in v.items()}  # fmt: skip
        alone = run_theirs(theirs, row, [image[i : i + 1] for image in images], [0, 4])
        assert difference([block[i : i + 1] for block in found], alone) <= TOLERANCE
    assert difference(found, run_theirs(theirs, v, images, [0, 4])) > 100 * TOLERANCE


@pytest.mark.parametrize("count", COUNTS)
def test_names_and_shapes_at_full_size_are_those_of_diffusers(count):
    with torch.device("meta"):
        theirs = diffusers.ControlNetUnionModel(
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            cross_attention_dim=2048,
            attention_head_dim=(5, 10, 20),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
            conditioning_embedding_out_channels=(16, 32, 96, 256),
            num_control_type=count,
        ).state_dict()
    ours = UnionControlNet(SDXL, device="meta", types=count).state_dict()
    renamed = {
        name.replace(".in_proj_", ".in_proj."): tuple(tensor.shape)
        for name, tensor in from_diffusers(theirs).items()
    }
    assert renamed == {name: tuple(tensor.shape) for name, tensor in ours.items()}

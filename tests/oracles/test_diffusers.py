"""Our UNet and ControlNet against diffusers' on tiny random configurations of the three topologies."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cnet_core.checkpoints.convert import from_diffusers, to_diffusers
from cnet_core.checkpoints.shapes import CONFIG_KEY, config_metadata, controlnet_config, unet_config
from cnet_core.networks.config import UNetConfig
from cnet_core.networks.controlnet import ControlNet
from cnet_core.networks.t2i_adapter import AdapterConfig, T2IAdapter
from cnet_core.networks.unet import UNet

diffusers = pytest.importorskip("diffusers")

HINT_WIDTHS = (8, 16, 24, 32)
TOLERANCE = 1e-5
POOLED, TIME_IDS = 16, 8


@dataclass(frozen=True)
class Topology:
    """One topology for both sides: `ours` is what our reader must find, `theirs` diffusers' arguments."""

    ours: UNetConfig
    theirs: dict[str, Any] = field(hash=False)


TOPOLOGIES = {
    "sd15": Topology(
        UNetConfig(32, (1, 2, 3, 3), context_dim=24, num_heads=8),
        {
            "block_out_channels": (32, 64, 96, 96),
            "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
            "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
            "cross_attention_dim": 24,
            # diffusers calls the number of heads attention_head_dim.
            "attention_head_dim": 8,
        },
    ),
    "sd21": Topology(
        UNetConfig(32, (1, 2, 3, 3), context_dim=40, num_head_channels=16, use_linear_in_transformer=True),
        {
            "block_out_channels": (32, 64, 96, 96),
            "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
            "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
            "cross_attention_dim": 40,
            "attention_head_dim": (2, 4, 6, 6),
            "use_linear_projection": True,
        },
    ),
    "sdxl": Topology(
        UNetConfig(
            32,
            (1, 2, 3),
            (2, 2, 2),
            (0, 2, 3),
            3,
            context_dim=48,
            num_head_channels=16,
            use_linear_in_transformer=True,
            adm_in_channels=POOLED + 6 * TIME_IDS,
        ),
        {
            "block_out_channels": (32, 64, 96),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 3),
            "cross_attention_dim": 48,
            "attention_head_dim": (2, 4, 6),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": TIME_IDS,
            "projection_class_embeddings_input_dim": POOLED + 6 * TIME_IDS,
        },
    ),
}
# Segmind's SSD-1B: a middle of one residual block.
TOPOLOGIES["ssd-1b"] = Topology(
    replace(TOPOLOGIES["sdxl"].ours, transformer_depth=(0, 2, 4), transformer_depth_middle=-1),
    {
        **TOPOLOGIES["sdxl"].theirs,
        "mid_block_type": "UNetMidBlock2D",
        "transformer_layers_per_block": (1, 2, 4),
    },
)


@pytest.fixture(params=TOPOLOGIES, scope="module")
def topology(request) -> Topology:
    return TOPOLOGIES[request.param]


@pytest.fixture(scope="module")
def their_unet(topology):
    torch.manual_seed(1)
    return randomised(diffusers.UNet2DConditionModel(**topology.theirs))


@pytest.fixture(scope="module")
def their_controlnet(topology):
    torch.manual_seed(2)
    theirs = {name: value for name, value in topology.theirs.items() if name != "up_block_types"}
    net = diffusers.ControlNetModel(**theirs, conditioning_embedding_out_channels=HINT_WIDTHS)
    return randomised(net)


def randomised(net: nn.Module) -> nn.Module:
    """No weight left at zero or one, or an exchange of two would go unseen; zero convolutions included."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif name.startswith(("controlnet_down", "controlnet_mid", "controlnet_cond_embedding.conv_out")):
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    return net.eval().requires_grad_(False)


def inputs(config: UNetConfig, batch: int = 2, side: int = 16) -> dict[str, Any]:
    """Noise and conditions for both sides; y and the parts that diffusers makes it of."""
    torch.manual_seed(3)
    pooled, ids = torch.randn(batch, POOLED), torch.rand(batch, 6) * 1000
    return {
        "x": torch.randn(batch, 4, side, side),
        "t": torch.tensor([981.0, 17.0])[:batch],
        "context": torch.randn(batch, 7, config.context_dim),
        "hint": torch.rand(batch, 3, 8 * side, 8 * side),
        "added": {"text_embeds": pooled, "time_ids": ids} if config.adm_in_channels else None,
        "y": torch.cat([pooled, sinusoids(ids)], dim=1) if config.adm_in_channels else None,
    }


def sinusoids(ids: Tensor) -> Tensor:
    """SDXL's size conditions [B,6] as [B,6*TIME_IDS], each embedded like a timestep (arXiv 2307.01952)."""
    half = TIME_IDS // 2
    angles = ids[..., None] * torch.logspace(0, -4 * (1 - 1 / half), half)
    return torch.cat([angles.cos(), angles.sin()], dim=-1).flatten(1)


def our_unet(their_unet, config: UNetConfig) -> UNet:
    net = UNet(config).eval()
    net.load_state_dict(from_diffusers(their_unet.state_dict()))
    return net


def our_controlnet(their_controlnet, config: UNetConfig) -> ControlNet:
    net = ControlNet(config, hint_widths=HINT_WIDTHS).eval()
    net.load_state_dict(from_diffusers(their_controlnet.state_dict()))
    return net


@torch.no_grad()
def test_unet_equals(topology, their_unet):
    v = inputs(topology.ours)
    theirs = their_unet(v["x"], v["t"], v["context"], added_cond_kwargs=v["added"]).sample
    ours = our_unet(their_unet, topology.ours)(v["x"], v["t"], v["context"], v["y"])
    assert theirs.std() > 0.05
    assert (ours - theirs).abs().max() <= TOLERANCE


@torch.no_grad()
def test_controlnet_equals(topology, their_controlnet):
    v = inputs(topology.ours)
    down, mid = their_controlnet(
        v["x"], v["t"], v["context"], v["hint"], added_cond_kwargs=v["added"], return_dict=False
    )
    net = our_controlnet(their_controlnet, topology.ours)
    residuals = net(v["x"], net.encode_hint(v["hint"]), v["t"], v["context"], v["y"])
    assert len(residuals.down) == len(down)
    for ours, theirs in zip(residuals, [*down, mid], strict=True):
        assert theirs.std() > 0.05
        assert (ours - theirs).abs().max() <= TOLERANCE


@torch.no_grad()
def test_controlled_unet_equals(topology, their_unet, their_controlnet):
    v = inputs(topology.ours)
    down, mid = their_controlnet(
        v["x"], v["t"], v["context"], v["hint"], added_cond_kwargs=v["added"], return_dict=False
    )
    theirs = their_unet(
        v["x"],
        v["t"],
        v["context"],
        added_cond_kwargs=v["added"],
        down_block_additional_residuals=down,
        mid_block_additional_residual=mid,
    ).sample
    net, unet = our_controlnet(their_controlnet, topology.ours), our_unet(their_unet, topology.ours)
    residuals = net(v["x"], net.encode_hint(v["hint"]), v["t"], v["context"], v["y"])
    ours = unet(v["x"], v["t"], v["context"], v["y"], residuals)
    alone = unet(v["x"], v["t"], v["context"], v["y"])
    assert (ours - alone).abs().max() > 0.05
    assert (ours - theirs).abs().max() <= TOLERANCE


@torch.no_grad()
def test_odd_sides_equal(topology, their_unet):
    """Sides that do not halve evenly come back to their own size in the decoder."""
    v = inputs(topology.ours, side=11)
    theirs = their_unet(v["x"], v["t"], v["context"], added_cond_kwargs=v["added"]).sample
    ours = our_unet(their_unet, topology.ours)(v["x"], v["t"], v["context"], v["y"])
    assert (ours - theirs).abs().max() <= TOLERANCE


def test_from_unet_equals(topology, their_unet):
    """A fresh ControlNet holds what diffusers' from_unet gives, the hint encoder's own start apart."""
    theirs = diffusers.ControlNetModel.from_unet(
        their_unet, conditioning_channels=3, conditioning_embedding_out_channels=HINT_WIDTHS
    )
    expected = from_diffusers(theirs.state_dict())
    ours = ControlNet.from_unet(our_unet(their_unet, topology.ours), hint_widths=HINT_WIDTHS).state_dict()
    assert ours.keys() == expected.keys()
    for name, tensor in ours.items():
        assert tensor.shape == expected[name].shape
        if not name.startswith("input_hint_block.") or "input_hint_block.14." in name:
            assert torch.equal(tensor, expected[name]), name


def test_names_both_ways(topology, their_unet, their_controlnet):
    """The converter is a bijection of names that leaves the tensors themselves alone."""
    for theirs in (their_unet.state_dict(), their_controlnet.state_dict()):
        ours = from_diffusers(theirs)
        assert len(ours) == len(theirs)
        back = to_diffusers(ours, topology.ours)
        assert back.keys() == theirs.keys()
        assert all(back[name].data_ptr() == theirs[name].data_ptr() for name in theirs)


def test_configuration_found(topology, their_unet, their_controlnet):
    """Sizes come out of the shapes of a foreign state dict; heads leave no trace there and are given."""
    metadata = {CONFIG_KEY: config_metadata(topology.ours)[CONFIG_KEY]}
    assert unet_config(from_diffusers(their_unet.state_dict()), metadata) == topology.ours
    control = controlnet_config(from_diffusers(their_controlnet.state_dict()), metadata)
    assert control == (topology.ours, 3, HINT_WIDTHS)


@torch.no_grad()
def test_small_sdxl_controlnet_equals():
    """The small SDXL ControlNets read no text; their middle has a transformer of its projections only."""
    torch.manual_seed(4)
    net = diffusers.ControlNetModel(
        block_out_channels=(32, 64, 96),
        down_block_types=("DownBlock2D",) * 3,
        transformer_layers_per_block=(0, 0, 0),
        attention_head_dim=(2, 4, 6),
        cross_attention_dim=48,
        use_linear_projection=True,
        conditioning_embedding_out_channels=HINT_WIDTHS,
    )
    theirs = randomised(net)
    state = from_diffusers(theirs.state_dict())
    config, hint_channels, widths = controlnet_config(
        state, config_metadata(UNetConfig(num_head_channels=16))
    )
    assert (config.transformer_depth, config.transformer_depth_middle, config.context_dim) == (
        (0, 0, 0),
        0,
        0,
    )
    ours = ControlNet(config, hint_channels, widths).eval()
    ours.load_state_dict(state)
    v = inputs(TOPOLOGIES["sdxl"].ours)
    down, mid = theirs(v["x"], v["t"], v["context"], v["hint"], return_dict=False)
    residuals = ours(v["x"], ours.encode_hint(v["hint"]), v["t"], v["context"])
    for a, b in zip(residuals, [*down, mid], strict=True):
        assert (a - b).abs().max() <= TOLERANCE


@torch.no_grad()
def test_unet_with_an_adapter_equals(topology, their_unet):
    """Features at their places: diffusers' down_intrablock_additional_residuals, odd sides too."""
    kind = "xl" if topology.ours.adm_in_channels else "full"
    adapter = T2IAdapter(AdapterConfig(kind, 3, (32, 64, 96, 96))).eval()
    assert adapter.config.differences(topology.ours) == []
    unet = our_unet(their_unet, topology.ours)
    for side in (16, 10):
        v = inputs(topology.ours, side=side)
        features = adapter.encode_hint(v["hint"])
        given = {"added_cond_kwargs": v["added"]}
        bare = their_unet(v["x"], v["t"], v["context"], **given).sample
        given["down_intrablock_additional_residuals"] = [feature.clone() for feature in features]
        theirs = their_unet(v["x"], v["t"], v["context"], **given).sample
        residuals = adapter(v["x"], features, v["t"], v["context"], v["y"])
        ours = unet(v["x"], v["t"], v["context"], v["y"], residuals)
        assert (theirs - bare).abs().max() > 0.01
        torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE)

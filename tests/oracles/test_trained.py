"""What training exports, in diffusers' own ControlNetModel."""

import pytest
import torch

from cnet_core.networks.config import UNetConfig
from cnet_core.networks.controlnet import ControlNet
from cnet_core.training.export import save_result

diffusers = pytest.importorskip("diffusers")

POOLED = 16
CONFIGS = {
    "sd15": UNetConfig(32, (1, 2, 3, 3), context_dim=24, num_heads=8),
    "sd21": UNetConfig(
        32, (1, 2, 3, 3), context_dim=40, num_head_channels=16, use_linear_in_transformer=True
    ),
    "sdxl": UNetConfig(
        32,
        (1, 2, 3),
        (2, 2, 2),
        (0, 2, 3),
        3,
        context_dim=48,
        num_head_channels=16,
        use_linear_in_transformer=True,
        adm_in_channels=POOLED + 6 * 256,
    ),
}


def sinusoids(ids: torch.Tensor) -> torch.Tensor:
    """SDXL's size conditions [B,6] as [B,6*256], each embedded like a timestep (arXiv 2307.01952)."""
    angles = ids[..., None] * torch.exp(torch.arange(128) * (-torch.log(torch.tensor(1e4)) / 128))
    return torch.cat([angles.cos(), angles.sin()], dim=-1).flatten(1)


@torch.no_grad()
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_diffusers_reads_the_exported_folder_and_computes_the_same(config, tmp_path):
    torch.manual_seed(1)
    net = ControlNet(config, hint_channels=1, hint_widths=(8, 16, 24, 32)).eval()
    for parameter in net.parameters():
        parameter.normal_(std=parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1)
    save_result(net, net.state_dict(), tmp_path / "net", {"cnet.steps": "7"}, "diffusers", None)
    theirs = diffusers.ControlNetModel.from_pretrained(tmp_path / "net").eval()
    x, t, context = (
        torch.randn(2, 4, 16, 16),
        torch.tensor([981.0, 17.0]),
        torch.randn(2, 7, config.context_dim),
    )
    hint, y, added = torch.rand(2, 1, 128, 128), None, None
    if config.adm_in_channels:
        pooled, ids = torch.randn(2, POOLED), torch.rand(2, 6) * 1000
        added = {"text_embeds": pooled, "time_ids": ids}
        y = torch.cat([pooled, sinusoids(ids)], dim=1)
    down, mid = theirs(x, t, context, hint, added_cond_kwargs=added, return_dict=False)
    residuals = net(x, net.encode_hint(hint), t, context, y)
    assert len(residuals.down) == len(down)
    for ours, other in zip(residuals, [*down, mid], strict=True):
        assert other.std() > 0.05
        assert (ours - other).abs().max() <= 1e-5 * max(1, other.abs().max())

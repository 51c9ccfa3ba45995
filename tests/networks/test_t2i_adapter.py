"""T2I-Adapter: features of the right sizes at the right places, computed from the hint alone."""

import functools

import pytest
import torch

from cnet_core.networks.config import SD15, SD21, SDXL, UNetConfig
from cnet_core.networks.t2i_adapter import AdapterConfig, T2IAdapter
from cnet_core.networks.unet import UNet

WIDTHS = (32, 64, 96, 96)
SD = UNetConfig(32, (1, 2, 3, 3), context_dim=24, num_heads=4, norm_groups=8)
XL = UNetConfig(
    32, (1, 2, 3), (2, 2, 2), (0, 1, 1), context_dim=24, num_heads=4, norm_groups=8, adm_in_channels=8
)
KINDS = {
    "full": (AdapterConfig("full", 3, WIDTHS), SD),
    "full, 3x3 and strided": (AdapterConfig("full", 3, WIDTHS, 1, 3, pooled=False), SD),
    "full, grey": (AdapterConfig("full", 1, WIDTHS), SD),
    "light": (AdapterConfig("light", 3, WIDTHS, 4), SD),
    "xl": (AdapterConfig("xl", 3, WIDTHS), XL),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@functools.cache
def unet_of(base: UNetConfig) -> UNet:
    torch.manual_seed(0)
    return UNet(base).eval().requires_grad_(False)


def adapter(config: AdapterConfig) -> T2IAdapter:
    torch.manual_seed(0)
    return T2IAdapter(config).eval().requires_grad_(False)


@pytest.mark.parametrize("size", [(8, 8), (9, 6), (1, 3)])
def test_every_feature_fits_the_state_it_is_added_to(kind, size):
    """Sides of any latent, odd ones too: the UNet itself adds them."""
    config, base = kind
    assert config.differences(base) == []
    net, unet = adapter(config), unet_of(base)
    x, t, context = torch.randn(2, 4, *size), torch.tensor([5.0, 900.0]), torch.randn(2, 3, 24)
    y = torch.randn(2, 8) if base.adm_in_channels else None
    features = net.encode_hint(torch.rand(2, config.hint_channels, 8 * size[0], 8 * size[1]))
    residuals = net(x, features, t, context, y)
    expected = [
        (2, channels, *(-(-side // scale) for side in size))
        for channels, scale in zip(base.residual_channels, base.residual_scales, strict=True)
    ]
    places = [*residuals.encoder, residuals.mid]
    assert [i for i, feature in enumerate(places) if feature is not None] == (
        [3, 5, 8, 9] if config.kind == "xl" else [2, 5, 8, 11]
    )
    for feature, shape in zip(places, expected, strict=True):
        assert feature is None or tuple(feature.shape) == shape
    assert (unet(x, t, context, y, residuals) - unet(x, t, context, y)).abs().max() > 1e-4


def test_a_step_only_places_the_features(kind):
    config, _ = kind
    net = adapter(config)
    features = net.encode_hint(torch.rand(1, config.hint_channels, 64, 64))
    residuals = net(torch.zeros(1, 4, 8, 8), features, torch.zeros(1), torch.zeros(1, 1, 1))
    placed = [*residuals.encoder, residuals.mid]
    assert [id(f) for f in placed if f is not None] == [id(f) for f in features]
    assert list(residuals.down) == []


def test_xl_features_of_odd_latents_stay_over_their_part_of_the_picture():
    """A hint of an odd latent answers as the left of a wider one that goes on with its last pixels."""
    net = adapter(AdapterConfig("xl", 3, WIDTHS))
    hint = torch.rand(1, 3, 64, 8 * 7)
    wider = torch.cat([hint, hint[..., -1:].expand(-1, -1, -1, 8)], dim=-1)
    for narrow, wide in zip(net.encode_hint(hint), net.encode_hint(wider), strict=True):
        assert torch.equal(narrow, wide)


def test_bases_are_told_by_their_encoder():
    full, xl = AdapterConfig("full"), AdapterConfig("xl")
    assert [full.differences(base) for base in (SD15, SD21)] == [[], []]
    assert xl.differences(SDXL) == []
    assert "12 blocks, the model's has 9" in full.differences(SDXL)[0]
    assert "9 blocks, the model's has 12" in xl.differences(SD15)[0]
    narrow = AdapterConfig("full", channels=(320, 640, 640, 1280))
    assert narrow.differences(SD15) == [
        "after block 8 it adds 640 channels at 1/4 of the latent's size, the model has 1280 at 1/4"
    ]
    middle = AdapterConfig("xl", channels=(320, 640, 1280, 640))
    assert [reason.split(" it")[0] for reason in middle.differences(SDXL)] == ["in the middle"]

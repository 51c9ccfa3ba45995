"""The quicker layers compute what the published networks' own do."""

import pytest
import torch
from torch import nn

from annotators.neural.layers import ToOneMap, instance_norms_as_group_norms


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 1, 7),
        nn.Conv2d(8, 1, 3, padding=1),
        nn.Conv2d(8, 1, (3, 5), padding=(1, 2), bias=False),
        nn.ConvTranspose2d(8, 1, 4, 2, 1),
        nn.ConvTranspose2d(8, 1, 3, 2, 1, 1),
    ],
    ids=str,
)
def test_a_convolution_to_one_map_is_the_same_over_its_places(layer):
    maps = torch.randn(2, 8, 11, 14)
    quick = ToOneMap(layer)
    assert torch.allclose(quick(maps), layer(maps), atol=1e-5)
    assert quick.state_dict().keys() == layer.state_dict().keys()


def test_an_instance_normalisation_is_a_group_normalisation():
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.Sequential(nn.InstanceNorm2d(6), nn.ReLU()), nn.InstanceNorm2d(6)
    )
    maps = torch.randn(2, 3, 9, 12) * 5 + 2
    expected = net(maps)
    instance_norms_as_group_norms(net)
    assert not [layer for layer in net.modules() if isinstance(layer, nn.InstanceNorm2d)]
    assert torch.allclose(net(maps), expected, atol=1e-5)

"""The quicker layers compute what the published networks' own do."""

import pytest
import torch
from torch import nn

from annotators.neural.layers import (
    AsProduct,
    OneByOne,
    instance_norms_as_group_norms,
    without_batch_norms,
)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 1, 7),
        nn.Conv2d(8, 1, 3, padding=1),
        nn.Conv2d(8, 1, (3, 5), padding=(1, 2), bias=False),
        nn.ConvTranspose2d(8, 1, 4, 2, 1),
        nn.ConvTranspose2d(8, 1, 3, 2, 1, 1),
        nn.Conv2d(8, 4, 3, padding=1),
        nn.ConvTranspose2d(8, 4, 4, 2, 1),
        nn.ConvTranspose2d(8, 4, 3, 2, 1, 1, bias=False),
    ],
    ids=str,
)
def test_a_convolution_is_a_product_of_matrices(layer):
    quick = AsProduct(layer)
    for maps in (torch.randn(2, 8, 11, 14), torch.randn(1, 8, 7, 9)):
        assert torch.allclose(quick(maps), layer(maps), atol=1e-5)


def test_parts_of_networks_see_the_pictures_of_a_batch_one_by_one():
    seen = []

    class Sum(nn.Module):
        def forward(self, one, other):
            seen.append(len(one))
            return one + other.mean((1, 2, 3), keepdim=True)

    one, other = torch.randn(3, 2, 4, 4), torch.randn(3, 1, 5, 5)
    found = OneByOne(Sum())(one, other)
    assert seen == [1, 1, 1]
    assert torch.allclose(found, one + other.mean((1, 2, 3), keepdim=True))
    layers = nn.Conv2d(2, 3, 3), nn.ReLU()
    assert torch.allclose(OneByOne(*layers)(one), nn.Sequential(*layers)(one), atol=1e-6)


def test_an_instance_normalisation_is_a_group_normalisation():
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.Sequential(nn.InstanceNorm2d(6), nn.ReLU()), nn.InstanceNorm2d(6)
    )
    maps = torch.randn(2, 3, 9, 12) * 5 + 2
    expected = net(maps)
    instance_norms_as_group_norms(net)
    assert not [layer for layer in net.modules() if isinstance(layer, nn.InstanceNorm2d)]
    assert torch.allclose(net(maps), expected, atol=1e-5)


def test_batch_normalisations_become_part_of_the_convolutions_before_them():
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(6, 6, 3, 2, groups=3), nn.BatchNorm2d(6)),
        nn.Conv2d(6, 4, 1),
        nn.ReLU(),
        nn.BatchNorm2d(4),
    )
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.1, 2.0)
    net.eval()
    maps = torch.randn(2, 3, 9, 12)
    with torch.no_grad():
        expected = net(maps)
        without_batch_norms(net)
        assert torch.allclose(net(maps), expected, atol=1e-5)
    # The last one normalises no convolution's outputs.
    assert [name for name, layer in net.named_modules() if isinstance(layer, nn.BatchNorm2d)] == ["6"]

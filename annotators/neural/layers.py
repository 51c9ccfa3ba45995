"""Layers that do what those of the published networks do, on the same weights, in less time on a CPU."""

from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

Net = TypeVar("Net", bound=nn.Module)


class AsProduct(nn.Module):
    """A convolution of stride 1, or a transposed one of any stride, as a product of matrices: each place of
    the kernel is a channel, and then all are laid over each other where they belong.

    Libraries make channels by the dozen, so that one takes as long as 16; and at each call they bring the
    weights into an order of their own, which takes longer than all else where there are few places. To
    several channels it is done so on a CPU over at most `few` places of a batch.
    """

    def __init__(self, layer: nn.Conv2d | nn.ConvTranspose2d, few: int = 64):
        super().__init__()
        assert not isinstance(layer.padding, str) and layer.groups == 1 and layer.dilation == (1, 1)
        self.layer, self.weight, self.bias, self._few = layer, layer.weight, layer.bias, few
        self._stride, self._cut, self._grown = layer.stride, layer.padding, layer.output_padding
        if isinstance(layer, nn.Conv2d):
            # It is a transposed one with the kernel turned about, cut where it has no border.
            turned = layer.weight.detach().transpose(0, 1).flip(2, 3).contiguous()
            self.weight = nn.Parameter(turned, layer.weight.requires_grad)
            sides = zip(layer.kernel_size, layer.padding, strict=True)
            self._cut = tuple(kernel - 1 - pad for kernel, pad in sides)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps [B,C',H',W'] of maps [B,C,H,W]."""
        places = maps.shape[0] * maps.shape[2] * maps.shape[3]
        single = self.weight.shape[1] == 1
        if not single and (places > self._few or maps.device.type != "cpu"):
            return self.layer(maps)
        weight = self.weight.flatten(1)
        if single:
            products = weight.T @ maps.flatten(2)
        else:
            # The other way round, a few places are slow with some libraries.
            rows = maps.movedim(1, -1).reshape(places, -1) @ weight
            products = rows.unflatten(0, (maps.shape[0], -1)).transpose(1, 2)
        kernel = self.weight.shape[2:]
        sides = zip(maps.shape[2:], kernel, self._stride, self._cut, self._grown, strict=True)
        size = tuple((side - 1) * stride + k - 2 * cut + grown for side, k, stride, cut, grown in sides)
        laid = F.fold(products, size, kernel, padding=self._cut, stride=self._stride)
        return laid if self.bias is None else laid + self.bias[:, None, None]


class OneByOne(nn.Module):
    """A part of a network that on a CPU is asked about the pictures of a batch one after the other.

    Where maps are large, what is computed of one picture stays in the caches. Where weights are, they are
    read once for all pictures, if these come together.
    """

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.net = layers[0] if len(layers) == 1 else nn.Sequential(*layers)

    def forward(self, *maps: Tensor) -> Tensor:
        if len(maps[0]) == 1 or maps[0].device.type != "cpu":
            return self.net(*maps)
        return torch.cat([self.net(*each) for each in zip(*(m.split(1) for m in maps), strict=True)])


def instance_norms_as_group_norms(net: nn.Module) -> None:
    """Give a network for each instance normalisation the group normalisation that it is, of one channel a
    group, which takes a third of the time."""
    for module in net.modules():
        for name, layer in module.named_children():
            if isinstance(layer, nn.InstanceNorm2d) and not layer.affine and not layer.track_running_stats:
                channels = layer.num_features
                setattr(module, name, nn.GroupNorm(channels, channels, layer.eps, affine=False))


def without_batch_norms(net: Net) -> Net:
    """A network whose batch normalisations are part of the convolutions before them: less to compute, and to
    pass through memory, by a rounding the same.

    For networks whose modules hold their layers in the order in which they run, where no convolution that a
    normalisation stands behind is read without it.
    """
    for module in net.modules():
        layers = list(module.named_children())
        for (_, before), (name, norm) in pairwise(layers):
            if isinstance(before, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                mean, variance = norm.running_mean, norm.running_var
                assert mean is not None and variance is not None
                before.weight, before.bias = fuse_conv_bn_weights(
                    before.weight, before.bias, mean, variance, norm.eps, norm.weight, norm.bias
                )
                # timm's hold the activation too.
                setattr(module, name, getattr(norm, "act", nn.Identity()))
    return net


def in_channels_last(net: Net) -> Net:
    """A network of plain convolutions with its weights laid in memory so that those take a tenth to a third
    less time."""
    return net.to(memory_format=torch.channels_last)

"""Control-LoRA: train a low-rank change of the base's own encoder in place of a whole copy of it.

Names as in Stability AI's files: X.up and X.down in place of X.weight, norms, biases, hint encoder and zero
convolutions whole (see checkpoints/control_lora.py, which reads them).
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..networks.controlnet import ControlNet
from ..networks.unet import UNet

MARKER = "lora_controlnet"


def make_low_rank(
    net: ControlNet, base: UNet, rank: int, generator: torch.Generator, dtype: torch.dtype
) -> None:
    """Freeze every layer that `net` copied from `base`, and add to each a trainable change up @ down.

    rank: at most; a layer's own is no more than its channels. generator: of the CPU, draws `down`; `up` is
    zero, so that nothing changes at first. dtype: of the frozen weights, which share the base's memory where
    it has them so.
    """
    theirs = base.state_dict()
    for name, layer in net.named_modules():
        if f"{name}.weight" not in theirs or not isinstance(layer, nn.Linear | nn.Conv2d):
            continue
        weight = layer.weight
        out, into, *kernel = weight.shape
        own = min(rank, out, into)
        frozen = theirs[f"{name}.weight"].to(dtype)
        layer.weight = nn.Parameter(frozen, requires_grad=False)
        down = weight.new_empty(own, into, *kernel, dtype=torch.float32)
        if not down.is_meta:
            down.copy_(torch.randn(down.shape, generator=generator) * weight[0].numel() ** -0.5)
        layer.down = nn.Parameter(down)
        layer.up = nn.Parameter(torch.zeros(out, own, *[1] * len(kernel), device=weight.device))
        layer.register_forward_hook(_add_change)


def _add_change(layer: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    (x,) = inputs
    if output.ndim == 4:
        return output + F.conv2d(F.conv2d(x, layer.down, None, layer.stride, layer.padding), layer.up)
    return output + F.linear(F.linear(x, layer.down), layer.up)


def is_low_rank(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is of such a network, or of its file."""
    return any(name.endswith(".up") for name in tensors)


def low_rank_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the file of such a network holds, of its state dict."""
    ends = (".up", ".down")
    changed = {name.rpartition(".")[0] + ".weight" for name in tensors if name.endswith(ends)}
    return {MARKER: torch.zeros(0)} | {name: t for name, t in tensors.items() if name not in changed}

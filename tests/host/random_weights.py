"""Random SD1.5 weights at full width, for comparing with the host's own ControlNet code.

As a script: python -m tests.host.random_weights FOLDER  (writes about 2.4 GB)
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from cnet_core.networks.config import SD15
from cnet_core.networks.controlnet import ControlNet
from cnet_core.networks.unet import UNet

from .hosting import Host

ZERO_JOINS = ("zero_convs.", "middle_block_out.", "input_hint_block.14.")


def random_state(network: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """fp16 weights for a network on the meta device: variance 1/fan_in, norms as identity, small joins.

    The joins (a fresh ControlNet's zeros) get a tenth of that scale, so that the control is seen in the
    result and does not swamp it.
    """
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, like in network.state_dict().items():
        if like.ndim > 1:
            scale = like[0].numel() ** -0.5 * (0.1 if name.startswith(ZERO_JOINS) else 1.0)
            state[name] = (torch.randn(like.shape, generator=generator) * scale).half()
        else:
            state[name] = (torch.ones if name.endswith("weight") else torch.zeros)(
                like.shape, dtype=torch.float16
            )
    return state


def write_weights(folder: Path) -> None:
    """folder/sd15.safetensors (the UNet alone, LDM keys) and folder/sd15_control.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    unet = random_state(UNet(SD15, device="meta"), seed=1)
    save_file(
        {f"model.diffusion_model.{key}": value for key, value in unet.items()}, folder / "sd15.safetensors"
    )
    control = random_state(ControlNet(SD15, device="meta"), seed=2)
    save_file(
        {f"control_model.{key}": value for key, value in control.items()}, folder / "sd15_control.safetensors"
    )


def give_weights(host: Host, weights: Path) -> None:
    """Put write_weights' files and a random hint.png of 64x64 among the files of a host."""
    for kind, name in (("diffusion_models", "sd15"), ("controlnet", "sd15_control")):
        file = f"{name}.safetensors"
        (host.base / "models" / kind / file).symlink_to(weights / file)
    noise = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(host.base / "input" / "hint.png")


if __name__ == "__main__":
    write_weights(Path(sys.argv[1]))

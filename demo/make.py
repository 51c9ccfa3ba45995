"""Make the mini checkpoints from nothing but seeds: `uv run python -m demo.make`.

An autoencoder, a base (UNet and text encoder) and three ControlNets are trained one after the other on
scenes drawn on the fly, into out/weights; --out demo/weights makes those that are shipped. Each stage is
saved when it is done and skipped when its file exists; a stage that was interrupted goes on from its last
state in demo/cache. In one go on two cores it took an hour on a server's processor of 2026, and takes two
and a half on older ones of 2.5 GHz; --device cuda takes a GPU. The shipped files were trained while the
lengths below were still being settled: a rebuild gives their like, not their bytes. By demo.report the
shipped ones close .80, .89 and .83 of the gap between no control and the truth's ceiling (pose, depth,
canny); that hour's .80, .89 and .88, and those of two hours on two busy cores .81, .90 and .91.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from einops import rearrange
from torch import Tensor, nn

from cnet_core.checkpoints import load_unet, read_state_dict, save_controlnet, save_network, save_unet
from cnet_core.checkpoints.shapes import CONFIG_KEY
from cnet_core.networks.autoencoder import AutoencoderConfig, TinyAutoencoder
from cnet_core.networks.config import UNetConfig
from cnet_core.networks.controlnet import ControlNet
from cnet_core.networks.text_encoder import WordEncoder, WordEncoderConfig
from cnet_core.networks.unet import UNet
from cnet_core.shell import ended
from demo.scenes import SIZE, VOCABULARY
from demo.train import (
    HINTS,
    Plan,
    Scenes,
    autoencoder_loss,
    batches,
    diffusion_loss,
    train,
)

Net = TypeVar("Net", bound=nn.Module)

STAGES = ("autoencoder", "base", *HINTS)
HERE = Path(__file__).parent
CONFIG = UNetConfig(
    model_channels=32, channel_mult=(1, 2, 2, 3), context_dim=64, num_head_channels=32, norm_groups=8
)
HINT_WIDTHS = (8, 16, 32, 64)
AUTOENCODER = AutoencoderConfig(width=64, blocks=2)
TEXT = WordEncoderConfig(vocabulary=tuple(VOCABULARY))
PLANS = {
    "autoencoder": Plan(steps=2400, batch=4, rate=1e-3, seed=1),
    "autoencoder_fit": Plan(steps=900, batch=8, rate=5e-4, seed=6),
    "base": Plan(steps=2500, batch=16, rate=6e-4, seed=2),
    "pose": Plan(steps=1350, batch=16, rate=6e-4, seed=3),
    "depth": Plan(steps=500, batch=16, rate=6e-4, seed=4),
    "canny": Plan(steps=4000, batch=16, rate=6e-4, seed=5),
}


def save(module: nn.Module, path: Path, config: Any, **metadata: str) -> None:
    """Write a small network in half precision, with its configuration as JSON in the metadata."""
    described = {CONFIG_KEY: json.dumps(dataclasses.asdict(config)), **metadata}
    save_network(module, path, described, torch.float16)


def frozen(module: Net) -> Net:
    return module.float().eval().requires_grad_(False).to(memory_format=torch.channels_last)


def load_autoencoder(weights: Path) -> tuple[TinyAutoencoder, float]:
    """The autoencoder in a folder of mini checkpoints, and the factor from its latents to the UNet's."""
    file = read_state_dict(weights / "autoencoder.safetensors")
    net = TinyAutoencoder(AUTOENCODER)
    net.load_state_dict(file.tensors)
    return frozen(net), float(file.metadata["cnet.latent_scale"])


def load_base(weights: Path) -> tuple[UNet, WordEncoder]:
    """The UNet and the text encoder in a folder of mini checkpoints."""
    text = WordEncoder(TEXT)
    text.load_state_dict(read_state_dict(weights / "text_encoder.safetensors").tensors)
    return frozen(load_unet(weights / "unet.safetensors")), frozen(text)


def control_file(weights: Path, kind: str) -> Path:
    return weights / "controlnet" / f"cnet_mini_{kind}.safetensors"


def latent_colours(images: Tensor, latents: Tensor) -> list[list[float]]:
    """The linear map from latents to RGB in -1..1 that a host needs for previews while it samples."""
    small = rearrange(nn.functional.avg_pool2d(images, 8), "b c h w -> (b h w) c")
    flat = rearrange(latents, "b c h w -> (b h w) c")
    return torch.linalg.lstsq(flat, small).solution.tolist()


class Maker:
    """The stages, writing weights below `weights` and resumable states below `states`.

    workers: processes that draw the scenes beside the training. device: where to train.
    """

    def __init__(
        self,
        weights: Path,
        states: Path,
        plans: Mapping[str, Plan] = PLANS,
        workers: int = 0,
        device: str = "cpu",
    ):
        self.weights, self.states, self.plans = weights, states, plans
        self.workers, self.device = workers, device
        states.mkdir(parents=True, exist_ok=True)

    def autoencoder(self) -> None:
        """First on scenes half as large again, whose details it finds easier, then on the base's size."""
        torch.manual_seed(self.plans["autoencoder"].seed)
        net = TinyAutoencoder(AUTOENCODER).to(memory_format=torch.channels_last).to(self.device)
        self.train_autoencoder("autoencoder", net, SIZE * 3 // 2)
        self.train_autoencoder("autoencoder_fit", net, SIZE)
        with torch.no_grad():
            images = next(batches(Scenes(64, 0), device=self.device))["images"]
            latents = net.encode(images)
        scale = 1 / float(latents.std())
        save(
            net,
            self.weights / "autoencoder.safetensors",
            AUTOENCODER,
            **{
                "cnet.latent_scale": f"{scale:.4f}",
                "cnet.latent_rgb": json.dumps(latent_colours(images, latents * scale)),
            },
        )

    def train_autoencoder(self, name: str, net: TinyAutoencoder, size: int) -> None:
        plan = self.plans[name]
        train(
            name,
            {"autoencoder": net},
            plan,
            lambda start: batches(Scenes(plan.batch, start, size=size), self.workers, self.device),
            autoencoder_loss(net),
            self.states / f"{name}.pt",
        )

    def encoder(self) -> Callable[[Tensor], Tensor]:
        """From pictures in -1..1 to the latents that the UNet sees."""
        net, scale = load_autoencoder(self.weights)
        net.to(self.device)
        return lambda images: net.encode(images) * scale

    def base(self) -> None:
        plan = self.plans["base"]
        encode = self.encoder()
        torch.manual_seed(plan.seed)
        unet, text = UNet(CONFIG), WordEncoder(TEXT)
        # As in LDM, the last convolution and each block's last one start at zero.
        for name, parameter in unet.named_parameters():
            if name.startswith("out.2.") or ".out_layers.3." in name or ".proj_out." in name:
                nn.init.zeros_(parameter)
        unet.to(memory_format=torch.channels_last).to(self.device)
        text.to(self.device)
        train(
            "base",
            {"unet": unet, "text": text},
            plan,
            lambda start: batches(Scenes(plan.batch, start), self.workers, self.device, encode),
            diffusion_loss(unet, text, drop=0.1),
            self.states / "base.pt",
        )
        save(text, self.weights / "text_encoder.safetensors", TEXT)
        save_unet(unet, self.weights / "unet.safetensors", {"cnet.prediction": "v"}, torch.float16)

    def control(self, kind: str) -> None:
        plan = self.plans[kind]
        encode = self.encoder()
        unet, text = load_base(self.weights)
        unet.to(self.device)
        text.to(self.device)
        torch.manual_seed(plan.seed)
        net = ControlNet.from_unet(unet, hint_widths=HINT_WIDTHS).to(memory_format=torch.channels_last)
        train(
            kind,
            {"control": net},
            plan,
            lambda start: batches(Scenes(plan.batch, start, kind), self.workers, self.device, encode),
            diffusion_loss(unet, text, drop=0.5, control=net),
            self.states / f"{kind}.pt",
            decay=0.99,
        )
        save_controlnet(net, control_file(self.weights, kind), {"cnet.kind": kind}, torch.float16)

    def run(self, stage: str) -> None:
        """Run one stage unless its file is there."""
        if stage in HINTS:
            done, make = control_file(self.weights, stage), lambda: self.control(stage)
        else:
            done = self.weights / {"autoencoder": "autoencoder", "base": "unet"}[stage]
            done, make = done.with_suffix(".safetensors"), getattr(self, stage)
        if done.exists():
            print(f"{stage}: {done} is there")
            return
        make()
        # Another rebuild begins anew.
        for name in (stage, f"{stage}_fit"):
            (self.states / f"{name}.pt").unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m demo.make", description="Train the mini checkpoints from seeds."
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/weights"), help="folder of the weights (default: out/weights)"
    )
    parser.add_argument("--states", type=Path, default=HERE / "cache", help="folder of the resumable states")
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cpu", help="where to train (default: cpu)"
    )
    parser.add_argument("--threads", type=int, help="torch's threads (default: its own choice)")
    parser.add_argument(
        "stages", nargs="*", default=[], help=f"of {', '.join(STAGES)}; default: all, in this order"
    )
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    # Scenes are drawn beside the training where it leaves cores for them.
    workers = min(os.cpu_count() or 1, 8) if args.device == "cuda" or torch.get_num_threads() == 1 else 0
    stages = args.stages or STAGES
    for stage in stages:
        if stage not in STAGES:
            parser.error(f"unknown stage {stage!r}: choose from {', '.join(STAGES)}")

    def make() -> None:
        maker = Maker(args.out, args.states, workers=workers, device=args.device)
        for stage in stages:
            maker.run(stage)

    sys.exit(ended(make))


if __name__ == "__main__":
    main()

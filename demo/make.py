"""Make the mini checkpoints from nothing but seeds: `uv run python -m demo.make`.

An autoencoder, a base (UNet and text encoder) and three ControlNets are trained one after the other on scenes drawn
on the fly. Each stage is saved when it is done and skipped when its file exists; a stage that was interrupted goes on
from its last state in demo/cache. On two CPU cores of 2.5 GHz everything takes about HOURS hours.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from cnet_core.networks.autoencoder import AutoencoderConfig, TinyAutoencoder
from cnet_core.networks.config import UNetConfig
from cnet_core.networks.controlnet import ControlNet
from cnet_core.networks.text_encoder import WordEncoder, WordEncoderConfig
from cnet_core.networks.unet import UNet
from demo.scenes import VOCABULARY
from demo.train import HINTS, Plan, Scenes, autoencoder_loss, batches, diffusion_loss, to_images, train

HERE = Path(__file__).parent
CONFIG = UNetConfig(
    model_channels=32, channel_mult=(1, 2, 2, 3), context_dim=64, num_head_channels=32, norm_groups=8
)
HINT_WIDTHS = (8, 16, 32, 64)
AUTOENCODER = AutoencoderConfig(width=64, blocks=2)
TEXT = WordEncoderConfig(vocabulary=tuple(VOCABULARY))
PLANS = {
    "autoencoder": Plan(steps=2400, batch=4, rate=1e-3, seed=1),
    "base": Plan(steps=3000, batch=16, rate=6e-4, seed=2),
    "pose": Plan(steps=1000, batch=16, rate=6e-4, seed=3),
    "depth": Plan(steps=800, batch=16, rate=6e-4, seed=4),
    "canny": Plan(steps=800, batch=16, rate=6e-4, seed=5),
}


def save(module: nn.Module, path: Path, config: dict, **metadata: str) -> None:
    """Write a module's weights in half precision, with its configuration as JSON in the metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.half().contiguous() for key, value in module.state_dict().items()}
    part = path.with_suffix(".part")
    save_file(tensors, part, {"cnet.config": json.dumps(config), **metadata})
    part.replace(path)


def read(path: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """(metadata, fp32 state dict) of a file that `save` wrote."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    return metadata, {key: value.float() for key, value in load_file(path).items()}


def frozen(module: nn.Module) -> nn.Module:
    return module.eval().requires_grad_(False).to(memory_format=torch.channels_last)


class Maker:
    """The stages, writing weights below `weights` and resumable states below `states`."""

    def __init__(self, weights: Path, states: Path):
        self.weights, self.states = weights, states
        states.mkdir(parents=True, exist_ok=True)

    def autoencoder(self) -> None:
        plan = PLANS["autoencoder"]
        torch.manual_seed(plan.seed)
        net = TinyAutoencoder(AUTOENCODER).to(memory_format=torch.channels_last)
        train(
            "autoencoder",
            {"autoencoder": net},
            plan,
            lambda start: batches(Scenes(plan.batch, start)),
            autoencoder_loss(net),
            self.states / "autoencoder.pt",
        )
        with torch.no_grad():
            images = to_images(next(batches(Scenes(64, 0)))["images"]) * 2 - 1
            latents = net.encode(images)
        print("latent std per channel", latents.std(dim=(0, 2, 3)).tolist(), "mean", latents.mean(dim=(0, 2, 3)).tolist())
        save(
            net,
            self.weights / "autoencoder.safetensors",
            dataclasses.asdict(AUTOENCODER),
            **{"cnet.latent_scale": f"{1 / float(latents.std()):.4f}"},
        )

    def load_autoencoder(self) -> tuple[TinyAutoencoder, float]:
        metadata, tensors = read(self.weights / "autoencoder.safetensors")
        net = TinyAutoencoder(AUTOENCODER)
        net.load_state_dict(tensors)
        return frozen(net), float(metadata["cnet.latent_scale"])

    def base(self) -> None:
        plan = PLANS["base"]
        autoencoder, scale = self.load_autoencoder()
        torch.manual_seed(plan.seed)
        unet, text = UNet(CONFIG), WordEncoder(TEXT)
        # As in LDM, the last convolution and each block's last one start at zero.
        for name, parameter in unet.named_parameters():
            if name.startswith("out.2.") or ".out_layers.3." in name or ".proj_out." in name:
                nn.init.zeros_(parameter)
        unet.to(memory_format=torch.channels_last)
        train(
            "base",
            {"unet": unet, "text": text},
            plan,
            lambda start: batches(Scenes(plan.batch, start)),
            diffusion_loss(unet, text, autoencoder, scale, drop=0.1),
            self.states / "base.pt",
        )
        save(text, self.weights / "text_encoder.safetensors", dataclasses.asdict(TEXT))
        save(
            unet,
            self.weights / "unet.safetensors",
            dataclasses.asdict(CONFIG),
            **{"cnet.prediction": "v", "cnet.latent_scale": str(scale)},
        )

    def load_base(self) -> tuple[UNet, WordEncoder]:
        unet, text = UNet(CONFIG), WordEncoder(TEXT)
        unet.load_state_dict(read(self.weights / "unet.safetensors")[1])
        text.load_state_dict(read(self.weights / "text_encoder.safetensors")[1])
        return frozen(unet), text.eval().requires_grad_(False)

    def control(self, kind: str) -> None:
        plan = PLANS[kind]
        autoencoder, scale = self.load_autoencoder()
        unet, text = self.load_base()
        torch.manual_seed(plan.seed)
        net = ControlNet.from_unet(unet, hint_widths=HINT_WIDTHS).to(memory_format=torch.channels_last)
        train(
            kind,
            {"control": net},
            plan,
            lambda start: batches(Scenes(plan.batch, start, hint=kind)),
            diffusion_loss(unet, text, autoencoder, scale, drop=0.5, control=net),
            self.states / f"{kind}.pt",
            decay=0.99,
        )
        save(net, self.control_file(kind), dataclasses.asdict(CONFIG), **{"cnet.kind": kind})

    def control_file(self, kind: str) -> Path:
        return self.weights / "controlnet" / f"cnet_mini_{kind}.safetensors"

    def run(self, stage: str) -> None:
        """Run one stage unless its file is there."""
        if stage in HINTS:
            done, make = self.control_file(stage), lambda: self.control(stage)
        else:
            done = self.weights / {"autoencoder": "autoencoder", "base": "unet"}[stage]
            done, make = done.with_suffix(".safetensors"), getattr(self, stage)
        if done.exists():
            print(f"{stage}: {done} is there")
        else:
            make()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the mini checkpoints from seeds.")
    parser.add_argument("--out", type=Path, default=HERE / "weights", help="folder of the weights")
    parser.add_argument("--states", type=Path, default=HERE / "cache", help="folder of the resumable states")
    parser.add_argument("--threads", type=int, help="torch's threads (default: its own choice)")
    parser.add_argument("stages", nargs="*", default=[], help=f"of {', '.join(PLANS)}; default: all, in this order")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    maker = Maker(args.out, args.states)
    for stage in args.stages or PLANS:
        if stage not in PLANS:
            parser.error(f"unknown stage {stage!r}: choose from {', '.join(PLANS)}")
        maker.run(stage)


if __name__ == "__main__":
    main()

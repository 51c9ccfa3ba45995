"""What one optimizer step of training costs: ours, one as diffusers' script does it, and the bare UNet's.

    python -m benchmarks.training --threads 1 --clock cpu       # needs 17 GB of memory
    python -m benchmarks.training --base tiny                   # the same in little, to see that it works
    python -m benchmarks.training --device cuda --size 512 --precision bf16      # on a GPU

All have the same random weights, tensor for tensor, and learning rate 0, so that these stay as they are; the
arithmetic is that of any other rate. All take turns in each round.
"""

import argparse
import importlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from cnet_core.checkpoints.convert import to_diffusers
from cnet_core.networks.config import UNetConfig
from cnet_core.networks.controlnet import HINT_WIDTHS
from cnet_core.networks.unet import UNet
from cnet_core.training.cache import Preparation, build
from cnet_core.training.config import Settings
from cnet_core.training.data import from_batch
from cnet_core.training.diffusion import noised
from cnet_core.training.learner import Learner
from cnet_core.training.optimizer import make_optimizer
from cnet_core.training.source import CachedSource
from cnet_core.training.start import trainable
from cnet_core.training.step import PRECISIONS, draw, losses, moved

from .__main__ import check_clock, pixels, positive
from .measure import CLOCKS, available_bytes, machine, peak_bytes, rotated, say
from .report import markdown, spread
from .weights import BASES, JOINS, TOKENS, random_state
from .with_diffusers import give, sizes

# Its classes do not say all that they can.
diffusers: Any = importlib.import_module("diffusers")

SCALE = 0.18215
WORDS = 49408
KEPT = ("base", "size", "batch", "rounds", "clock", "device", "precision")
# The weights of all in fp32, with the bare UNet's gradients and moments, and what a step takes.
NEEDED = 17e9
NOTES = """\
Seconds of one optimizer step ({clock} clock), batch {batch}, {size} x {size}, {precision} on {device}:
medians over {rounds} rounds. Ratios are of the same round: median (lowest to highest); below 1 ours is
faster or smaller. Memory: weights, optimizer and encoders, and the most that torch's allocator gave out
beyond them."""


class Encoders:
    """SD1.5's VAE and CLIP text encoder with random weights: for the cache once, for the script at each step.

    whole: at their full size. device, dtype: where and as what they are.
    """

    latent_id = text_id = "random"
    latent_scale: float | None = SCALE

    def __init__(self, config: UNetConfig, whole: bool, device: str, dtype: torch.dtype):
        self.device, self.dtype = device, dtype
        widths = (128, 256, 512, 512) if whole else (32, 32, 32, 32)
        self.vae = diffusers.AutoencoderKL(
            block_out_channels=widths,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=config.in_channels,
        )
        # What the script never runs.
        self.vae.decoder = None
        self.vae.to(device, dtype).requires_grad_(False)
        width = config.context_dim
        self.clip = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=WORDS,
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=12 if whole else 2,
                num_attention_heads=width // 64,
            )
        )
        self.clip.requires_grad_(False)
        nn.Module.to(self.clip, device, dtype)

    def latent(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        picture = image.movedim(-1, 0)[None].to(self.device, self.dtype)
        drawn = self.vae.encode(picture * 2 - 1).latent_dist
        return drawn.mean[0].float().cpu(), drawn.std[0].float().cpu()

    def text(self, caption: str) -> tuple[Tensor, Tensor | None]:
        return self.clip(tokens([caption]).to(self.device))[0][0].float().cpu(), None


def tokens(captions: Sequence[str]) -> Tensor:
    """Made-up words [B,TOKENS], as many as CLIP reads of any caption."""
    rows = [torch.Generator().manual_seed(len(caption)) for caption in captions]
    return torch.stack([torch.randint(0, WORDS, (TOKENS,), generator=row) for row in rows])


class Step:
    """One way to train. held: what stays in memory between its steps, beside its optimizer's state."""

    optimizer: torch.optim.Optimizer
    held: list[nn.Module]

    def __call__(self) -> Tensor:
        """One optimizer step; its loss."""
        raise NotImplementedError

    @contextmanager
    def filled(self) -> Iterator[int]:
        """With the optimizer's state as after many steps, which is then freed; the bytes that are held."""
        for group in self.optimizer.param_groups:
            place = group["params"][0].device if group["fused"] else "cpu"
            for p in group["params"]:
                moments = {name: torch.full_like(p, 1e-8) for name in ("exp_avg", "exp_avg_sq")}
                self.optimizer.state[p] = {"step": torch.tensor(100.0, device=place), **moments}
        state = [t for own in self.optimizer.state.values() for t in own.values()]
        try:
            yield bytes_held([*state, *(t for net in self.held for t in net.state_dict().values())])
        finally:
            self.optimizer.state.clear()


class Ours(Step):
    """What `fit` does: from the cache, the frozen encoder without a graph, the fused optimizer."""

    def __init__(self, learner: Learner, source: CachedSource):
        self.learner, self.source, self.optimizer = learner, source, learner.optimizer
        self.held = [learner.base, learner.net]

    def __call__(self) -> Tensor:
        return self.learner.advance(self.source)[0]


class Script(Step):
    """The calls of diffusers' train_controlnet.py: encoders at each step, torch's AdamW by its defaults.

    In bf16 all that is frozen is bf16, and the ControlNet keeps fp32 weights under autocast, as there.
    """

    def __init__(self, ours: Learner, encoders: Encoders, batch: dict[str, Tensor], settings: Settings):
        config = ours.base.config
        with torch.device("meta"):
            self.unet = diffusers.UNet2DConditionModel(**sizes(config, up=True))
            self.net = diffusers.ControlNetModel(
                **sizes(config), conditioning_embedding_out_channels=HINT_WIDTHS
            )
        give(self.unet, to_diffusers(ours.base.state_dict(), config))
        give(self.net, to_diffusers(ours.net.state_dict(), config, len(HINT_WIDTHS)))
        self.net.train().requires_grad_(True)
        self.device, self.dtype = encoders.device, encoders.dtype
        self.encoders, self.batch, self.settings = encoders, batch, settings
        self.scheduler = diffusers.DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
        )
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=settings.rate)
        self.held = [self.unet, self.net, encoders.vae, encoders.clip]

    def __call__(self) -> Tensor:
        pictures = self.batch["pictures"].to(self.device, self.dtype)
        latents = self.encoders.vae.encode(pictures).latent_dist.sample() * SCALE
        timesteps = torch.randint(0, 1000, (len(latents),), device=self.device)
        loss = self.loss(latents, torch.randn_like(latents), timesteps)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), self.settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def loss(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        x = self.scheduler.add_noise(latents, noise, timesteps)
        context = self.encoders.clip(self.batch["tokens"].to(self.device), return_dict=False)[0]
        hints = self.batch["hints"].to(self.device, self.dtype)
        with autocast(self.device, self.dtype):
            down, mid = self.net(x, timesteps, context, hints, return_dict=False)
        predicted = self.unet(
            x,
            timesteps,
            context,
            down_block_additional_residuals=[residual.to(self.dtype) for residual in down],
            mid_block_additional_residual=mid.to(self.dtype),
            return_dict=False,
        )[0]
        return F.mse_loss(predicted.float(), noise.float())


class Bare(Step):
    """Training the whole UNet without a ControlNet, from the same cache: what the paper compares with."""

    def __init__(self, base: UNet, source: CachedSource, settings: Settings):
        self.base, self.source, self.settings = base, source, settings
        self.weights = list(base.parameters())
        self.optimizer = make_optimizer(self.weights, settings)
        self.held = [base]
        self.device = next(base.parameters()).device

    def __call__(self) -> Tensor:
        self.base.requires_grad_(True)
        try:
            drawn = self.source.batch(0, self.settings.batch, self.settings.seed, self.settings.drop)
            batch = moved(drawn, self.device)
            noise, timesteps = draw(batch, torch.Generator().manual_seed(1))
            x = noised(batch.latents, noise, timesteps)
            with autocast(self.device.type, PRECISIONS[self.settings.precision]):
                predicted = self.base(x, timesteps, batch.context)
            loss = F.mse_loss(predicted.float(), noise)
            loss.backward()
            nn.utils.clip_grad_norm_(self.weights, self.settings.clip)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        finally:
            self.base.requires_grad_(False)
        return loss.detach()


def autocast(device: str, dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(device, dtype, enabled=dtype != torch.float32)


def bytes_held(tensors: Iterable[Tensor]) -> int:
    """Bytes of the different storages."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def prepare(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Step], float]:
    """The steps, and how far the script's loss is from ours on the same latents and noise."""
    config = BASES[options.base]
    generator = torch.Generator().manual_seed(0)
    settings = Settings(
        batch=options.batch, accumulation=1, rate=0.0, warm_up=0, drop=0.0, precision=options.precision
    )
    dtype = PRECISIONS[settings.precision]
    base = UNet(config, device="meta")
    give(base, random_state(base, generator))
    base.to(options.device)
    # What is trained has fp32 weights; what is frozen, those of the training's precision.
    whole = base
    if dtype != torch.float32:
        base = UNet(config, device="meta")
        give(base, {name: tensor.to(dtype) for name, tensor in whole.state_dict().items()})
    net = trainable(base, settings)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.startswith(JOINS) and parameter.ndim > 1:
                drawn = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(drawn * 0.1 * parameter[0].numel() ** -0.5)
    encoders = Encoders(config, options.base == "sd15", options.device, dtype)
    pictures, hints = torch.rand(2, options.batch, options.size, options.size, 3, generator=generator)
    captions = ["word " * (1 + i) for i in range(options.batch)]
    data = from_batch(pictures, hints, captions)
    source = CachedSource(build(data, encoders, folder, Preparation(options.size)), config)
    learner = Learner(base, net, settings)
    # In the order of the first batch, as ours reads it, and in the cache's eight bits.
    first = moved(source.batch(0, options.batch, settings.seed, 0.0), learner.processes.device)
    rows = [next(i for i, pair in enumerate(data.pairs) if pair.name == name) for name in first.names]
    shown = torch.stack([torch.from_numpy(data.pairs[i].picture()) for i in rows])
    batch = {
        "pictures": shown.movedim(-1, 1) / 127.5 - 1,
        "hints": first.hints.cpu() / 255,
        "tokens": tokens([data.pairs[i].caption for i in rows]),
    }
    ours, script = Ours(learner, source), Script(learner, encoders, batch, settings)
    noise, timesteps = draw(first, torch.Generator().manual_seed(5))
    with torch.no_grad():
        theirs = script.loss(first.latents.to(dtype), noise.to(dtype), timesteps)
        mine = losses(base, learner.trainee, first, noise, timesteps, settings.objective).mean()
    difference = abs(float(mine - theirs)) / float(theirs)
    return {"ours": ours, "diffusers": script, "bare UNet": Bare(whole, source, settings)}, difference


def figures(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="cnet-benchmark-", ignore_cleanup_errors=True) as folder:
        steps, difference = prepare(options, Path(folder))
        say(f"difference of the losses on the same latents and noise: {difference:.1e}")
        memory: dict[str, dict[str, int]] = {}
        for name, step in steps.items():
            step()
            with step.filled() as held:
                memory[name] = {"held": held, "step": peak_bytes(step)}
            say(f"memory, {name}: {sum(memory[name].values()) / 1e9:.2f} GB")
        clock = CLOCKS[options.clock]
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for round_ in range(options.rounds):
            for name in rotated(list(steps), round_):
                with steps[name].filled():
                    seconds[name].append(timed(steps[name], clock))
                say(f"round {round_ + 1}, {name}: {seconds[name][-1]:.3f} s")
    totals = {name: sum(own.values()) for name, own in memory.items()}
    others = [name for name in seconds if name != "ours"]
    return {
        "machine": machine({"comfyui": None, "device": options.device}),
        "settings": {name: getattr(options, name) for name in KEPT},
        "difference_of_losses": difference,
        "seconds": seconds,
        "memory_bytes": memory,
        "seconds_ratio": {
            name: spread([a / b for a, b in zip(seconds["ours"], seconds[name], strict=True)])
            for name in others
        },
        "memory_ratio": {name: totals["ours"] / totals[name] for name in others},
    }


def timed(step: Step, clock: Callable[[], float]) -> float:
    start = clock()
    step()
    return clock() - start


def table(report: dict[str, Any]) -> str:
    rows = []
    for name, seconds in report["seconds"].items():
        ratio, memory = report["seconds_ratio"].get(name), report["memory_bytes"][name]
        said = "" if ratio is None else f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"
        smaller = report["memory_ratio"].get(name)
        rows.append(
            [
                name,
                f"{median(seconds):.3f}",
                said,
                f"{sum(memory.values()) / 1e9:.2f}",
                "" if smaller is None else f"{smaller:.2f}",
            ]
        )
    head = ["step", "seconds", "ours / it, time", "memory in GB", "ours / it, memory"]
    # Reports from before it could be chosen do not name the precision.
    notes = NOTES.format(**{"precision": "fp32", **report["settings"]})
    return f"{notes}\n\n{markdown(head, rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    add = parser.add_argument
    add("--base", choices=["sd15", "tiny"], default="sd15", help="size of the networks (default: sd15)")
    add("--size", type=pixels, default=64, help="side of the pictures in pixels (default: 64)")
    add("--batch", type=positive, default=4, help="pictures of a step (default: 4, as in the script)")
    add("--rounds", type=positive, default=3, help="times that everything is measured (default: 3)")
    add("--device", choices=["cpu", "cuda"], default="cpu", help="default: cpu")
    add("--precision", choices=["fp32", "bf16"], default="fp32", help="of the arithmetic (default: fp32)")
    add("--threads", type=positive, help="threads of torch (default: its own choice)")
    add("--clock", choices=list(CLOCKS), default="wall", help="cpu: the process's own time")
    add("--json", type=Path, metavar="FILE", help="write the figures here")
    options = parser.parse_args()
    check_clock(parser, options)
    if options.threads:
        torch.set_num_threads(options.threads)
    free = available_bytes()
    if options.base == "sd15" and options.device == "cpu" and free is not None and free < NEEDED:
        sys.exit(f"Not enough memory: {free / 1e9:.1f} GB available, needs {NEEDED / 1e9:.0f}.")
    report = figures(options)
    print(table(report))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

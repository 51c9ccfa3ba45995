"""The shell's `fit`, `resume` and `export`."""

import argparse
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch

from ..checkpoints import base_name, load_unet, read_state_dict
from ..errors import TrainingError
from ..networks.config import SD21, UNetConfig
from .cache import Cache
from .config import Settings
from .encoders import MiniEncoders
from .export import Format, result_metadata, save_result
from .learner import Learner
from .loop import CURVES, HISTORY, STATES, check_identity, check_owned, fit, identity, with_start_of
from .plan import PLAN, Plan, add_flags, add_paths
from .presets import estimate, preset
from .probes import Prober
from .processes import Processes, processes
from .progress import Progress, Stopping, TensorBoard
from .source import CachedSource
from .start import trainable
from .state import States
from .step import PRECISIONS

# By the width of the text: of SD1.5, SD2.x and SDXL, where a cache from ComfyUI does not say it.
_LATENT_SCALES = {768: 0.18215, 1024: 0.18215, 2048: 0.13025}

_FIT = """\
Train a ControlNet on a cache. Everything may be said by flags, in a TOML file (--config), or both:

  cache = "pose-cache"
  base = "v1-5-pruned.safetensors"
  out = "runs/pose"
  steps = 5000
  memory = 12

The defaults suit some thousands of pairs. The loss of a diffusion model hardly falls while a ControlNet
learns, so judge it by its probes and their fidelity. The shell draws probes with the mini model only
(--encoders, --probe-every). For Stable Diffusion, try in ComfyUI what `export` writes, or train there: the
node Train ControlNet draws probes with the model's own VAE.

Ctrl-C writes a state and stops; `resume` goes on from it exactly. On several GPUs:
accelerate launch -m cnet_core.training fit ...
There, Ctrl-C leaves half a minute for the step and the state; after that the launcher kills.
"""
_RESUME = f"""\
Go on with a training from its newest state, to the same weights as if it had never stopped. All that it was
told is in its {PLAN}. Flags may change what the result does not depend on: --steps at a constant rate,
reports, probes, and where files have moved to. Anything else is refused.
"""
_EXPORT = """\
Write the network of a training's newest state as a file to use: before its end too, or in another format.
"""


def add_fit_commands(commands: Any) -> None:
    """Add `fit`, `resume` and `export` to an argparse subparsers object; `run` of each is the exit status."""
    begin = _command(commands, "fit", "train a ControlNet", _FIT)
    begin.add_argument("--config", type=Path, metavar="TOML", help="a file with any of what follows")
    add_flags(begin, lasting=False)
    begin.usage = "%(prog)s [--config TOML] [flags]"
    begin.set_defaults(run=lambda flags: _fit(Plan.told(flags), resume=False))
    again = _command(commands, "resume", "go on with a training that was stopped or killed", _RESUME)
    again.add_argument("out", type=Path, metavar="FOLDER", help="the training's folder, --out of fit")
    add_flags(again, lasting=True)
    again.usage = "%(prog)s FOLDER [flags]"
    again.set_defaults(run=lambda flags: _fit(Plan.remembered(flags.out, flags), resume=True))
    export = _command(commands, "export", "write a training's network as a file to use", _EXPORT)
    export.add_argument("out", type=Path, metavar="FOLDER", help="the training's folder, --out of fit")
    export.add_argument(
        "--to", type=Path, metavar="PATH", help="the file, or for diffusers the folder (default: in FOLDER)"
    )
    export.add_argument(
        "--format",
        choices=get_args(Format),
        default="ldm",
        help="ldm: one .safetensors for ComfyUI and others; diffusers: a folder for from_pretrained "
        "(default: %(default)s)",
    )
    export.add_argument(
        "--dtype", choices=tuple(PRECISIONS), default="fp16", help="of the weights (default: %(default)s)"
    )
    # What was moved since.
    add_paths(export, "cache", "base", "init")
    export.set_defaults(run=_export)


def _command(commands: Any, name: str, help: str, description: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=help, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    return parser


@dataclass(frozen=True, eq=False)
class _Ready:
    """A training that may begin."""

    learner: Learner
    source: CachedSource
    settings: Settings


def _ready(plan: Plan, group: Processes, steps: bool = True) -> _Ready:
    """steps: whether any will be made; otherwise no optimizer need be there."""
    cuda = group.device.type == "cuda"
    suggested = {"precision": "bf16" if cuda else "fp32"}
    if told := _stated_prediction(plan.base):
        suggested["prediction"] = told
    settings = plan.settled(suggested)
    base = load_unet(plan.base, PRECISIONS[settings.precision])
    if base.config.context_dim == SD21.context_dim and not told and "prediction" not in plan.settings:
        raise TrainingError(
            f"{plan.base} is an SD2.x model and does not say what it predicts. Say it: --prediction v for "
            "768-v checkpoints (SD2.0 and SD2.1 at 768), --prediction eps for base ones (at 512)."
        )
    cache = Cache(plan.cache)
    scale = cache.manifest.latent_scale or _LATENT_SCALES.get(base.config.context_dim)
    if plan.memory is not None:
        settings = _with_preset(plan, settings, base.config, cache, cuda)
    base = base.to(group.device)
    chosen = settings if steps else replace(settings, optimizer="adamw")
    if plan.init is not None and not plan.init.exists():
        raise TrainingError(
            f"{plan.init}, the initial ControlNet, is not there. Say by --init where it lies; to go on with "
            "a training or export it, another one of its kind and sizes serves as well."
        )
    net = trainable(base, settings, plan.init)
    source = CachedSource(cache, base.config, scale, net.hint_channels)
    learner = Learner(base, net, chosen, group)
    learner.settings = settings
    return _Ready(learner, source, settings)


# Tensors by which files of SDXL say so: what they predict, and that their noise is not Stable Diffusion's.
_SAYS_V = "v_pred"
_OTHER_NOISE = ("ztsnr", "edm_mean", "edm_vpred.sigma_max")


def _stated_prediction(base: Path) -> str | None:
    """What a base's file says that it predicts. Raises TrainingError for another noise than is trained on."""
    file = read_state_dict(base)
    other = [name for name in _OTHER_NOISE if name in file.tensors]
    if other:
        raise TrainingError(
            f"{base} has another noise schedule than Stable Diffusion (it holds {other[0]}), for which "
            "ControlNets are not trained here. Train on a base without."
        )
    return file.metadata.get("cnet.prediction") or ("v" if _SAYS_V in file.tensors else None)


def _with_preset(plan: Plan, settings: Settings, config: UNetConfig, cache: Cache, cuda: bool) -> Settings:
    """What a card's memory allows, and what was said; says what it takes."""
    if not cuda:
        built = "" if torch.version.cuda or torch.version.hip else ", for this torch was built without CUDA"
        raise TrainingError(
            f"memory says how large the graphics card is, but torch sees none{built}; leave it out, or "
            "install a torch that sees it."
        )
    size, tokens = cache.manifest.largest, cache.tokens
    settings = plan.settled(asdict(preset(f"{plan.memory} GB", config, settings, *size, tokens=tokens)))
    print(f"memory: {estimate(config, settings, *size, tokens=tokens)}", file=sys.stderr)
    return settings


def _fit(plan: Plan, resume: bool) -> int:
    result = f"{plan.out.resolve().name}.safetensors"
    if not resume:
        check_owned(plan.out, PLAN, CURVES, HISTORY, result)
    group = processes(plan.device)
    ready = _ready(plan, group)
    learner, settings, prober = ready.learner, ready.settings, _prober(plan, ready)
    states = States(plan.out / STATES, settings.keep)
    first = group.first
    begun = _newest_step(states) if resume else 0
    log = TensorBoard(plan.out / "tensorboard", begun) if plan.tensorboard and first else None
    progress = Progress(plan.out, log)
    if first:
        progress.say(
            f"training a {'Control-LoRA' if settings.rank else 'ControlNet'} for "
            f"{base_name(learner.base.config)} on {len(ready.source)} pairs, "
            f"{settings.batch * settings.accumulation * group.count} a step, in {settings.precision} on "
            f"{group.device}"
        )
        if settings.probe_every and prober is None:
            progress.say(
                "no probes are drawn: without --encoders nothing makes pictures of latents, and the shell "
                "reads the mini model's only. For Stable Diffusion, try in ComfyUI what `export` writes."
            )
    with Stopping() as stopping:
        try:
            done = fit(
                learner,
                ready.source,
                plan.out,
                resume,
                progress,
                stopping,
                prober,
                progress.say,
                # What was told is kept at once, for whoever resumes what is killed.
                begun=lambda: plan.remember(settings),
                # Its file may have gone on meanwhile, as the result of another training.
                start_counts=False,
            )
        finally:
            progress.close()
    status = 0 if done else 128 + (stopping.signal or 0)
    if not first:
        return status
    if not done:
        print(
            f'stopped after step {learner.step}. Go on with: python -m cnet_core.training resume "{plan.out}"'
        )
        return status
    path = plan.out / result
    save_result(learner.net, learner.result(), path, result_metadata(learner, ready.source))
    print(f"{path}: done after {learner.step} steps. In ComfyUI it belongs into models/controlnet.")
    return status


def _newest_step(states: States) -> int:
    """0 without a state. Whoever kept the state itself would keep its file mapped, and on the disk."""
    state = states.newest()[0]
    return 0 if state is None else state.step


def _prober(plan: Plan, ready: _Ready) -> Prober | None:
    """None if no probes are asked for, or nothing is there to draw them. Raises TrainingError."""
    if plan.encoders is None or not ready.settings.probe_every:
        return None
    encoders = MiniEncoders(plan.encoders)
    if encoders.latent_id != ready.source.cache.manifest.latent_id:
        raise TrainingError(
            f"the latents of {ready.source.cache.folder} are not of the autoencoder in {plan.encoders}; "
            "it would make wrong pictures of them. Give as --encoders what they were cached with, or leave "
            "it out: then no probes are drawn."
        )
    return Prober(ready.learner.base, ready.source, ready.settings, encoders.decode)


def _export(flags: argparse.Namespace) -> int:
    plan = Plan.remembered(flags.out, flags)
    ready = _ready(plan, Processes(), steps=False)
    state, problems = States(flags.out / STATES, ready.settings.keep).newest()
    for problem in problems:
        print(problem, file=sys.stderr)
    if state is None:
        raise TrainingError(f"{flags.out} holds no state of a training yet.")
    # By however many processes.
    count = state.facts["identity"].get("processes")
    current = with_start_of(state, identity(ready.learner, ready.source), ready.learner)
    check_identity(state, {**current, "processes": count})
    ready.learner.restore(state)
    name = flags.out.resolve().name
    path = flags.to or flags.out / (f"{name}.safetensors" if flags.format == "ldm" else f"{name}-diffusers")
    metadata = result_metadata(ready.learner, ready.source)
    save_result(
        ready.learner.net, ready.learner.result(), path, metadata, flags.format, PRECISIONS[flags.dtype]
    )
    print(f"{path}: the network after {state.step} steps")
    return 0

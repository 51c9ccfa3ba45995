"""Train ControlNets, and save them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..cnet_core.checkpoints import read_state_dict
from ..cnet_core.errors import ControlError, TrainingError
from ..cnet_core.networks.controlnet import ControlNet
from ..cnet_core.training.cache import Cache
from ..cnet_core.training.curves import History, curves
from ..cnet_core.training.export import result_metadata, save_result
from ..cnet_core.training.learner import Learner
from ..cnet_core.training.loop import PROBES, STATES, fit
from ..cnet_core.training.probes import Prober
from ..cnet_core.training.processes import Processes
from ..cnet_core.training.shards import checksum
from ..cnet_core.training.source import CachedSource
from ..cnet_core.training.start import trainable
from ..cnet_core.training.state import States
from ..cnet_core.training.step import PRECISIONS, Precision
from . import host
from .train_data import CacheType
from .train_settings import memory_input, rare_inputs, sentence, settings_of, stated

_RESULTS = host.Written()


def _seed_input(tooltip: str, **rest: bool) -> io.Input:
    # Else the frontend draws another one after each run, which would be another training.
    fixed = {"control_after_generate": False}
    return io.Int.Input("seed", default=0, min=0, max=2**63 - 1, tooltip=tooltip, **fixed, **rest)


class ControlNetFromModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetControlNetFromModel",
            display_name="ControlNet From Model (CNet)",
            category="cnet/train",
            description=(
                "A new ControlNet to train: a copy of the model's encoder, joined by zero convolutions, so "
                "that it says nothing until it has learnt something."
            ),
            search_aliases=["new controlnet", "create controlnet", "train controlnet", "zero convolution"],
            inputs=[
                io.Model.Input("model", tooltip="SD1.5, SD2.x or SDXL, with its LoRAs. It is not changed."),
                _seed_input(
                    "Draws the weights of the hint encoder, which the model has no copy of.",
                    optional=True,
                    advanced=True,
                ),
            ],
            outputs=[
                io.ControlNet.Output(
                    display_name="control_net", tooltip="For Train ControlNet. Applied, it changes nothing."
                )
            ],
        )

    @classmethod
    def execute(cls, model: Any, seed: int = 0) -> io.NodeOutput:
        return io.NodeOutput(host.new_control(model, seed))


class TrainControlNet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetTrain",
            display_name="Train ControlNet (CNet)",
            category="cnet/train",
            description=(
                "Train a ControlNet on cached data. Shows the loss and pictures drawn with it while it "
                "runs; cancelled, it keeps what it has learnt, and goes on from there when it is run again. "
                "The model is not changed."
            ),
            search_aliases=["controlnet training", "fine-tune controlnet", "finetune", "fit"],
            is_output_node=True,
            has_intermediate_output=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input("model", tooltip="The model to train for, with its LoRAs. It is not changed."),
                io.ControlNet.Input(
                    "control_net",
                    tooltip="From ControlNet From Model; or a ControlNet, union or not, to train further.",
                ),
                CacheType.Input("cache", tooltip="From Cache Training Data, with this model's VAE and CLIP."),
                memory_input(),
                io.Int.Input("steps", default=3000, min=1, max=10**7, tooltip=sentence("steps")),
                io.Float.Input(
                    "learning_rate",
                    default=1e-5,
                    min=0.0,
                    max=1.0,
                    step=1e-7,
                    tooltip="How far each step goes: 1e-5 for a ControlNet, ten times as much for a rank.",
                ),
                _seed_input(sentence("seed")),
                io.String.Input(
                    "folder",
                    default="training/controlnet",
                    tooltip=(
                        "Where the training is kept, states to go on from included: a folder in ComfyUI's "
                        "output folder, one for each training."
                    ),
                ),
                io.Boolean.Input(
                    "resume",
                    default=True,
                    optional=True,
                    tooltip=(
                        "Go on with the training in the folder, if there is one, exactly as if it had never "
                        "ended. Off: a folder that holds one is an error."
                    ),
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="The model's VAE, to show pictures while it trains; without it none are drawn.",
                ),
                *rare_inputs(),
            ],
            outputs=[
                io.ControlNet.Output(
                    display_name="control_net",
                    tooltip="The trained ControlNet, for Apply ControlNet and Save ControlNet.",
                ),
                io.LossMap.Output(
                    display_name="loss_map", tooltip="The loss of each step, for ComfyUI's loss graph."
                ),
                io.Image.Output(display_name="curves", tooltip="Loss and fidelity over the steps, as shown."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str, **inputs) -> int:
        """Give the network again, from the last state or anew, whose file was removed or changed."""
        return _RESULTS.fingerprint(folder)

    @classmethod
    def execute(
        cls,
        model: Any,
        control_net: Any,
        cache: Any,
        memory: dict,
        steps: int,
        learning_rate: float,
        seed: int,
        folder: str,
        resume: bool = True,
        vae: Any = None,
        **rare: Any,
    ) -> io.NodeOutput:
        place, net = host.output_folder(folder), _network(control_net)
        if not isinstance(cache, Cache):
            raise TrainingError(
                "cache is no cached training data; connect the output of Cache Training Data."
            )
        values = {**rare, "steps": steps, "rate": learning_rate, "seed": seed}
        # There is no id where a program calls the node itself.
        node = None if cls.hidden is None else str(cls.hidden.unique_id)
        progress = host.TrainingProgress(node, steps)
        with host.training_mode():
            said, path = _train(model, net, cache, memory, values, place, resume, vae, progress)
            history = _history(place)
        _RESULTS.note(place, [path])
        control = host.trained_control(path, f"{folder} ({path.stem})", model)
        chart = curves(history, folder)
        pictures = [chart[0], *_last_probes(place)]
        progress.end(pictures)
        shown = ui.PreviewImage(pictures).as_dict()
        return io.NodeOutput(
            control,
            {"loss": history.losses},
            chart,
            ui={**shown, **ui.PreviewText(f"{said}\n{path}").as_dict()},
        )


def _network(control_net: Any) -> ControlNet:
    net = control_net.network.net if isinstance(control_net, host.Control) else None
    if not isinstance(net, ControlNet) or net.latent_hint:
        what = "it was loaded by ComfyUI" if net is None else f"it is a {type(net).__name__}"
        raise ControlError(
            f"only ControlNets for SD1.5, SD2.x and SDXL are trained and saved here, and of this one {what}. "
            "Connect ControlNet From Model, or load a ControlNet by Load ControlNet (CNet)."
        )
    return net


def _train(
    model: Any,
    net: ControlNet,
    cache: Cache,
    memory: dict[str, Any],
    values: dict[str, Any],
    folder: Path,
    resume: bool,
    vae: Any,
    progress: host.TrainingProgress,
) -> tuple[str, Path]:
    """What was said before it began, and the file with the trained network."""
    config, device = host.training_config(model), model.load_device
    source = CachedSource(cache, config, host.latent_scale(model), net.hint_channels)
    size, tokens = cache.manifest.largest, cache.tokens
    settings, needed = settings_of(memory, config, size, net.hint_widths, tokens, device.type, **values)
    settings = replace(settings, prediction=host.prediction_of(model))
    said = stated(memory, settings, needed)
    progress.say(said)
    base = host.training_base(model, needed.total - needed.base)
    learner = Learner(base, trainable(base, settings, net), settings, Processes(device))
    prober = None if vae is None else Prober(base, source, settings, host.picture_decoder(model, vae))
    resume = resume and bool(States(folder / STATES, settings.keep).paths())

    def say(message: str) -> None:
        nonlocal said
        progress.say(message)
        said += f"\n{message}"

    fit(learner, source, folder, resume, progress, prober=prober, say=say)
    result = learner.result()
    # By its content, so that a file that is in use is never written over.
    path = folder / f"controlnet-{learner.step:08}-{checksum(result)[:8]}.safetensors"
    if not path.is_file():
        save_result(learner.net, result, path, result_metadata(learner, source), dtype=None)
    return said, path


def _history(folder: Path) -> History:
    state, _ = States(folder / STATES, 1).newest()
    return History() if state is None else History.of(state)


def _last_probes(folder: Path) -> list[Tensor]:
    """The pictures that were drawn last, [H,W,3], if there are any."""
    from PIL import Image

    paths = sorted((folder / PROBES).glob("step-*.png"))[-1:]
    return [torch.from_numpy(np.array(Image.open(path).convert("RGB"))).float().div(255.0) for path in paths]


class SaveControlNet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetSaveControlNet",
            display_name="Save ControlNet (CNet)",
            category="cnet/train",
            description=(
                "Save a trained ControlNet into models/controlnet, where every loader finds it, with a note "
                "of the model, data and settings that it was made with."
            ),
            search_aliases=["export controlnet", "save model", "write controlnet"],
            is_output_node=True,
            inputs=[
                io.ControlNet.Input("control_net", tooltip="From Train ControlNet."),
                io.String.Input(
                    "filename_prefix",
                    default="my_controlnet",
                    tooltip="How the file's name begins; a number follows. May hold folders.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="fp16",
                    optional=True,
                    tooltip="Of the weights: fp32 is as they were trained, and twice as large.",
                ),
                io.Combo.Input(
                    "format",
                    options=["ldm", "diffusers"],
                    default="ldm",
                    optional=True,
                    advanced=True,
                    tooltip="ldm: one file, for ComfyUI and others. diffusers: a folder for from_pretrained.",
                ),
            ],
            outputs=[],
        )

    @classmethod
    def execute(
        cls, control_net: Any, filename_prefix: str, precision: Precision = "fp16", format: Any = "ldm"
    ) -> io.NodeOutput:
        net, trained = _network(control_net), control_net.network.trained
        tensors, metadata = net.state_dict(), {}
        if trained is not None:
            file = read_state_dict(trained)
            # Low ranks too are saved as they were trained.
            tensors, metadata = dict(file.tensors), dict(file.metadata)
        path = host.new_controlnet(filename_prefix, ".safetensors" if format == "ldm" else "")
        save_result(net, tensors, path, metadata, format, PRECISIONS[precision])
        return io.NodeOutput(ui=ui.PreviewText(f"Saved as {path}"))

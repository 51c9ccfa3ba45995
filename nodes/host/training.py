"""Training in the host: the loaded base's weights as a UNet of ours, progress, and what comes out of it.

The host runs nodes under torch's inference mode, whose tensors know no gradients: everything here is called
inside `training_mode`, and takes the base's memory, not its tensors.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import torch
import torch.nn.functional as F
from server import PromptServer
from torch import Tensor

from ...cnet_core.checkpoints import check_base, open_control
from ...cnet_core.errors import BaseMismatchError
from ...cnet_core.networks.blocks import Attention, sdpa
from ...cnet_core.networks.config import SD21, UNetConfig
from ...cnet_core.networks.controlnet import ControlNet
from ...cnet_core.networks.unet import UNet
from ...cnet_core.training.diffusion import TIMESTEPS, Prediction, alpha_sigma
from ...cnet_core.training.loop import Report
from .control import Control
from .loading import load_native
from .models import (
    LoadedNetwork,
    attention_for,
    base_config,
    encoder_tensors,
    patched_tensors,
    place_of_work,
)

_PRECISIONS = (torch.float32, torch.bfloat16, torch.float16)
_PREFIX = "diffusion_model."
# Of the longer side of a preview in pixels; the files are whole.
_PREVIEW = 1024


@contextmanager
def training_mode() -> Iterator[None]:
    """Within, tensors know gradients, although the host runs nodes without them."""
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        comfy.model_management.soft_empty_cache()


def training_config(model: Any) -> UNetConfig:
    """All sizes of the UNet of a MODEL. Raises BaseMismatchError if no ControlNet is trained for it here."""
    config = base_config(model.model, "training")
    settings, unet = model.model.model_config.unet_config, model.model.diffusion_model
    if config.in_channels != 4:
        raise BaseMismatchError(
            f"the model reads {config.in_channels} latent channels, as those for inpainting do; ControlNets "
            "are trained for a plain SD1.5, SD2.x or SDXL model, and then work with such models too."
        )
    heads, channels = settings.get("num_heads", -1), settings.get("num_head_channels", -1)
    return replace(
        config,
        num_heads=heads if heads != -1 and channels == -1 else None,
        num_head_channels=channels if channels != -1 else None,
        norm_groups=unet.out[0].num_groups,
    )


def training_base(model: Any, memory: float = 0.0) -> UNet:
    """The UNet of a MODEL with its LoRAs, frozen, on the host's device: the host's memory, not a copy of it.

    Copied are only weights that a LoRA changes, and those that the host keeps elsewhere or in fewer bits
    than it computes in. memory: bytes that the training takes beside the base, for which the host makes
    room. Raises BaseMismatchError.
    """
    config = training_config(model)
    comfy.model_management.load_models_gpu([model], memory_required=memory, force_full_load=True)
    dtype = model.model.manual_cast_dtype or model.model.get_dtype()
    if dtype not in _PRECISIONS:
        dtype = torch.float32
    base = UNet(config, attention=_attention(config, dtype), dtype=dtype, device=torch.device("meta"))
    weights = {
        name.removeprefix(_PREFIX): _shared(weight, model.load_device, dtype)
        for name, weight in patched_tensors(model, _PREFIX).items()
    }
    try:
        base.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise BaseMismatchError(
            f"this model's UNet is a variant for which ControlNets are not trained here: {error}"
        ) from error
    return base.eval().requires_grad_(False)


def _shared(weight: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The same memory, as a tensor that knows gradients; a copy where device or precision are others."""
    if weight.device != device or weight.dtype != dtype:
        return weight.detach().to(device, dtype, copy=True)
    place = weight.untyped_storage(), weight.storage_offset(), weight.size(), weight.stride()
    return torch.empty(0, dtype=dtype, device=device).set_(*place)


def _attention(config: UNetConfig, dtype: torch.dtype) -> Attention:
    if config.context_dim != SD21.context_dim or dtype != torch.float16:
        return sdpa
    # SD2.x overflows in fp16.
    return lambda q, k, v, heads: sdpa(q.float(), k.float(), v.float(), heads).to(dtype)


def prediction_of(model: Any) -> Prediction:
    """What a MODEL predicts, of Stable Diffusion's noise. Raises BaseMismatchError for anything else."""
    sampling = model.get_model_object("model_sampling")
    alpha, sigma = alpha_sigma(torch.arange(TIMESTEPS))
    own = getattr(sampling, "sigmas", torch.empty(0)).detach().float().cpu()
    expected = (sigma / alpha).flatten()
    if own.shape != expected.shape or not torch.allclose(own, expected, rtol=1e-2):
        raise BaseMismatchError(
            "the model has another noise schedule than Stable Diffusion; connect it without nodes that "
            "change its sampling."
        )
    # Told by what it makes of an output, whatever its classes are called.
    level, x, said = (torch.full((1, 1, 1, 1), value) for value in (2.0, 3.0, 5.0))
    clean = float(sampling.calculate_denoised(level.flatten(), said, x))
    of_eps, of_v = 3.0 - 2.0 * 5.0, 3.0 / 5.0 - 2.0 * 5.0 / 5.0**0.5
    for prediction, value in (("eps", of_eps), ("v", of_v)):
        if abs(clean - value) < 1e-3:
            return prediction  # type: ignore[return-value]
    raise BaseMismatchError(
        "the model predicts neither the noise nor v; ControlNets are trained here for SD1.5, SD2.x and SDXL."
    )


def latent_scale(model: Any) -> float:
    """The factor from a VAE's latents to those of a MODEL's UNet. Raises BaseMismatchError if it is none."""
    latent_format = model.get_model_object("latent_format")
    zeros, ones = (
        latent_format.process_in(torch.full((1, 4, 1, 1), value)).flatten().tolist() for value in (0.0, 1.0)
    )
    if any(zeros) or len(set(ones)) > 1:
        raise BaseMismatchError("the model shifts its latents, for which ControlNets are not trained here.")
    return float(ones[0])


def new_control(model: Any, seed: int) -> Control:
    """A CONTROL_NET: a copy of the MODEL's encoder, with zero convolutions. Raises BaseMismatchError."""
    prediction_of(model)
    with training_mode():
        base = training_base(model)
        net = ControlNet.from_unet(base, generator=torch.Generator().manual_seed(seed))
        weights, work, operations = place_of_work(next(base.parameters()).dtype)
        housed = net.outline(operations, attention_for(net.config.context_dim), weights)
        offload = comfy.model_management.unet_offload_device()
        housed.load_state_dict(
            {name: tensor.to(offload, weights) for name, tensor in net.state_dict().items()}, assign=True
        )
    label, config = "the new ControlNet", net.config
    network = LoadedNetwork(
        housed.eval().requires_grad_(False), work, label, lambda base: check_base(config, base, label)
    )
    return Control(network)


def trained_control(path: Path, name: str, model: Any) -> Control:
    """The CONTROL_NET of a file that a training wrote; model: the MODEL that it was trained on."""
    file = open_control(path)
    control = load_native(file, name, encoder_tensors(model) if file.needs else None)
    control.network.trained = path
    return control


class TrainingProgress:
    """Shows on the node how a training goes: a bar, a line of text, and pictures when they were drawn.

    Ends the training when the user cancelled.
    """

    def __init__(self, node: str | None, steps: int):
        self.node, self.bar, self.previewed = node, comfy.utils.ProgressBar(steps), False

    def say(self, text: str) -> None:
        """One line on the node, and in the log."""
        logging.info(text)
        self.show(text)

    def show(self, text: str) -> None:
        # Without an id or a server nothing is shown.
        server = getattr(PromptServer, "instance", None)
        if server is not None and self.node is not None:
            # Names of files need not be Unicode, which the host's messages are.
            server.send_progress_text(text.encode("utf-8", "backslashreplace").decode(), self.node)

    def __call__(self, report: Report) -> None:
        preview = None
        if report.probe is not None:
            preview = ("JPEG", _image(report.probe.sheet()[0]), _PREVIEW)
            self.previewed = True
        if report.loss is not None:
            self.show(_line(report))
        # Before the bar, which may end the run as well, but shows nothing then.
        comfy.model_management.throw_exception_if_processing_interrupted()
        self.bar.update_absolute(report.step, report.steps, preview)

    def end(self, pictures: Sequence[Tensor]) -> None:
        """Show these pictures [H,W,3] in place of the last preview, before which browsers put none of those
        that a node returns."""
        if not self.previewed:
            return
        widest = max(picture.shape[1] for picture in pictures)
        padded = [F.pad(p, (0, 0, 0, widest - p.shape[1]), value=1.0) for p in pictures]
        total = self.bar.total
        self.bar.update_absolute(total, total, ("JPEG", _image(torch.cat(padded)), _PREVIEW))


def _line(report: Report) -> str:
    line = f"step {report.step} of {report.steps}, loss {report.loss:.4f}"
    if report.speed is None or report.left is None:
        return line
    left = f"{report.left / 60:.0f} min" if report.left >= 60 else f"{report.left:.0f} s"
    return f"{line}, {report.speed:.2g} steps/s, {left} left"


def _image(picture: Tensor) -> Any:
    from PIL import Image

    return Image.fromarray((picture.clamp(0, 1) * 255).round().byte().cpu().numpy())

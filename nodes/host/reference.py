"""Reference-only as a control: the host's UNet looks at a reference picture through its self-attention."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import comfy.ldm.modules.attention
import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ...cnet_core.control.hint import prepare_hint
from ...cnet_core.control.reference import Reading, Recording
from ...cnet_core.control.rows import constants, pick
from ...cnet_core.control.weighting import Weighting
from ...cnet_core.errors import ControlError, HintError
from ...cnet_core.networks.lllite import transformer_blocks
from ..answers import Parts
from .calls import AT_ONCE, Call
from .kept import encoded
from .models import base_config
from .steered import Steered

# What the plain model does not need: patches of other packs are made for the picture's rows and tokens, and
# wrappers count the steps of sampling.
_OF_THE_PICTURE = ("patches", "patches_replace", "wrappers", "callbacks")
# SDXL keeps the most, per pixel: keys and values of 70 self-attentions.
_VALUES_PER_PIXEL = 200


def _attention(q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any], rows: Sequence[int]) -> Tensor:
    return comfy.ldm.modules.attention.optimized_attention(
        q,
        k,
        v,
        extra_options["n_heads"],
        attn_precision=extra_options.get("attn_precision"),
        transformer_options=extra_options,
    )


class ReferenceControl(Steered):
    """A reference picture that the model looks at, with or without the picture.

    style_fidelity: 0..1, how far the negative prompt's side is kept from looking at it; at 1 that side does
    not, at no cost. What the reference's pass leaves lives in the options of one call and ends with it.
    Raises ControlError for a style fidelity out of range.
    """

    within = True

    def __init__(self, style_fidelity: float = 0.5):
        super().__init__()
        if not 0 <= style_fidelity <= 1:
            raise ControlError(f"style_fidelity is {style_fidelity}; expected 0 to 1.")
        self.style_fidelity = style_fidelity
        # Tells apply nodes to ask for a VAE.
        self.latent_format = True

    def copy(self) -> "ReferenceControl":
        other = ReferenceControl(self.style_fidelity)
        self.copy_to(other)
        return other

    def deepclone_multigpu(self, load_device: torch.device, autoregister: bool = False) -> "ReferenceControl":
        other = self.copy()
        if autoregister:
            self.multigpu_clones[load_device] = other
        return other

    def set_cond_hint(self, cond_hint: Tensor, *args: Any, **options: Any) -> "ReferenceControl":
        return super().set_cond_hint(prepare_hint(cond_hint, lowest=0.0), *args, **options)

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        super().pre_run(model, percent_to_timestep_function)
        config = base_config(model, "the reference control")
        if self.vae is None or self.hint is None:
            raise HintError(
                "the reference control needs its picture and a VAE to read it; connect both, the base "
                "model's VAE, to an Apply ControlNet node."
            )
        self.blocks = list(transformer_blocks(config))
        self.block_weights = self.weighting.blocks.of_unet(len(config.residual_channels) - 1)

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        """Bytes of the keys and values that a step keeps, for pictures of at most 1024x1024."""
        kept = 0
        if self.hint is not None:
            images, _, height, width = self.hint.shape
            sides = 1 if self.style_fidelity == 1 else 2
            kept = sides * min(images, AT_ONCE) * min(height * width, 1024**2) * _VALUES_PER_PIXEL
        size = comfy.model_management.dtype_size(dtype)
        return kept * size + int(super().inference_memory_requirements(dtype))

    @property
    def acting(self) -> Weighting:
        gain = self.weighting.uncond_gain * (1 - self.style_fidelity)
        return replace(self.weighting, uncond_gain=gain)

    def parts(self, call: Call, rows: list[float]) -> Parts | None:
        if any(rows):
            self._read(call, rows)
        return None

    def _read(self, call: Call, rows: list[float]) -> None:
        """Let the self-attentions of the call that is being answered read the reference."""
        latent, noise = self._reference(call)
        batch, count = call.batch, latent.shape[0]
        chunks = [c for c in range(call.chunks) if any(rows[c * batch : (c + 1) * batch])]
        images = sorted({call.frames[i % batch] % count for i, row in enumerate(rows) if row})
        recording = self._write(call, chunks, images, latent, noise)
        sources = [
            chunks.index(c) * len(images) + images.index(frame % count)
            if c in chunks and frame % count in images
            else 0
            for c in range(call.chunks)
            for frame in call.frames
        ]
        strengths = constants(rows, call.x.device, torch.float32)
        replaced = call.options.get("patches_replace", {})
        attentions = dict(replaced.get("attn1", {}))
        for place, (keys, values) in recording.kept.items():
            present = attentions.get(place, attentions.get(place[:2]))
            block = self.block_weights[place[:2]]
            # A self-attention that another pack replaced is left to it: it may be no attention any more.
            if block == 0 or not (present is None or isinstance(present, Reading)):
                continue
            attentions[place] = Reading(
                _attention if present is None else present.over,
                keys,
                values,
                sources,
                [row * block for row in rows],
                strengths * block,
                lambda q: self.mask_for(q, call),
            )
        # The dictionaries are shared with other calls: new ones take their places.
        call.options["patches_replace"] = {**replaced, "attn1": attentions}

    def _write(
        self, call: Call, chunks: list[int], images: list[int], latent: Tensor, noise: Tensor
    ) -> Recording:
        """The reference's own pass: each of its images once for each side, under the side's prompt.

        Where the prompt differs over a batch, that of the image's first latent counts.
        """
        assert self.run is not None
        frames = [frame % latent.shape[0] for frame in call.frames]
        asked = call.at_rows([c * call.batch + frames.index(i) for c in chunks for i in images], chunks)
        chosen = [i for _ in chunks for i in images]
        cond = {name: v for name, v in asked.cond.items() if name not in ("control", "transformer_options")}
        if "c_concat" in cond:
            cond["c_concat"] = _beside(pick(latent, chosen), cond["c_concat"])
        recording = Recording(_attention)
        options = {name: v for name, v in asked.options.items() if name not in _OF_THE_PICTURE}
        options["patches_replace"] = {"attn1": dict.fromkeys(self.blocks, recording)}
        x = self.run.sampling.noise_scaling(asked.t, pick(noise, chosen), pick(latent, chosen))
        self._model().apply_model(x, asked.t, **cond, transformer_options=options)
        return recording

    def _reference(self, call: Call) -> tuple[Tensor, Tensor]:
        """(latent, noise) of the reference images [R,C,H,W], at the picture's size, on its device."""
        assert self.run is not None
        sides = (call.x.shape[-2], call.x.shape[-1])
        key = sides, call.x.device, call.total
        if key not in self.run.features:
            latent = self._model().process_latent_in(self._encode(*sides, call.total)).to(call.x)
            if latent.shape[1:] != call.x.shape[1:]:
                raise HintError(
                    f"the VAE makes latents of shape {tuple(latent.shape[1:])}, and the model draws "
                    f"{tuple(call.x.shape[1:])}; connect the VAE of the base model."
                )
            # The same noise in every step, run and image, so that the reference holds still.
            noise = torch.randn(latent[:1].shape, generator=torch.Generator().manual_seed(0))
            self.run.features[key] = latent, noise.to(latent).expand_as(latent)
        latent, noise = self.run.features[key]
        return latent, noise

    def _model(self) -> Any:
        assert self.run is not None
        model = self.run.model()
        assert model is not None, "a control is only asked while its model runs"
        return model

    def _encode(self, height: int, width: int, count: int) -> Tensor:
        """The first pictures of the reference as latents, at most `count`: more are not read."""
        ratio = self.compression_ratio
        assert self.hint is not None
        image = self.hint[:count]
        method = "area" if image.shape[-2] > height * ratio else "bicubic"
        image = comfy.utils.common_upscale(image, width * ratio, height * ratio, method, "center")
        return encoded(self.vae, image.clamp(0, 1).movedim(1, -1))


def _beside(latent: Tensor, concat: Tensor) -> Tensor:
    """What an inpainting model reads beside the reference: nothing masked, and the reference itself."""
    masks = concat.shape[1] - latent.shape[1]
    if masks < 0:
        return torch.zeros_like(concat)
    return torch.cat([latent.new_zeros(latent.shape[0], masks, *latent.shape[2:]), latent], dim=1)

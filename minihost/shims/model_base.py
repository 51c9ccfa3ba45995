"""`comfy.model_base`: the diffusion model around the UNet, which is cnet_core's under the host's names."""

from __future__ import annotations

from enum import Enum
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from cnet_core.networks.config import UNetConfig
from cnet_core.networks.unet import UNet

from . import latent_formats, model_sampling, ops, patcher_extension, patches


class ModelType(Enum):
    """What the network predicts; numbered as in the host."""

    EPS = 1
    V_PREDICTION = 2


def _levels(per_block: list[int], num_res_blocks: list[int], extra: int, what: str) -> tuple[int, ...]:
    """One entry per level from one per block: cnet_core's UNet has one depth for all blocks of a level."""
    counts = [count + extra for count in num_res_blocks]
    if len(per_block) != sum(counts):
        raise ValueError(
            f"{what} needs {sum(counts)} entries for blocks {num_res_blocks}, got {list(per_block)}"
        )
    blocks = iter(per_block)
    found = [{next(blocks) for _ in range(count)} for count in counts]
    if any(len(depths) > 1 for depths in found):
        raise ValueError(f"minihost needs one {what} for all blocks of a level, got {list(per_block)}")
    return tuple(depths.pop() for depths in found)


def unet_config(settings: dict[str, Any]) -> UNetConfig:
    """The host's UNet arguments as cnet_core's configuration.

    num_res_blocks: per level; transformer_depth: per residual block of the encoder; transformer_depth_output:
    per block of the decoder. Raises ValueError where the host could build something that minihost cannot.
    """
    blocks = list(settings["num_res_blocks"])
    depth = _levels(list(settings["transformer_depth"]), blocks, 0, "transformer_depth")
    if settings.get("transformer_depth_output") is not None:
        out = _levels(list(settings["transformer_depth_output"]), blocks, 1, "transformer_depth_output")
        if out != depth:
            raise ValueError(
                f"minihost needs the decoder's transformer depths {out} to be the encoder's {depth}"
            )
    heads, head_channels = settings.get("num_heads", -1), settings.get("num_head_channels", -1)
    middle = settings.get("transformer_depth_middle")
    return UNetConfig(
        model_channels=settings["model_channels"],
        channel_mult=tuple(settings["channel_mult"]),
        num_res_blocks=tuple(blocks),
        transformer_depth=depth,
        transformer_depth_middle=depth[-1] if middle is None else middle,
        context_dim=settings["context_dim"],
        num_heads=heads if heads != -1 and head_channels == -1 else None,
        num_head_channels=head_channels if head_channels != -1 else None,
        use_linear_in_transformer=settings.get("use_linear_in_transformer", False),
        adm_in_channels=settings.get("adm_in_channels"),
        in_channels=settings["in_channels"],
        out_channels=settings["out_channels"],
    )


def taken(control: dict[str, list] | None, unet: UNetConfig) -> Any:
    """A control's lists as residuals for the UNet.

    The lists are read from their ends, as the host pops them: `input` ends with the first block's addition,
    `output` with the deepest skip's, `middle` with the one value used. None, or too short a list, adds
    nothing.
    """
    if control is None:
        return None
    skips = len(unet.residual_channels) - 1
    output = list(control.get("output", []))[-skips:]
    entries = list(reversed(control.get("input", [])))[:skips]
    middle = control.get("middle", [])
    return SimpleNamespace(
        down=[None] * (skips - len(output)) + output,
        mid=middle[-1] if middle else None,
        encoder=entries + [None] * (skips - len(entries)),
    )


class UNetModel(UNet):
    """cnet_core's UNet, called as the host calls its own."""

    def __init__(
        self, operations: Any = nn, device: Any = None, dtype: torch.dtype | None = None, **settings: Any
    ):
        super().__init__(unet_config(settings), operations=operations, dtype=dtype, device=device)
        self.dtype = dtype or torch.float32
        patches.make_patchable(self)

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        y: Tensor | None = None,
        control: dict[str, list] | None = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        forward = patcher_extension.wrapped(
            super().forward, self, patcher_extension.WrappersMP.DIFFUSION_MODEL, transformer_options
        )
        with patches.patched(transformer_options):
            return forward(x, timesteps, context, y=y, residuals=taken(control, self.config))


class BaseModel(nn.Module):
    """The UNet, the noise levels it was trained on, and its latent's scale."""

    def __init__(self, model_config: Any, model_type: ModelType = ModelType.EPS, device: Any = None):
        super().__init__()
        self.model_config = model_config
        self.model_type = model_type
        self.latent_format: latent_formats.LatentFormat = model_config.latent_format
        self.manual_cast_dtype = model_config.manual_cast_dtype
        self.memory_usage_factor = model_config.memory_usage_factor
        self.device = device
        self.current_patcher: Any = None
        settings = dict(model_config.unet_config)
        operations = model_config.custom_operations or ops.pick_operations(
            settings.get("dtype"), self.manual_cast_dtype
        )
        self.diffusion_model = UNetModel(operations=operations, device=device, **settings)
        self.diffusion_model.requires_grad_(False).eval()
        self.adm_channels = settings.get("adm_in_channels") or 0
        prediction = (
            model_sampling.V_PREDICTION if model_type is ModelType.V_PREDICTION else model_sampling.EPS
        )
        bases = (model_sampling.ModelSamplingDiscrete, prediction)
        self.model_sampling: Any = type("ModelSampling", bases, {})(model_config)

    def apply_model(
        self,
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None = None,
        c_crossattn: Tensor | None = None,
        control: dict[str, list] | None = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """The denoised latent [B,C,H,W] for a noisy one x at noise levels t [B]."""
        dtype = self.get_dtype_inference()
        scaled = self.model_sampling.calculate_input(t, x)
        if c_concat is not None:
            scaled = torch.cat([scaled, c_concat.to(scaled)], dim=1)
        context = c_crossattn.to(device=x.device, dtype=dtype) if c_crossattn is not None else None
        y = kwargs.pop("y", None)
        output = self.diffusion_model(
            scaled.to(dtype),
            self.model_sampling.timestep(t).float(),
            context=context,
            y=None if y is None else y.to(device=x.device, dtype=dtype),
            control=control,
            transformer_options=transformer_options,
        )
        return self.model_sampling.calculate_denoised(t, output.float(), x)

    def get_dtype(self) -> torch.dtype:
        return self.diffusion_model.dtype

    def get_dtype_inference(self) -> torch.dtype:
        return self.manual_cast_dtype or self.get_dtype()

    def encode_adm(self, **kwargs: Any) -> Tensor | None:
        """The vector condition y; None for models that take none."""
        return None

    def extra_conds(self, **kwargs: Any) -> dict[str, Tensor]:
        """What a conditioning entry gives the network, by the names of apply_model's arguments."""
        found = {
            "y": self.encode_adm(**kwargs),
            "c_crossattn": kwargs.get("cross_attn"),
            "crossattn_controlnet": kwargs.get("cross_attn_controlnet"),
        }
        return {name: value for name, value in found.items() if value is not None}

    def load_model_weights(
        self, sd: dict[str, Tensor], unet_prefix: str = "", assign: bool = False
    ) -> BaseModel:
        """Take the UNet's weights, under the prefix, out of `sd`; missing or unknown keys are an error."""
        mine = {key.removeprefix(unet_prefix): sd.pop(key) for key in list(sd) if key.startswith(unet_prefix)}
        self.diffusion_model.load_state_dict(self.model_config.process_unet_state_dict(mine), assign=assign)
        return self

    def process_latent_in(self, latent: Tensor) -> Tensor:
        return self.latent_format.process_in(latent)

    def process_latent_out(self, latent: Tensor) -> Tensor:
        return self.latent_format.process_out(latent)

    def memory_required(self, input_shape: Any, cond_shapes: Any = None) -> float:
        """Bytes, roughly, that one pass over an input [B,C,H,W] needs: the host's rule of thumb."""
        batch, _, *sides = input_shape
        area = batch
        for side in sides:
            area *= side
        return area * 0.15 * self.memory_usage_factor * 1024 * 1024

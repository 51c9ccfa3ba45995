"""Tiny random networks of every family that the host's ControlNet loader makes, with a base model for each.

Files are written in the families' own layouts and loaded by the host, whose guesses of sizes (fixed for the
published networks) are replaced by the tiny ones.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import comfy.cldm.cldm
import comfy.cldm.dit_embedder
import comfy.cldm.mmdit
import comfy.controlnet
import comfy.ldm.cascade.controlnet
import comfy.ldm.flux.controlnet
import comfy.ldm.hydit.controlnet
import comfy.ldm.qwen_image.controlnet
import comfy.model_base
import comfy.model_detection
import comfy.model_patcher
import comfy.ops
import comfy.supported_models as models
import comfy.t2i_adapter.adapter
import comfy.utils
import torch

CPU = torch.device("cpu")
LAYERS = comfy.ops.disable_weight_init
LIKE = {"device": CPU, "dtype": torch.float32, "operations": LAYERS}
TEXT = 8

FLUX = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": TEXT,
    "context_in_dim": TEXT, "hidden_size": 32, "mlp_ratio": 4.0, "num_heads": 2, "depth": 3,
    "depth_single_blocks": 3, "axes_dim": [4, 6, 6], "theta": 10000, "qkv_bias": True,
    "guidance_embed": True, "txt_ids_dims": [],
}  # fmt: skip
SD3 = {
    "in_channels": 16, "depth": 3, "patch_size": 2, "adm_in_channels": 2048, "pos_embed_scaling_factor": None,
    "pos_embed_max_size": 12, "num_patches": 144, "input_size": None,
    "context_embedder_config": {
        "target": "torch.nn.Linear", "params": {"in_features": TEXT, "out_features": 192},
    },
}  # fmt: skip
QWEN = {
    "image_model": "qwen_image", "in_channels": 64, "num_layers": 13, "attention_head_dim": 16,
    "num_attention_heads": 2, "joint_attention_dim": TEXT, "axes_dims_rope": (4, 6, 6),
}  # fmt: skip
HYDIT = {
    "image_model": "hydit", "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2.0, "text_states_dim": TEXT,
    "text_states_dim_t5": 16, "text_len": 6, "text_len_t5": 4, "input_size": 16, "depth": 40,
}  # fmt: skip
SD15 = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [2] * 4,
    "channel_mult": [1, 2, 4, 4], "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1] * 9 + [0] * 3, "transformer_depth_middle": 1, "context_dim": TEXT,
    "use_spatial_transformer": True, "use_linear_in_transformer": False, "adm_in_channels": None,
    "num_heads": 2, "num_head_channels": -1, "legacy": False, "use_temporal_attention": False,
}  # fmt: skip
SDXL = {
    **SD15, "model_channels": 64, "num_res_blocks": [2] * 3, "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 1, 1, 2, 2], "transformer_depth_output": [0] * 3 + [1] * 3 + [2] * 3,
    "transformer_depth_middle": 2, "use_linear_in_transformer": True, "adm_in_channels": 2816,
    "num_classes": "sequential", "num_heads": -1, "num_head_channels": 64,
}  # fmt: skip
CASCADE = {
    "stable_cascade_stage": "c", "c_hidden": [16, 16], "nhead": [2, 2], "c_cond": 16, "c_clip_text": TEXT,
    "c_clip_text_pooled": TEXT,
}  # fmt: skip


def fill(network: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Random weights of variance 1 / fan-in; norms stay near one, biases small."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if value.ndim > 1:
                value.copy_(noise * value[0].numel() ** -0.5)
            else:
                value.copy_(
                    noise * 0.1 + (1.0 if "norm" in name and name.endswith(("weight", "scale")) else 0)
                )
        for name, value in network.named_buffers():
            if name.endswith("pos_embed"):
                value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    return network


def base(config: type, sizes: dict[str, Any], make: type | None = None, kind: Any = None) -> Any:
    """A MODEL of the host's class for this family."""
    model_config = config({**sizes, "dtype": torch.float32})
    if "num_heads" in sizes and config is models.SD15:
        model_config.unet_config.update(num_heads=2, num_head_channels=-1)
    model_config.set_inference_dtype(torch.float32, None)
    model = model_config.get_model({}, device=CPU)
    fill(model.diffusion_model, 1)
    return comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)


def sized(config: type, sizes: dict[str, Any]) -> Any:
    """The host's guess of a network's sizes from its keys, replaced."""
    return patch.object(
        comfy.model_detection,
        "model_config_from_unet",
        lambda *_args, **_options: config({k: v for k, v in sizes.items()}),
    )


def in_diffusers_keys(state: dict[str, torch.Tensor], names: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The reverse of the host's conversion: names maps diffusers' keys to the host's (and a slice)."""
    out, used = {}, set()
    for theirs, ours in names.items():
        key, part = (ours, None) if isinstance(ours, str) else (ours[0], ours[1])
        if key in state:
            used.add(key)
            out[theirs] = (state[key] if part is None else state[key].narrow(*part)).clone()
    return {**out, **{k: v for k, v in state.items() if k not in used}}


@dataclass
class Family:
    """file: the tensors of a ControlNet file; model: its base; latent: shape of one latent [C,H,W]."""

    name: str
    file: Callable[[], dict[str, torch.Tensor]]
    model: Callable[[], Any]
    latent: tuple[int, ...] = (16, 8, 6)
    patches: Callable[[], list[Any]] = list
    tokens: int = 6
    pooled: int = TEXT
    vae: tuple[int, ...] | None = None
    # Loaded by our node, which hands the file to the host; else by the host's own function.
    by_node: bool = True
    extra: Callable[[int], dict[str, Any]] = field(default=lambda seed: {})

    def control(self, load: Callable[[dict], Any]) -> Any:
        with _All(self.patches()):
            return load({key: value.contiguous() for key, value in self.file().items()})

    def prompt(self, seed: int) -> list:
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randn(1, self.tokens, TEXT, generator=generator)
        pooled = torch.randn(1, self.pooled, generator=generator)
        return [[tokens, {"pooled_output": pooled, **self.extra(seed)}]]


class _All:
    def __init__(self, patches: list[Any]):
        self.patches = patches

    def __enter__(self) -> None:
        for one in self.patches:
            one.start()

    def __exit__(self, *_: Any) -> None:
        for one in self.patches:
            one.stop()


class TinyVAE:
    """Stands for the base's VAE: averages over 8 x 8 pixels; counts what it encodes."""

    def __init__(self, channels: int, video: bool):
        self.channels, self.video, self.encoded = channels, video, 0

    def spacial_compression_encode(self) -> int:
        return 8

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        self.encoded += 1
        small = torch.nn.functional.avg_pool2d(pixels[..., :3].movedim(-1, 1), 8)
        latent = small.repeat(1, -(-self.channels // 3), 1, 1)[:, : self.channels] * 2 - 1
        return latent[:, :, None] if self.video else latent


def _flux(**options: Any) -> Any:
    return fill(comfy.ldm.flux.controlnet.ControlNetFlux(**FLUX, **options, **LIKE), 2)


def _xlabs() -> dict[str, torch.Tensor]:
    return {k.replace("_norm.weight", "_norm.scale"): v for k, v in _flux().state_dict().items()}


def _mistoline() -> dict[str, torch.Tensor]:
    state = _flux(mistoline=True).state_dict()
    return {k.replace("controlnet_single_blocks.", "single_controlnet_blocks."): v for k, v in state.items()}


def _flux_instantx(modes: int = 0) -> dict[str, torch.Tensor]:
    state = _flux(latent_input=True, control_latent_channels=16, num_union_modes=modes).state_dict()
    return in_diffusers_keys(state, comfy.utils.flux_to_diffusers(FLUX))


def _sd3() -> dict[str, torch.Tensor]:
    net = comfy.cldm.mmdit.ControlNet(num_blocks=1, control_latent_channels=16, **SD3, **LIKE)
    return in_diffusers_keys(
        fill(net, 2).state_dict(), comfy.utils.mmdit_to_diffusers({"depth": 3, "num_blocks": 1})
    )


def _sd35() -> dict[str, torch.Tensor]:
    net = comfy.cldm.dit_embedder.ControlNetEmbedder(
        img_size=None, patch_size=2, in_chans=16, num_layers=2, main_model_double=3, double_y_emb=False,
        attention_head_dim=64, num_attention_heads=3, adm_in_channels=2048, **LIKE,
    )  # fmt: skip
    return fill(net, 2).state_dict()


def _qwen_instantx() -> dict[str, torch.Tensor]:
    net = comfy.ldm.qwen_image.controlnet.QwenImageControlNetModel(**{**QWEN, "num_layers": 2}, **LIKE)
    return fill(net, 2).state_dict()


def _qwen_fun() -> dict[str, torch.Tensor]:
    net = comfy.ldm.qwen_image.controlnet.QwenImageFunControlNetModel(
        inner_dim=32, num_attention_heads=2, attention_head_dim=16, **LIKE
    )
    return fill(net, 2).state_dict()


_HyditControl = comfy.ldm.hydit.controlnet.HunYuanControlNet
_HYDIT_CONTROL = {k: v for k, v in HYDIT.items() if k != "image_model"}


def _hydit() -> dict[str, torch.Tensor]:
    return fill(_HyditControl(**_HYDIT_CONTROL, **LIKE), 2).state_dict()


_CascadeControl = comfy.ldm.cascade.controlnet.ControlNet


def _backbone() -> Any:
    """Stands for EfficientNet: one convolution to as many channels and as few pixels."""
    return SimpleNamespace(
        features=torch.nn.Sequential(torch.nn.Sequential(torch.nn.Conv2d(3, 1280, 32, 32)))
    )


def _cascade_patches() -> list[Any]:
    control = comfy.ldm.cascade.controlnet
    return [
        patch.object(control, "ControlNet", functools.partial(_CascadeControl, c_proj=16)),
        patch.object(control.torchvision.models, "efficientnet_v2_s", _backbone),
    ]


def _cascade() -> dict[str, torch.Tensor]:
    net = _CascadeControl(c_in=3, c_proj=16, proj_blocks=[0, 4, 8, 12, 51, 55, 59, 63])
    return fill(net, 2).state_dict()


def sd15_control(seed: int, sizes: dict[str, Any] = SD15) -> Any:
    sizes = {k: v for k, v in sizes.items() if k not in ("out_channels", "transformer_depth_output")}
    return fill(comfy.cldm.cldm.ControlNet(**sizes, hint_channels=3, **LIKE), seed)


def low_rank(state: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A Control-LoRA of rank 4: the weights that the base has are halves; up @ down is half as large."""
    generator, file = torch.Generator().manual_seed(3), {"lora_controlnet": torch.zeros(0)}
    for name, tensor in state.items():
        if name not in own or tensor.ndim < 2:
            file[name] = tensor
            continue
        out, into, *kernel = tensor.shape
        shapes = {"up": (out, 4, *[1] * len(kernel)), "down": (4, into, *kernel)}
        scale = (0.25 / (4 * tensor[0].numel())) ** 0.25
        for end, shape in shapes.items():
            file[f"{name.removesuffix('.weight')}.{end}"] = scale * torch.randn(shape, generator=generator)
    return file


def _control_lora() -> dict[str, torch.Tensor]:
    own = ("input_hint_block.", "zero_convs.", "middle_block_out.")
    state = {k: v for k, v in sd15_control(2).state_dict().items() if k.startswith(own)}
    generator = torch.Generator().manual_seed(3)
    layer = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
    state[f"{layer}.up"] = torch.randn(32, 4, generator=generator) * 0.2
    state[f"{layer}.down"] = torch.randn(4, 32, generator=generator) * 0.2
    return {**state, "lora_controlnet": torch.tensor([])}


def _t2i() -> dict[str, torch.Tensor]:
    adapter = comfy.t2i_adapter.adapter.Adapter(
        cin=192, channels=[32, 64, 128, 128], nums_rb=2, ksize=1, sk=True, use_conv=False
    )
    return fill(adapter, 2).state_dict()


def _t5(seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed + 50)
    return {
        "attention_mask": torch.ones(1, 6),
        "conditioning_mt5xl": torch.randn(1, 4, 16, generator=generator),
        "attention_mask_mt5xl": torch.ones(1, 4),
    }


def _flux_base() -> Any:
    return base(models.Flux, FLUX)


def _sd3_base() -> Any:
    return base(models.SD3, SD3)


def _sd15_base() -> Any:
    return base(models.SD15, SD15)


def _qwen_base() -> Any:
    return base(models.QwenImage, QWEN)


_QWEN_SHAPE = {"latent": (16, 1, 8, 6), "vae": (16, 1), "model": _qwen_base}
_SD15_SHAPE = {"latent": (4, 8, 8), "by_node": False, "model": _sd15_base}

FAMILIES = [
    Family("flux_xlabs", _xlabs, _flux_base, patches=lambda: [sized(models.Flux, FLUX)]),
    Family("flux_mistoline", _mistoline, _flux_base, patches=lambda: [sized(models.Flux, FLUX)]),
    Family(
        "flux_instantx", _flux_instantx, _flux_base, patches=lambda: [sized(models.Flux, FLUX)], vae=(16,)
    ),
    Family(
        "flux_union",
        functools.partial(_flux_instantx, 7),
        _flux_base,
        patches=lambda: [sized(models.Flux, FLUX)],
        vae=(16,),
    ),
    Family("sd3", _sd3, _sd3_base, patches=lambda: [sized(models.SD3, SD3)], vae=(16,), pooled=2048),
    Family("sd35", _sd35, _sd3_base, vae=(16,), pooled=2048),
    Family(
        "qwen_instantx",
        _qwen_instantx,
        patches=lambda: [sized(models.QwenImage, {**QWEN, "num_layers": 2})],
        **_QWEN_SHAPE,
    ),
    Family("qwen_fun", _qwen_fun, **_QWEN_SHAPE),
    Family(
        "hunyuan_dit",
        _hydit,
        lambda: base(models.HunyuanDiT, HYDIT),
        latent=(4, 8, 6),
        vae=(4,),
        patches=lambda: [
            sized(models.HunyuanDiT, HYDIT),
            patch.object(
                comfy.ldm.hydit.controlnet,
                "HunYuanControlNet",
                functools.partial(_HyditControl, **_HYDIT_CONTROL),
            ),
        ],
        extra=_t5,
    ),
    Family(
        "cascade",
        _cascade,
        lambda: base(models.Stable_Cascade_C, CASCADE),
        patches=_cascade_patches,
    ),
    Family(
        "sd15_controlnet",
        lambda: sd15_control(2).state_dict(),
        patches=lambda: [sized(models.SD15, SD15)],
        **_SD15_SHAPE,
    ),
    Family("sd15_control_lora", _control_lora, **_SD15_SHAPE),
    Family("sd15_t2i_adapter", _t2i, **_SD15_SHAPE),
]

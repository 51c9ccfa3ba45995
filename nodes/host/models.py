"""Networks in the host's keeping: their precision, their devices, and the MODEL of the mini checkpoints."""

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any, Generic, TypeVar

import comfy.ldm.modules.attention
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from torch import Tensor

from ...cnet_core.errors import BaseMismatchError
from ...cnet_core.networks.blocks import Attention
from ...cnet_core.networks.compiled import check_compiles, compile_blocks
from ...cnet_core.networks.config import SD21, UNetConfig
from ...cnet_core.networks.pace import Pace, pace

Net = TypeVar("Net", bound=torch.nn.Module)

# How users call the kind of base model that the pack's own controls are made for.
UNET = "a Stable Diffusion UNet (SD1.5, SD2.x, SDXL)"

# Wraps a network so that the host loads, offloads and counts it. Older hosts have one class for all.
Patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)

# How weights may be kept; "auto" leaves it to the host, by device, and "fastest" to a measurement.
FASTEST = "fastest"
PRECISIONS: dict[str, torch.dtype | None] = {
    "auto": None,
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8": torch.float8_e4m3fn,
    FASTEST: None,
}


class LoadedNetwork:
    """A control network in the host's keeping, shared by all controls that use it; keeps nothing of a run.

    compiled: its blocks are compiled when they first run. memory_format: of the latents that it is given.
    """

    def __init__(
        self,
        net: Any,
        dtype: torch.dtype,
        label: str,
        check_base: Callable[[UNetConfig], None],
        device: torch.device | None = None,
        compiled: bool = False,
        memory_format: torch.memory_format = torch.preserve_format,
    ):
        self.load_device = device or comfy.model_management.get_torch_device()
        if compiled:
            check_compiles(self.load_device)
            compile_blocks(net)
        self.net, self.compiled, self.memory_format = net, compiled, memory_format
        # The dtype of the arithmetic; the host's layers cast the weights to it.
        self.dtype = dtype
        self.label = label
        # Raises BaseMismatchError if the network was made for another base.
        self.check_base = check_base
        # The file that a training wrote, of a network that comes from one.
        self.trained: Path | None = None
        self.patcher = Patcher(
            net, load_device=self.load_device, offload_device=comfy.model_management.unet_offload_device()
        )

    def on(self, device: torch.device) -> "LoadedNetwork":
        """A copy for another device."""
        net = copy.deepcopy(self.net)
        return LoadedNetwork(
            net, self.dtype, self.label, self.check_base, device, self.compiled, self.memory_format
        )


def attention_for(context_dim: int) -> Attention:
    """The attention that the user chose for the host, for a network that reads texts of this width."""
    # SD2.x overflows in fp16, so its attention is computed in fp32.
    precision = torch.float32 if context_dim == SD21.context_dim else None

    def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        # Looked up at each call: the host's choice may be changed after this network was made.
        chosen = comfy.ldm.modules.attention.optimized_attention
        return chosen(q, k, v, heads, attn_precision=precision)

    return attention


# The parts of a UNet that control networks copy.
ENCODER = ("time_embed.", "label_emb.", "input_blocks.", "middle_block.")


def encoder_tensors(model: Any) -> dict[str, Tensor]:
    """The encoder of a MODEL's UNet, as it draws; see `patched_tensors`."""
    parts = [patched_tensors(model, f"diffusion_model.{part}") for part in ENCODER]
    return {name: tensor for part in parts for name, tensor in part.items()}


def patched_tensors(patcher: Any, prefix: str = "") -> dict[str, Tensor]:
    """Weights in the host's keeping, as it computes with them: with the patches (LoRA) of this patcher.

    By the host's names, those that begin with the prefix. For reading only: without patches they are the
    network's own.
    """
    tensors = {}
    for name in patcher.model_state_dict():
        if not name.startswith(prefix):
            continue
        try:
            weight = attrgetter(name)(patcher.model)
        except AttributeError:
            # What quantised weights, which bring themselves to numbers, are saved with: scales and formats.
            continue
        # As it was before the host patched it in place.
        if name in patcher.backup:
            weight = patcher.backup[name].weight
        if name in patcher.hook_backup:
            weight = patcher.hook_backup[name][0]
        if patches := patcher.patches.get(name):
            import comfy.lora

            # Patches are applied in place.
            plain = weight.detach()
            plain = plain if type(plain) is Tensor else plain.dequantize()
            whole = plain.to(torch.float32, copy=True)
            weight = comfy.lora.calculate_weight(patches, whole, name).to(weight.dtype)
        tensors[name] = weight
    return tensors


def dtype_of(precision: str) -> torch.dtype | None:
    """The dtype of weights that are kept by a key of PRECISIONS; None where the host chooses."""
    return device_pace().fastest.dtype if precision == FASTEST else PRECISIONS[precision]


def place_of_work(file_dtype: torch.dtype, precision: str = "auto") -> tuple[torch.dtype, torch.dtype, Any]:
    """(dtype of the weights, dtype of the arithmetic, layers) by which the host runs such a file.

    precision: a key of PRECISIONS.
    """
    management = comfy.model_management
    weights = dtype_of(precision)
    if precision == FASTEST and weights is not None:
        return weights, weights, comfy.ops.pick_operations(weights, None)
    supported = [torch.float16, torch.bfloat16, torch.float32]
    if weights is None:
        # -1, as the host says of its own control networks: large, to be kept as small as the device allows.
        weights = management.unet_dtype(model_params=-1, supported_dtypes=supported, weight_dtype=file_dtype)
    cast = management.unet_manual_cast(weights, management.get_torch_device(), supported)
    return weights, cast or weights, comfy.ops.pick_operations(weights, cast)


def device_pace() -> Pace:
    """How fast the host's device runs control networks by each precision; measured once."""
    return pace(comfy.model_management.get_torch_device())


def base_config(model: Any, who: str = "this ControlNet") -> UNetConfig:
    """The sizes of the UNet that a host model holds.

    Raises BaseMismatchError if it holds no such UNet; who: what the message says needs one.
    """
    config: Mapping[str, Any] = model.model_config.unet_config
    if "channel_mult" not in config or "model_channels" not in config:
        kind = type(model).__name__
        raise BaseMismatchError(
            f"{who} was made for {UNET}, and the model is {kind}, which has none. Use a control made for "
            "this model, or a checkpoint of one of these kinds."
        )
    levels = len(config["channel_mult"])
    blocks = config["num_res_blocks"]
    blocks = [blocks] * levels if isinstance(blocks, int) else list(blocks)
    depths = list(config.get("transformer_depth") or [0] * sum(blocks))
    starts = [sum(blocks[:level]) for level in range(levels)]
    return UNetConfig(
        model_channels=config["model_channels"],
        channel_mult=tuple(config["channel_mult"]),
        num_res_blocks=tuple(blocks),
        transformer_depth=tuple(depths[start] for start in starts),
        transformer_depth_middle=config.get("transformer_depth_middle") or 0,
        context_dim=config.get("context_dim") or 0,
        # A control network brings its own number of heads; the base is only compared by its sizes.
        num_head_channels=64,
        use_linear_in_transformer=bool(config.get("use_linear_in_transformer")),
        adm_in_channels=config.get("adm_in_channels"),
        in_channels=config.get("in_channels", 4),
    )


def diffusion_model(
    config: UNetConfig, tensors: Mapping[str, Tensor], scale: float, preview: list[list[float]]
) -> Any:
    """A MODEL of the host's own UNet class that predicts v, from LDM weights of any width.

    scale: factor from the autoencoder's latents to the UNet's; preview: RGB per latent channel, for previews.
    """
    import comfy.latent_formats
    import comfy.model_base
    import comfy.supported_models_base

    weights, work, operations = place_of_work(torch.float16)

    class Layers(operations):  # type: ignore[misc, valid-type]
        """The host's layers, with as many normalisation groups as the configuration says."""

        class GroupNorm(operations.GroupNorm):  # type: ignore[name-defined]
            def __init__(self, num_groups: int, *args: Any, **options: Any):
                super().__init__(config.norm_groups, *args, **options)

    class MiniLatent(comfy.latent_formats.LatentFormat):
        scale_factor = scale
        latent_rgb_factors = preview

    class Config(comfy.supported_models_base.BASE):
        unet_extra_config = {"num_heads": -1, "num_head_channels": config.num_head_channels}
        latent_format = MiniLatent
        memory_usage_factor = 0.2

    depths = [
        d for d, n in zip(config.transformer_depth, config.num_res_blocks, strict=True) for _ in range(n)
    ]
    ups = [
        d for d, n in zip(config.transformer_depth, config.num_res_blocks, strict=True) for _ in range(n + 1)
    ]
    host_config = Config(
        {
            "image_size": 32,
            "in_channels": config.in_channels,
            "out_channels": config.out_channels,
            "model_channels": config.model_channels,
            "num_res_blocks": list(config.num_res_blocks),
            "channel_mult": list(config.channel_mult),
            "transformer_depth": depths,
            "transformer_depth_output": ups,
            "transformer_depth_middle": config.transformer_depth_middle,
            "context_dim": config.context_dim,
            "use_spatial_transformer": True,
            "use_linear_in_transformer": config.use_linear_in_transformer,
            "adm_in_channels": config.adm_in_channels,
            "legacy": False,
        }
    )
    host_config.set_inference_dtype(weights, None if work == weights else work)
    host_config.custom_operations = Layers
    offload = comfy.model_management.unet_offload_device()
    model = comfy.model_base.BaseModel(
        host_config, model_type=comfy.model_base.ModelType.V_PREDICTION, device=offload
    )
    model.load_model_weights(dict(tensors), "")
    return Patcher(model, load_device=comfy.model_management.get_torch_device(), offload_device=offload)


class Resident(Generic[Net]):
    """A network of ours (autoencoder, text encoder, annotator) in the host's keeping."""

    def __init__(self, net: Net, load_device: torch.device, offload_device: torch.device):
        self.net, self.load_device = net, load_device
        # The host notes on a model where it is, which those of transformers let nobody write.
        noted = torch.nn.ModuleList([net]) if hasattr(type(net), "device") else net
        self.patcher = Patcher(noted, load_device=load_device, offload_device=offload_device)

    @classmethod
    def vae(cls, net: Net) -> "Resident[Net]":
        management = comfy.model_management
        return cls(net, management.vae_device(), management.vae_offload_device())

    @classmethod
    def text(cls, net: Net) -> "Resident[Net]":
        management = comfy.model_management
        return cls(net, management.text_encoder_device(), management.text_encoder_offload_device())

    def ready(self) -> Net:
        """The network, loaded on its device."""
        comfy.model_management.load_models_gpu([self.patcher])
        return self.net


# Several devices sample in threads of their own.
LOADING = threading.RLock()


def _in_use() -> list[Any]:
    """The models of the sampling that goes on. The host lists None for those that nobody holds any more."""
    loaded = comfy.model_management.loaded_models(only_currently_used=True)
    return [patcher for patcher in loaded if patcher is not None]


@contextmanager
def _hooks_kept(patchers: Sequence[Any]) -> Iterator[None]:
    """The hooks (LoRA) with which these are sampled stay: the host takes them out of what it loads again."""
    hooked = [(one, hooks) for one in patchers if (hooks := getattr(one, "current_hooks", None)) is not None]
    yield
    for patcher, hooks in hooked:
        patcher.apply_hooks(hooks)


@contextmanager
def models_kept_loaded() -> Iterator[None]:
    """Another model may be run inside, amid a sampling; afterwards those in use are loaded again."""
    loaded = _in_use()
    with _hooks_kept(loaded):
        yield
        comfy.model_management.load_models_gpu(loaded)


def size_of(patchers: Sequence[Any]) -> int:
    """Bytes of the weights in the host's keeping."""
    return sum(patcher.model_size() for patcher in patchers)


def load_amid_sampling(patchers: Sequence[Any], memory: float) -> None:
    """Load more networks while a model is sampled with, beside those in use on their device.

    memory: bytes that must stay free for the model to run.
    """
    with LOADING:
        devices = {patcher.load_device for patcher in patchers}
        kept = [patcher for patcher in _in_use() if patcher.load_device in devices]
        with _hooks_kept(kept):
            comfy.model_management.load_models_gpu([*kept, *patchers], memory_required=memory)


def result_device() -> torch.device:
    """Where nodes leave their results."""
    return comfy.model_management.intermediate_device()

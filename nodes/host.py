"""Everything that the pack needs of its host, and the only module that imports it (comfy_api apart).

The host calls a control object at every sampling step; the contract is that of
`comfy.controlnet.ControlBase`, of which ours are subclasses, so that whatever a newer host adds to it arrives
here too.
"""

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import comfy.controlnet
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils
import folder_paths
import torch
from torch import Tensor

from ..cnet_core.checkpoints import ControlFile, check_base, identify, read_state_dict, refuse
from ..cnet_core.control.hint import prepare_hint, spread
from ..cnet_core.control.timing import Timing, active
from ..cnet_core.errors import BaseMismatchError, CheckpointError, ControlError
from ..cnet_core.networks.config import UNetConfig
from ..cnet_core.networks.controlnet import ControlNet
from .answers import Answer, add, merge_answers

Net = TypeVar("Net", bound=torch.nn.Module)

PACK = Path(__file__).resolve().parent.parent
MINI_WEIGHTS = PACK / "demo" / "weights"

# Wraps a network so that the host loads, offloads and counts it. Older hosts have one class for all.
Patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)


def register_model_folders() -> None:
    """Let every ControlNet loader, the host's own too, offer the mini ControlNets that the pack ships."""
    folder_paths.add_model_folder_path("controlnet", str(MINI_WEIGHTS / "controlnet"))


def controlnet_files() -> list[str]:
    return folder_paths.get_filename_list("controlnet")


def controlnet_path(name: str) -> str:
    return folder_paths.get_full_path_or_raise("controlnet", name)


class LoadedNetwork:
    """A ControlNet in the host's keeping, shared by every control that uses it: without state of a run."""

    def __init__(self, net: ControlNet, dtype: torch.dtype, label: str, device: torch.device | None = None):
        self.net = net
        # The dtype of the arithmetic; the host's layers cast the weights to it.
        self.dtype = dtype
        self.label = label
        self.load_device = device or comfy.model_management.get_torch_device()
        self.patcher = Patcher(
            net, load_device=self.load_device, offload_device=comfy.model_management.unet_offload_device()
        )

    def on(self, device: torch.device) -> "LoadedNetwork":
        """A copy for another device."""
        return LoadedNetwork(copy.deepcopy(self.net), self.dtype, self.label, device)


class Control(comfy.controlnet.ControlBase):
    """One ControlNet, with or without its hint: what a CONTROL_NET socket and a conditioning carry."""

    def __init__(self, network: LoadedNetwork):
        super().__init__()
        self.network = network
        self.model_sampling: Any = None
        self.features: Tensor | None = None

    def copy(self) -> "Control":
        other = Control(self.network)
        self.copy_to(other)
        return other

    def set_cond_hint(
        self,
        cond_hint: Tensor,
        strength: float = 1.0,
        timestep_percent_range: tuple[float, float] = (0.0, 1.0),
        vae: Any = None,
        extra_concat: list[Tensor] = [],  # noqa: B006 (the host's signature)
    ) -> "Control":
        """Take a hint [B,C,H,W]. Called by the host's apply nodes as well as by ours."""
        Timing(strength, *timestep_percent_range)
        hint = prepare_hint(cond_hint, self.network.net.hint_channels)
        return super().set_cond_hint(
            hint, strength, timestep_percent_range, vae=vae, extra_concat=extra_concat
        )

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        """Before each run, once per conditioning that holds this control."""
        super().pre_run(model, percent_to_timestep_function)
        check_base(self.network.net.config, base_config(model), self.network.label)
        self.model_sampling = model.model_sampling
        self.features = None

    def cleanup(self) -> None:
        super().cleanup()
        self.model_sampling = None
        self.features = None

    def get_models(self) -> list[Any]:
        return [*super().get_models(), self.network.patcher]

    def deepclone_multigpu(self, load_device: torch.device, autoregister: bool = False) -> "Control":
        other = self.copy()
        other.network = self.network.on(load_device)
        if autoregister:
            self.multigpu_clones[load_device] = other
        return other

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        """Bytes of activations: this control's own, and those of the controls before it in the chain.

        The features of the hint encoder and the residuals, which live through the step, and the widest layer
        (the feed-forward of the first transformer, about 16 times the features), for the cond and uncond
        halves of each hinted latent.
        """
        hint, config = self.cond_hint_original, self.network.net.config
        if hint is None:
            return super().inference_memory_requirements(dtype)
        area = hint.shape[-1] * hint.shape[-2] / self.compression_ratio**2
        kept = sum(c / s**2 for c, s in zip(config.residual_channels, config.residual_scales, strict=True))
        values = 2 * hint.shape[0] * area * (kept + 17 * config.model_channels)
        size = comfy.model_management.dtype_size(self.network.dtype)
        return int(values * size) + super().inference_memory_requirements(dtype)

    def get_control(
        self, x_noisy: Tensor, t: Tensor, cond: dict, batched_number: int, transformer_options: dict
    ) -> Answer | None:
        """Residuals for a chunk of cond and uncond latents x_noisy [n*B,C,H,W] at noise levels t [n*B]."""
        previous = previous_answer(self, x_noisy, t, cond, batched_number, transformer_options)
        if self.timestep_range is not None and not active(float(t[0]), self.timestep_range):
            return previous
        network, sampling = self.network, self.model_sampling
        like = {"device": x_noisy.device, "dtype": network.dtype}
        batch = x_noisy.shape[0]
        features = spread(self.hint_features(x_noisy), batch // batched_number)
        y = cond.get("y")
        residuals = network.net(
            sampling.calculate_input(t, x_noisy).to(**like),
            (features.repeat(batched_number, 1, 1, 1),),
            sampling.timestep(t).float(),
            cond.get("crossattn_controlnet", cond["c_crossattn"]).to(**like),
            None if y is None else y.to(**like),
        )
        strength = self.strength
        blocks = [block if strength == 1 else block * strength for block in residuals]
        blocks = [block.to(x_noisy.dtype) for block in blocks]
        return add({"input": [], "middle": blocks[-1:], "output": blocks[:-1]}, previous)

    def hint_features(self, x_noisy: Tensor) -> Tensor:
        """The hint encoder's output at the latent's size, computed once per run."""
        height, width = x_noisy.shape[-2:]
        if self.features is None or self.features.shape[-2:] != (height, width):
            ratio = self.compression_ratio
            if self.cond_hint_original is None:
                raise ControlError("this control has no hint; connect it to an Apply ControlNet node first.")
            hint = comfy.utils.common_upscale(
                self.cond_hint_original, width * ratio, height * ratio, self.upscale_algorithm, "center"
            )
            hint = hint.to(device=x_noisy.device, dtype=self.network.dtype)
            (self.features,) = self.network.net.encode_hint(hint)
        return self.features


class MergedControl(comfy.controlnet.ControlBase):
    """Several controls that act as one. Each may be ours or the host's; each keeps its strength and range."""

    def __init__(self, controls: Iterable[Any], mode: str):
        super().__init__()
        self.controls = list(controls)
        self.mode = mode

    def copy(self) -> "MergedControl":
        other = MergedControl(self.controls, self.mode)
        self.copy_to(other)
        return other

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        super().pre_run(model, percent_to_timestep_function)
        for control in self.controls:
            control.pre_run(model, percent_to_timestep_function)

    def cleanup(self) -> None:
        super().cleanup()
        for control in self.controls:
            control.cleanup()

    def get_models(self) -> list[Any]:
        models = super().get_models()
        for control in self.controls:
            models += [model for model in control.get_models() if model not in models]
        return models

    def get_extra_hooks(self) -> list[Any]:
        return super().get_extra_hooks() + [h for control in self.controls for h in control.get_extra_hooks()]

    def deepclone_multigpu(self, load_device: torch.device, autoregister: bool = False) -> "MergedControl":
        other = self.copy()
        other.controls = [control.deepclone_multigpu(load_device) for control in self.controls]
        if autoregister:
            self.multigpu_clones[load_device] = other
        return other

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        own = sum(control.inference_memory_requirements(dtype) for control in self.controls)
        return own + super().inference_memory_requirements(dtype)

    def get_control(
        self, x_noisy: Tensor, t: Tensor, cond: dict, batched_number: int, transformer_options: dict
    ) -> Answer | None:
        previous = previous_answer(self, x_noisy, t, cond, batched_number, transformer_options)
        answers = []
        for control in self.controls:
            answer = control.get_control(x_noisy, t, cond, batched_number, transformer_options)
            if answer is not None:
                answers.append((answer, control.strength))
        if not answers:
            return previous
        return add(merge_answers(answers, self.mode), previous)


def previous_answer(control: Any, *args: Any) -> Answer | None:
    """What the controls before this one in the chain say."""
    if control.previous_controlnet is None:
        return None
    return control.previous_controlnet.get_control(*args)


def base_config(model: Any) -> UNetConfig:
    """The sizes of the UNet that a host model holds. Raises BaseMismatchError if it holds no such UNet."""
    config: Mapping[str, Any] = model.model_config.unet_config
    if "channel_mult" not in config or "model_channels" not in config:
        kind = type(model).__name__
        raise BaseMismatchError(
            f"this ControlNet was made for a Stable Diffusion UNet (SD1.5, SD2.x, SDXL), and the model is "
            f"{kind}, which has none. Use a ControlNet made for this model, or a checkpoint that this "
            "ControlNet fits."
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
        num_head_channels=64,
        use_linear_in_transformer=bool(config.get("use_linear_in_transformer")),
        adm_in_channels=config.get("adm_in_channels"),
        in_channels=config.get("in_channels", 4),
    )


def place_of_work(file_dtype: torch.dtype) -> tuple[torch.dtype, torch.dtype, Any]:
    """(dtype of the weights, dtype of the arithmetic, layers) by which the host would run such a file."""
    management = comfy.model_management
    supported = [torch.float16, torch.bfloat16, torch.float32]
    weights = management.unet_dtype(supported_dtypes=supported, weight_dtype=file_dtype)
    cast = management.unet_manual_cast(weights, management.get_torch_device(), supported)
    return weights, cast or weights, comfy.ops.pick_operations(weights, cast)


def load_control(name: str, model: Any = None) -> Any:
    """A CONTROL_NET from a file of the host's controlnet folders.

    model: a MODEL, for files that hold differences to their base. Families that the host knows and we do not
    are made by the host. Raises CheckpointError for everything else.
    """
    path = controlnet_path(name)
    file = read_state_dict(path)
    family = identify(file)
    if family.open is not None:
        return load_native(family.open(file, family), name, model)
    loader = getattr(comfy.controlnet, "load_controlnet", None)
    if family.kind == "host" and loader is not None:
        control = loader(path)
        if control is None:
            raise CheckpointError(f"{path} looks like a {family.name}, but the host could not load it.")
        return control
    raise refuse(file, family)


def load_native(file: ControlFile, name: str, model: Any = None) -> Control:
    weights, work, operations = place_of_work(file.dtype)
    base = None
    if file.needs_base and model is not None:
        check_base(file.config, base_config(model.model), name)
        base = model.model.diffusion_model.state_dict()
    net = file.build(base, dtype=weights, operations=operations)
    return Control(LoadedNetwork(net, work, f"{name} ({file.label})"))


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
    """A small network of ours (autoencoder, text encoder) in the host's keeping, run in fp32."""

    def __init__(self, net: Net, load_device: torch.device, offload_device: torch.device):
        self.net, self.load_device = net, load_device
        self.patcher = Patcher(net, load_device=load_device, offload_device=offload_device)

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


def result_device() -> torch.device:
    """Where nodes leave their results."""
    return comfy.model_management.intermediate_device()

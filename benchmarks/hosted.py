"""Runs inside a host: our control, and the host's built-in one, on the host's own model by its own sampler.

The host is a real ComfyUI, or minihost, which has its modules without samplers and without a ControlNet of
its own.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from cnet_core.checkpoints.shapes import config_metadata

from .weights import CFG, Task, noise_levels

PACK = Path(__file__).resolve().parent.parent
DTYPE = torch.float32


def enter_comfyui(folder: Path, arguments: list[str]) -> None:
    """Make a ComfyUI's modules importable, started on the CPU with these of its own options."""
    # Before our own directory: both have a module `nodes`, and ours is reached through the pack.
    sys.path.insert(0, str(folder))
    import comfy.options

    comfy.options.enable_args_parsing()
    given = sys.argv
    sys.argv = ["main.py", "--cpu", *arguments]
    try:
        import comfy.cli_args  # reads the arguments as it is imported
    finally:
        sys.argv = given


def enter_minihost() -> None:
    from minihost import shims

    shims.install()


def load_pack() -> str:
    """Import the pack by its path, as a host does; its name in sys.modules."""
    name = str(PACK).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, PACK / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return name


class Hosted:
    """The host's model with the task's weights, and ControlNets of one maker for it.

    comfyui: true in a real ComfyUI. maker: "ours", or "built-in" (a real ComfyUI only).
    """

    def __init__(self, task: Task, comfyui: bool, maker: str, patcher: Any = None):
        self.task, self.comfyui = task, comfyui
        self.patcher = patcher or model_patcher(task)
        make = our_controls if maker == "ours" else built_in_controls
        self.controls = make(task)

    def conditioning(self, count: int) -> tuple[list, list]:
        """Positive and negative with one chain of `count` controls in both, as apply nodes leave it."""
        chain = None
        for control, hint in zip(self.controls[:count], self.task.hints, strict=False):
            chain = control.copy().set_cond_hint(hint, 1.0, (0.0, 1.0)).set_previous_controlnet(chain)
        options = {} if chain is None else {"control": chain, "control_apply_to_uncond": False}
        return [[self.task.cond, dict(options)]], [[self.task.uncond, dict(options)]]

    def sample(self, count: int, timesteps: list[int]) -> Tensor:
        """One whole run of Euler's method with `count` controls: the latent [1,4,H,W]."""
        positive, negative = self.conditioning(count)
        sigmas = noise_levels(timesteps)
        if not self.comfyui:
            return sample_in_minihost(self.patcher, self.task.noise, positive, negative, sigmas)
        import comfy.samplers

        return comfy.samplers.sample(
            self.patcher,
            self.task.noise,
            positive,
            negative,
            CFG,
            self.patcher.load_device,
            comfy.samplers.sampler_object("euler"),
            sigmas,
            latent_image=torch.zeros_like(self.task.noise),
            disable_pbar=True,
        )


def sample_in_minihost(patcher: Any, noise: Tensor, positive: list, negative: list, sigmas: Tensor) -> Tensor:
    from minihost.guidance import Guider
    from minihost.sampling import sample_euler

    with Guider(patcher, positive, negative, CFG).run(noise) as denoise:
        return sample_euler(denoise, noise * sigmas[0], sigmas, lambda *step: None)


def unet_arguments(task: Task) -> dict[str, Any]:
    """The task's configuration in the words of the host's UNet and ControlNet classes."""
    config = task.config
    levels = list(zip(config.transformer_depth, config.num_res_blocks, strict=True))
    return {
        "image_size": 32,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "model_channels": config.model_channels,
        "num_res_blocks": list(config.num_res_blocks),
        "channel_mult": list(config.channel_mult),
        "transformer_depth": [depth for depth, blocks in levels for _ in range(blocks)],
        "transformer_depth_output": [depth for depth, blocks in levels for _ in range(blocks + 1)],
        "transformer_depth_middle": config.transformer_depth_middle,
        "context_dim": config.context_dim,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": config.use_linear_in_transformer,
        "adm_in_channels": config.adm_in_channels,
        "num_heads": config.num_heads,
        "num_head_channels": -1,
        "legacy": False,
    }


def model_patcher(task: Task) -> Any:
    """The host's own UNet with the task's tensors (not copies of them), as a MODEL."""
    import comfy.model_base
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models_base

    class Base(comfy.supported_models_base.BASE):
        unet_extra_config: dict[str, Any] = {}

    config = Base(unet_arguments(task))
    config.set_inference_dtype(DTYPE, None)
    offload = comfy.model_management.unet_offload_device()
    model = comfy.model_base.BaseModel(config, model_type=comfy.model_base.ModelType.EPS, device=offload)
    model.diffusion_model.load_state_dict(task.unet, assign=True)
    model.diffusion_model.requires_grad_(False)
    patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    return patcher(model, load_device=comfy.model_management.get_torch_device(), offload_device=offload)


def our_controls(task: Task) -> list[Any]:
    """The controls that the pack's loader makes of these tensors."""
    name = load_pack()

    def part(module: str) -> ModuleType:
        return importlib.import_module(f"{name}.{module}")

    host, checkpoints = part("nodes.host"), part("cnet_core.checkpoints")
    controls = []
    for i, state in enumerate(task.controls):
        file = checkpoints.StateFile(Path(f"random {i}"), state, config_metadata(task.config))
        family = checkpoints.identify(file)
        controls.append(host.load_native(family.open(file, family), file.path.name))
    return controls


def built_in_controls(task: Task) -> list[Any]:
    """The host's ControlNet class around its ControlNet network, as its loader puts them together."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.model_management
    import comfy.ops

    arguments = unet_arguments(task)
    del arguments["out_channels"]
    controls = []
    for state in task.controls:
        network = comfy.cldm.cldm.ControlNet(
            hint_channels=3,
            dtype=DTYPE,
            device=comfy.model_management.unet_offload_device(),
            operations=comfy.ops.pick_operations(DTYPE, None),
            **arguments,
        )
        network.load_state_dict(state, assign=True)
        network.eval().requires_grad_(False)
        controls.append(
            comfy.controlnet.ControlNet(network, load_device=comfy.model_management.get_torch_device())
        )
    return controls

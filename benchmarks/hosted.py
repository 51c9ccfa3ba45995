"""Runs inside a host: our control, and the host's built-in one, on the host's own model by its own sampler.

The host is a real ComfyUI, or minihost, which has its modules without samplers and without a ControlNet of
its own.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .weights import CFG, Task, noise_levels

PACK = Path(__file__).resolve().parent.parent


def enter_comfyui(folder: Path, arguments: list[str], device: str) -> None:
    """Make a ComfyUI's modules importable, started on a device with these of its own options."""
    # Before our own directory: both have a module `nodes`, and ours is reached through the pack.
    sys.path.insert(0, str(folder))
    import comfy.options

    comfy.options.enable_args_parsing()
    given = sys.argv
    sys.argv = ["main.py", *(["--cpu"] if device == "cpu" else []), *arguments]
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


class Pack:
    """The pack's nodes by id, as this host has them."""

    def __init__(self) -> None:
        nodes = importlib.import_module(f"{load_pack()}.nodes").NODES
        self.nodes = {node.define_schema().node_id: node for node in nodes}

    def run(self, node_id: str, **inputs: Any) -> tuple:
        """Execute a node; required inputs that are not given take their defaults."""
        node = self.nodes[node_id]
        for each in node.define_schema().inputs:
            default = getattr(each, "default", None)
            if default is None and getattr(each, "options", None):
                default = each.options[0]
            if not each.optional and default is not None:
                inputs.setdefault(each.id, default)
        return node.execute(**inputs).args

    def load(self, path: Path, **settings: Any) -> Any:
        """A CONTROL_NET, by the pack's loader node; the file's folder becomes one of the host's.

        settings: more inputs of the node.
        """
        importlib.import_module("folder_paths").add_model_folder_path("controlnet", str(path.parent))
        return self.run("CNetLoadControlNet", control_net_name=path.name, **settings)[0]


def load_built_in(path: Path) -> Any:
    """A CONTROL_NET, by what the host's own loader node calls."""
    import comfy.controlnet

    return comfy.controlnet.load_controlnet(str(path))


def unload() -> None:
    """Have the host take all models off its device."""
    import comfy.model_management

    comfy.model_management.unload_all_models()


class Hosted:
    """The host's model with the task's weights, and ControlNets for it; subclasses say whose.

    comfyui: true in a real ComfyUI. patcher: a model that another of these has made of the same task.
    """

    def __init__(self, task: Task, comfyui: bool, controls: list[Any], patcher: Any = None):
        self.task, self.comfyui = task, comfyui
        self.patcher = patcher or model_patcher(task)
        self.controls = controls

    def conditioning(self, count: int) -> tuple[list, list]:
        """Positive and negative with `count` controls in both."""
        y = {} if self.task.y is None else {"pooled_output": self.task.y}
        positive, negative = [[self.task.cond, dict(y)]], [[self.task.uncond, dict(y)]]
        if count:
            hinted = [(self.controls[i % len(self.controls)], self.task.hints[i]) for i in range(count)]
            positive, negative = self.apply(positive, negative, hinted)
        return positive, negative

    def apply(self, positive: list, negative: list, hinted: list[tuple[Any, Tensor]]) -> tuple[list, list]:
        """Conditionings with these controls, each at strength 1 with its hint [1,3,H,W]."""
        raise NotImplementedError

    def sample(
        self, count: int, timesteps: list[int], on_step: Callable[..., None] = lambda *_step: None
    ) -> Tensor:
        """One whole run of Euler's method with `count` controls: the latent [1,4,H,W].

        on_step is called in each step when the model has answered.
        """
        positive, negative = self.conditioning(count)
        sigmas = noise_levels(timesteps)
        if not self.comfyui:
            return sample_in_minihost(self.patcher, self.task.noise, positive, negative, sigmas, on_step)
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
            callback=on_step,
            disable_pbar=True,
        )


class BuiltIn(Hosted):
    """The host's own controls in a chain, as the host's own apply nodes leave them."""

    def apply(self, positive: list, negative: list, hinted: list[tuple[Any, Tensor]]) -> tuple[list, list]:
        chain = None
        for control, hint in hinted:
            chain = control.copy().set_cond_hint(hint, 1.0, (0.0, 1.0)).set_previous_controlnet(chain)
        options = {"control": chain, "control_apply_to_uncond": False}
        return [[c, {**o, **options}] for c, o in positive], [[c, {**o, **options}] for c, o in negative]


class Ours(Hosted):
    """The pack's controls, an Apply node for each; settings: more inputs of these."""

    def __init__(self, pack: Pack, *arguments: Any, **settings: Any):
        super().__init__(*arguments)
        self.pack, self.settings = pack, settings

    def apply(self, positive: list, negative: list, hinted: list[tuple[Any, Tensor]]) -> tuple[list, list]:
        for control, hint in hinted:
            positive, negative = self.pack.run(
                "CNetApply",
                positive=positive,
                negative=negative,
                control_net=control,
                image=hint.movedim(1, -1),
                strength=1.0,
                **self.settings,
            )
        return positive, negative


class OursMerged(Ours):
    """The pack's controls, joined by one Merge node that sums them."""

    def apply(self, positive: list, negative: list, hinted: list[tuple[Any, Tensor]]) -> tuple[list, list]:
        units = {
            f"unit{i}": self.pack.run(
                "CNetUnit", control_net=control, image=hint.movedim(1, -1), strength=1.0
            )[0]
            for i, (control, hint) in enumerate(hinted)
        }
        positive, negative = self.pack.run(
            "CNetMerge", positive=positive, negative=negative, units=units, mode={"mode": "sum"}
        )
        return positive, negative


def sample_in_minihost(
    patcher: Any,
    noise: Tensor,
    positive: list,
    negative: list,
    sigmas: Tensor,
    on_step: Callable[..., None],
) -> Tensor:
    from minihost.guidance import Guider
    from minihost.sampling import sample_euler

    guider = Guider(patcher, positive, negative, CFG)
    guider.sample_sigmas = sigmas
    with guider.run(noise) as denoise:
        return sample_euler(denoise, noise * sigmas[0], sigmas, on_step)


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
        "num_classes": None if config.adm_in_channels is None else "sequential",
        "num_heads": config.num_heads or -1,
        "num_head_channels": config.num_head_channels or -1,
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

    class Model(comfy.model_base.BaseModel):
        """Takes the vector condition as it is, where SDXL's own class makes it of the picture's size."""

        def encode_adm(self, **conditions: Any) -> Tensor | None:
            return conditions.get("pooled_output")

    config = Base(unet_arguments(task))
    config.set_inference_dtype(task.dtype, None)
    offload = comfy.model_management.unet_offload_device()
    model = Model(config, model_type=comfy.model_base.ModelType.EPS, device=offload)
    model.diffusion_model.load_state_dict(task.unet, assign=True)
    model.diffusion_model.requires_grad_(False)
    patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    return patcher(model, load_device=comfy.model_management.get_torch_device(), offload_device=offload)


def built_in_controls(task: Task) -> list[Any]:
    """The host's ControlNet class around its ControlNet network, as its loader puts them together.

    They hold the task's tensors, where the loader would hold copies.
    """
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.model_management
    import comfy.ops

    arguments = unet_arguments(task)
    del arguments["out_channels"]
    controls = []
    for state in task.networks:
        network = comfy.cldm.cldm.ControlNet(
            hint_channels=3,
            dtype=task.dtype,
            device=comfy.model_management.unet_offload_device(),
            operations=comfy.ops.pick_operations(task.dtype, None),
            **arguments,
        )
        network.load_state_dict(state, assign=True)
        network.eval().requires_grad_(False)
        controls.append(
            comfy.controlnet.ControlNet(network, load_device=comfy.model_management.get_torch_device())
        )
    return controls

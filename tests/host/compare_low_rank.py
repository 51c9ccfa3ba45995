"""Control-LoRA and CtrLoRA beside other implementations on random weights, run by a host's own Python.

As a script, in a ComfyUI's folder: compare_low_rank.py control_lora|ctrlora FOLDER [ADVANCED_CONTROLNET]
Prints the largest difference of the residuals and their spread. FOLDER is for files of its own.
"""

import importlib
import json
import sys
import types
from dataclasses import replace
from pathlib import Path

sys.path[:0] = [str(Path.cwd()), str(Path(__file__).resolve().parents[2])]
family, folder, arguments = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
sys.argv = [sys.argv[0], "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.controlnet  # noqa: E402
import comfy.model_base  # noqa: E402
import comfy.supported_models  # noqa: E402
import comfy.weight_adapter  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from cnet_core.checkpoints import load_controlnet  # noqa: E402
from cnet_core.networks.config import SD15, SDXL  # noqa: E402
from cnet_core.networks.controlnet import ControlNet, LatentControlNet  # noqa: E402
from cnet_core.networks.unet import UNet  # noqa: E402

RANK = 4


def random_state(net, seed):
    torch.manual_seed(seed)
    return {
        name: torch.randn(t.shape) * (t[0].numel() ** -0.5 if t.ndim > 1 else 0.1)
        for name, t in net.state_dict().items()
    }


def halves(name, weight, ends):
    out, into, *kernel = weight.shape
    shapes = (out, RANK, *[1] * len(kernel)), (RANK, into, *kernel)
    # So that up @ down is half as large as the weights themselves.
    scale, stem = (0.25 / (RANK * weight[0].numel())) ** 0.25, name.removesuffix(".weight")
    return {stem + end: scale * torch.randn(shape) for end, shape in zip(ends, shapes, strict=True)}


def inputs(config, hint):
    torch.manual_seed(9)
    return {
        "x": torch.randn(2, 4, 8, 8),
        "hint": hint,
        "timesteps": torch.tensor([981.0, 17.0]),
        "context": torch.randn(2, 7, config.context_dim),
        "y": torch.randn(2, config.adm_in_channels) if config.adm_in_channels else None,
    }


def report(theirs, net, v):
    ours = net(v["x"], net.encode_hint(v["hint"]), v["timesteps"], v["context"], v["y"])
    pairs = list(zip(ours, [*theirs["output"], *theirs["middle"]], strict=True))
    difference = max(float((a - b).abs().max()) for a, b in pairs)
    print(json.dumps({"difference": difference, "spread": min(float(b.std()) for _, b in pairs)}))


@torch.no_grad()
def control_lora(kind):
    """The topology of SD1.5 or SDXL, narrower and less deep; ComfyUI merges in every layer at every call."""
    if kind == "sd15":
        config, host = replace(SD15, model_channels=32), comfy.supported_models.SD15
    else:
        config = replace(SDXL, model_channels=64, transformer_depth=(0, 1, 2), transformer_depth_middle=2)
        host = comfy.supported_models.SDXL
    base = random_state(UNet(config), 1)
    file = {"lora_controlnet": torch.zeros(0)}
    for name, tensor in random_state(ControlNet(config), 2).items():
        low_rank = name in base and tensor.ndim > 1
        file |= halves(name, tensor, (".up", ".down")) if low_rank else {name: tensor}
    save_file(file, folder / "control_lora.safetensors")

    depths = list(zip(config.transformer_depth, config.num_res_blocks, strict=True))
    settings = {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": config.model_channels,
        "num_res_blocks": list(config.num_res_blocks),
        "channel_mult": list(config.channel_mult),
        "transformer_depth": [depth for depth, blocks in depths for _ in range(blocks)],
        "transformer_depth_output": [depth for depth, blocks in depths for _ in range(blocks + 1)],
        "transformer_depth_middle": config.transformer_depth_middle,
        "context_dim": config.context_dim,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": config.use_linear_in_transformer,
        "adm_in_channels": config.adm_in_channels,
        "num_classes": "sequential" if config.adm_in_channels else None,
        "use_temporal_attention": False,
        "legacy": False,
    }
    model_config = host(settings)
    model_config.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.BaseModel(model_config, device="cpu")
    model.diffusion_model.load_state_dict(base)
    control = comfy.controlnet.load_controlnet(str(folder / "control_lora.safetensors"))
    control.pre_run(model, lambda percent: percent)
    v = inputs(config, torch.rand(2, 3, 64, 64))
    extra = {"y": v["y"]} if v["y"] is not None else {}
    theirs = control.control_model(v["x"], v["hint"], v["timesteps"], v["context"], **extra)
    net = load_controlnet(folder / "control_lora.safetensors", base=model.diffusion_model.state_dict())
    report(theirs, net, v)


@torch.no_grad()
def ctrlora(advanced):
    """SD1.5's topology at full width, because its loader knows no other."""
    # Its package without its __init__, which needs a running server.
    package = types.ModuleType("advanced")
    package.__path__ = [str(Path(advanced) / "adv_control")]
    sys.modules["advanced"] = package
    loader = importlib.import_module("advanced.control_ctrlora")

    base = random_state(LatentControlNet(SD15, 4, ()), 3)
    ends = ".lora_layer.up.weight", ".lora_layer.down.weight"
    file = {}
    for name, tensor in base.items():
        if name.startswith(("zero_convs", "middle_block_out")) or "norm" in name:
            file[name] = torch.randn_like(tensor) * (tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.1)
        elif tensor.ndim == 2:
            file |= halves(name, tensor, ends)
    base |= {name: torch.zeros_like(tensor) for name, tensor in file.items() if name.endswith(ends)}
    for name, tensors in (("base", base), ("lora", file)):
        save_file({f"control_model.{n}": t for n, t in tensors.items()}, folder / f"{name}.safetensors")
    control = loader.load_ctrlora(str(folder / "base.safetensors"), str(folder / "lora.safetensors"))
    # It writes LoRA patches as hosts took them until early 2025; newer ones pass over them with a warning.
    patches = control.control_model_wrapped.patches
    for name, ((strength, (kind, values), *rest),) in patches.items():
        if kind == "lora":
            adapter = comfy.weight_adapter.LoRAAdapter(set(), values[:6])
            patches[name] = [(strength, adapter, *rest)]
    comfy.model_management.load_models_gpu([control.control_model_wrapped], force_patch_weights=True)
    v = inputs(SD15, torch.randn(2, 4, 8, 8))
    theirs = control.control_model(v["x"], v["hint"], v["timesteps"], v["context"])
    report(theirs, load_controlnet(folder / "lora.safetensors", base=base), v)


if __name__ == "__main__":
    {"control_lora": control_lora, "ctrlora": ctrlora}[family](*arguments)

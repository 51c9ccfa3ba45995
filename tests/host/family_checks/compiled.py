"""Run by a host's own interpreter in the host's folder: python compiled.py PACK RESULTS.json WHAT HOW.

Our controls, scheduled, on a small base: all plain, and with WHAT compiled: the model, by the host's
TorchCompileModel with the backend of this name, or our networks, by their loader ("controls"). HOW: a "pair"
of ControlNets merged, or one of each of our families, "merged" or "chained". Writes the largest difference,
and how many graphs were compiled after two and after ten steps.
"""

import importlib
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(Path.cwd()), *(p for p in sys.path if Path(p).resolve() != HERE)]
from comfy.cli_args import args  # noqa: E402

args.cpu = True
args.use_pytorch_cross_attention = True
import comfy.sample  # noqa: E402
import comfy.supported_models as models  # noqa: E402
import folder_paths  # noqa: E402
import torch  # noqa: E402
import torch._dynamo.utils  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

sys.path.append(str(HERE))
from packs import load_pack  # noqa: E402
from tiny import FAMILIES, SD15, base, fill, low_rank, sd15_control  # noqa: E402

SMALL = {
    **SD15, "num_res_blocks": [1, 1], "channel_mult": [1, 2], "transformer_depth": [1, 0],
    "transformer_depth_output": [1, 1, 0, 0], "transformer_depth_middle": 0,
}  # fmt: skip


def write_pair(folder: Path) -> list[str]:
    networks = importlib.import_module("cnet_pack.cnet_core.networks.controlnet")
    config = importlib.import_module("cnet_pack.cnet_core.networks.config").UNetConfig
    save = importlib.import_module("cnet_pack.cnet_core.checkpoints").save_controlnet
    sizes = config(32, (1, 2), (1, 1), (1, 0), context_dim=8, num_heads=2)
    for seed in (2, 3):
        save(fill(networks.ControlNet(sizes), seed), folder / f"{seed}.safetensors")
    return ["2.safetensors", "3.safetensors"]


def write_families(folder: Path, model: Any) -> list[str]:
    unions = importlib.import_module("cnet_pack.cnet_core.networks.union")
    shapes = importlib.import_module("cnet_pack.cnet_core.checkpoints.shapes")
    base_config = importlib.import_module("cnet_pack.nodes.host.models").base_config
    config = replace(base_config(model.model), num_heads=2, num_head_channels=None)
    states = {
        "controlnet": sd15_control(2).state_dict(),
        "lora": low_rank(sd15_control(3).state_dict(), model.model.diffusion_model.state_dict()),
        "union": fill(unions.UnionControlNet(config, types=6), 4).state_dict(),
        "adapter": next(family.file() for family in FAMILIES if family.name == "sd15_t2i_adapter"),
    }
    for name, state in states.items():
        save_file(state, folder / f"{name}.safetensors", metadata=shapes.config_metadata(config))
    return [f"{name}.safetensors" for name in states]


def main(pack: Path, results: Path, what: str, how: str) -> None:
    nodes = load_pack(pack)
    model = compiled_model = base(models.SD15, SMALL if how == "pair" else SD15)
    if what != "controls":
        compile_model = importlib.import_module("comfy_extras.nodes_torch_compile").TorchCompileModel
        compiled_model = compile_model.execute(model, what).args[0]
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        generator = torch.Generator().manual_seed(5)
        hint = torch.rand(1, 64, 64, 3, generator=generator)
        texts = torch.randn(2, 1, 6, 8, generator=generator)
        folder_paths.add_model_folder_path("controlnet", folder)
        files = write_pair(Path(folder)) if how == "pair" else write_families(Path(folder), model)
        schedule = nodes["CNetKeyframe"].execute(0.0, 1.0, "linear").args[0]
        schedule = nodes["CNetKeyframe"].execute(1.0, 0.3, "linear", schedule).args[0]
        always = {"start_percent": 0.0, "end_percent": 1.0, "strength": 0.8}
        prompts = [[[text, {"pooled_output": None}]] for text in texts]

        def net(file: str, compiled: bool) -> Any:
            given = {"model": model} if "lora" in file else {}
            control = nodes["CNetLoadControlNet"].execute(file, compile=compiled, **given).args[0]
            if file.startswith("union"):
                control = nodes["CNetUnionHints"].execute(control, depth=hint).args[0]
            return control

        def controlled(compiled: bool) -> list:
            nets = [net(file, compiled) for file in files]
            images = [None if file.startswith("union") else hint for file in files]
            settings = [always | {"schedule": schedule}, *[always | {"uncond_gain": 0.5}] * (len(files) - 1)]
            sides = prompts
            if how == "chained":
                for control, image, weights in zip(nets, images, settings, strict=True):
                    sides = nodes["CNetApply"].execute(*sides, control, image, **weights).args
                return sides
            units = [
                nodes["CNetUnit"].execute(control, image, **weights).args[0]
                for control, image, weights in zip(nets, images, settings, strict=True)
            ]
            units = {f"unit{i}": unit for i, unit in enumerate(units)}
            return nodes["CNetMerge"].execute(*prompts, mode={"mode": "sum"}, units=units).args

        def draw(net, steps: int, conditionings) -> torch.Tensor:
            noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(9))
            return comfy.sample.sample(
                net, noise, steps, 3.0, "euler", "simple", *conditionings, torch.zeros(1, 4, 8, 8),
                denoise=0.6, disable_pbar=True, seed=1,
            )  # fmt: skip

        def graphs() -> int:
            return torch._dynamo.utils.counters["stats"]["unique_graphs"]

        plain, bare = draw(model, 8, controlled(False)), draw(model, 8, prompts)
        conditionings = controlled(what == "controls")
        start = time.monotonic()
        draw(compiled_model, 2, conditionings)
        early = graphs()
        seconds = time.monotonic() - start
        result = draw(compiled_model, 8, conditionings)
        found = {
            "difference": float((result - plain).abs().max()), "effect": float((plain - bare).abs().max()),
            "graphs_after_2": early, "graphs_after_10": graphs(), "seconds": seconds,
        }  # fmt: skip
    results.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:5])

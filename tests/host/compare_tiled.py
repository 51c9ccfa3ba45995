"""Controls of ours and the host's under Tiled Diffusion, which cuts the hint of each into tiles.

Run by a host's own Python in its folder: compare_tiled.py PACK TILED_DIFFUSION. Prints one line of JSON: for
each method, tiles at once and way of control the largest difference from the latent under the host's own
control, and how much another hint changes that.
"""

import importlib.util
import json
import sys
import tempfile
from pathlib import Path

PACK, TILED = sys.argv[1:3]
sys.path[:0] = [str(Path.cwd()), str(Path(__file__).parent / "family_checks")]
from comfy.cli_args import args  # noqa: E402

args.cpu = True
args.use_pytorch_cross_attention = True
import comfy.controlnet  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.supported_models as models  # noqa: E402
import folder_paths  # noqa: E402
import torch  # noqa: E402
from packs import load_pack  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from tiny import SD15, TEXT, base, sd15_control, sized  # noqa: E402

# Tiles of 64x64 pixels that overlap by 16, in a picture of 128x96.
SHAPE, TILE, OVERLAP = (1, 4, 12, 16), 64, 16
TIMES = {"start_percent": 0.0, "end_percent": 1.0}

pack = load_pack(Path(PACK))
place = {"submodule_search_locations": [TILED]}
spec = importlib.util.spec_from_file_location("tiled", Path(TILED) / "__init__.py", **place)
tiled = sys.modules["tiled"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiled)
TiledDiffusion = tiled.NODE_CLASS_MAPPINGS["TiledDiffusion"]


def prompts():
    return [[[torch.randn(1, 6, TEXT, generator=torch.Generator().manual_seed(s)), {}]] for s in range(2)]


def by_host(control, image):
    control = control.copy().set_cond_hint(image.movedim(-1, 1), 0.8, (0.0, 1.0))
    return [[[text, {"control": control}]] for [[text, _]] in prompts()]


def by_us(control, image):
    return pack["CNetApply"].execute(*prompts(), control, image, strength=0.8, **TIMES).args


def merged(controls, image):
    units = [pack["CNetUnit"].execute(c, image, strength=0.4, **TIMES).args[0] for c in controls]
    units = {f"unit{i}": unit for i, unit in enumerate(units)}
    return pack["CNetMerge"].execute(*prompts(), units, {"mode": "sum"}).args


def main(folder):
    folder_paths.add_model_folder_path("controlnet", str(folder))
    state = {name: tensor.contiguous() for name, tensor in sd15_control(2).state_dict().items()}
    save_file(state, folder / "control.safetensors")
    model = base(models.SD15, SD15)
    with sized(models.SD15, SD15):
        hosts = comfy.controlnet.load_controlnet(str(folder / "control.safetensors"))
    ours = pack["CNetLoadControlNet"].execute("control.safetensors").args[0]
    image = torch.rand(1, 96, 128, 3, generator=torch.Generator().manual_seed(5))

    def drawn(method, at_once, sides):
        noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(9))
        # One of the methods draws random shifts.
        torch.manual_seed(3)
        return comfy.sample.sample(
            TiledDiffusion().apply(model, method, TILE, TILE, OVERLAP, at_once)[0], noise, 3, 3.0, "euler",
            "simple", *sides, torch.zeros(SHAPE), denoise=0.6, disable_pbar=True, seed=1,
        )  # fmt: skip

    found = {}
    for method in ("MultiDiffusion", "Mixture of Diffusers", "SpotDiffusion"):
        for at_once in (1, 4):
            expected = drawn(method, at_once, by_host(hosts, image))
            other = drawn(method, at_once, by_host(hosts, 1 - image))
            for what, sides in (
                ("ours, the host's node", by_host(ours, image)),
                ("ours", by_us(ours, image)),
                ("the host's, our node", by_us(hosts, image)),
                ("merged", merged((ours, hosts), image)),
            ):
                found[f"{method}, {at_once} at once, {what}"] = {
                    "difference": float((drawn(method, at_once, sides) - expected).abs().max()),
                    "effect": float((other - expected).abs().max()),
                }
    print(json.dumps(found))


with tempfile.TemporaryDirectory() as name, torch.no_grad():
    main(Path(name))

"""Difference files and global average pooling beside ComfyUI's own ControlNet, on the host's UNet.

Run by a host's own Python in its folder: compare_kinds.py PACK. Prints one line of JSON: for each kind the
largest difference of the two latents after sampling, and how much differs without what makes it that kind.
"""

import json
import sys
import tempfile
from pathlib import Path

PACK = sys.argv[1]
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
from tiny import SD15, SDXL, TEXT, base, sd15_control, sized  # noqa: E402

SHAPE = (1, 4, 8, 8)

pack = load_pack(Path(PACK))


def prompt(seed):
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(1, 1280, generator=generator)
    return [[torch.randn(1, 6, TEXT, generator=generator), {"pooled_output": pooled}]]


def drawn(model, control):
    """The latent under a control, applied as the host's own node does, at another strength than 1."""
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(5))
    control = control.copy().set_cond_hint(image.movedim(-1, 1), 0.8, (0.0, 1.0))
    sides = [[[text, {**rest, "control": control}] for text, rest in prompt(seed)] for seed in range(2)]
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(9))
    return comfy.sample.sample(
        model, noise, 2, 3.0, "euler", "simple", *sides, torch.zeros(SHAPE), denoise=0.3,
        disable_pbar=True, seed=1,
    )  # fmt: skip


def compared(kind, host, sizes):
    """A file of a `difference`, or of `shuffle`, whose metadata tell ours what its name tells the host."""
    model = base(host, sizes)
    whole = sd15_control(2, sizes).state_dict()
    own = model.model.diffusion_model.state_dict()
    state = {key: tensor - own[key] if key in own else tensor for key, tensor in whole.items()}
    state = {"difference": torch.ones(())} | state if kind == "difference" else whole
    told = {"global_average_pooling": "true"} if kind == "shuffle" else {}
    name = f"{host.__name__}_{kind}.safetensors"
    state = {k if k == "difference" else f"control_model.{k}": v.contiguous() for k, v in state.items()}
    save_file(state, FOLDER / name, metadata=told)

    given = {"model": model} if kind == "difference" else {}
    mine = drawn(model, pack["CNetLoadControlNet"].execute(name, **given).args[0])
    with sized(host, sizes):
        theirs = comfy.controlnet.load_controlnet(str(FOLDER / name), model=given.get("model"))
        plain = comfy.controlnet.load_controlnet(
            str(FOLDER / name), model_options={"global_average_pooling": False}
        )
    theirs, plain = drawn(model, theirs), drawn(model, plain)
    return {
        "difference": float((mine - theirs).abs().max()),
        "effect": float((theirs - plain).abs().max()),
    }


with tempfile.TemporaryDirectory() as folder, torch.no_grad():
    FOLDER = Path(folder)
    folder_paths.add_model_folder_path("controlnet", folder)
    hosts = {"sd15": (models.SD15, SD15), "sdxl": (models.SDXL, SDXL)}
    found = {
        f"{base_name} {kind}": compared(kind, *hosts[base_name])
        for base_name in hosts
        for kind in ("difference", "shuffle")
    }
    print(json.dumps(found))

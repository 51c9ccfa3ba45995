"""Reference-only beside Advanced-ControlNet's reference_attn, on the host's UNet with random weights.

Run by a host's own Python in its folder: compare_reference.py PACK ADVANCED_CONTROLNET. Prints one line of
JSON: for each case the largest difference of the two latents after sampling, and the size of the effect.

Both read a reference through all self-attentions, at full strength and with the same noise: theirs is drawn
anew at each step, so it is replaced by ours. Left out is what differs by design: strengths below 1 (theirs
mix what is read, ours what comes out), and a ref_weight below 1 (theirs leaves out blocks; ours has Block
Weights). For SDXL they cube the style fidelity, so ours is given the cube.
"""

import importlib
import json
import sys
import types
from pathlib import Path

PACK, ADVANCED = sys.argv[1:3]
sys.path[:0] = [str(Path.cwd()), str(Path(__file__).parent / "family_checks")]
from comfy.cli_args import args  # noqa: E402

args.cpu = True
args.use_pytorch_cross_attention = True
import comfy.sample  # noqa: E402
import comfy.supported_models as models  # noqa: E402
import torch  # noqa: E402
from packs import load_pack  # noqa: E402
from tiny import SD15, TEXT, TinyVAE, base  # noqa: E402

SDXL = {
    **SD15, "num_res_blocks": [2] * 3, "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 1, 1, 2, 2],
    "transformer_depth_output": [0] * 3 + [1] * 3 + [2] * 3, "transformer_depth_middle": 2,
    "use_linear_in_transformer": True, "adm_in_channels": 2816, "num_classes": "sequential", "num_heads": -1,
    "num_head_channels": 16,
}  # fmt: skip
SHAPE = (1, 4, 8, 8)
SIDES = ("positive", "negative")


def drawn(model, prompts):
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(9))
    return comfy.sample.sample(
        model, noise, 2, 3.0, "euler", "simple", prompts["positive"], prompts["negative"],
        torch.zeros(SHAPE), denoise=0.3, disable_pbar=True, seed=1,
    )  # fmt: skip


def prompt(seed):
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(1, 1280, generator=generator)
    return [[torch.randn(1, 6, TEXT, generator=generator), {"pooled_output": pooled}]]


def main():
    pack = load_pack(Path(PACK))
    # Its package without its __init__, which needs a running server.
    package = types.ModuleType("advanced")
    package.__path__ = [str(Path(ADVANCED) / "adv_control")]
    sys.modules["advanced"] = package
    peer = importlib.import_module("advanced.control_reference")
    noised = peer.ref_noise_latents
    # ReferenceControl draws its noise so.
    fixed = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    peer.ref_noise_latents = lambda latents, sigma, noise=None: noised(latents, sigma, fixed.to(latents))

    prompts = {side: prompt(seed) for seed, side in enumerate(SIDES)}
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(5))
    vae = TinyVAE(4, False)

    def ours(fidelity):
        (control,) = pack["CNetReference"].execute(style_fidelity=fidelity).args
        times = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
        out = pack["CNetApply"].execute(**prompts, control_net=control, image=image, vae=vae, **times).args
        return dict(zip(SIDES, out, strict=True))

    def theirs(fidelity):
        options = peer.ReferenceOptions.create_combo("reference_attn", fidelity, 1.0)
        control = peer.ReferenceAdvanced(options, None).set_cond_hint(vae.encode(image))
        return {side: [[t, {**o, "control": control}] for t, o in prompts[side]] for side in SIDES}

    found = {}
    with torch.no_grad():
        for name, config, sizes, fidelities in (
            ("sd15", models.SD15, SD15, (0.0, 0.5, 1.0)),
            ("sdxl", models.SDXL, SDXL, (0.5,)),
        ):
            model = base(config, sizes)
            plain = drawn(model, prompts)
            for fidelity in fidelities:
                mine = drawn(model, ours(fidelity**3 if name == "sdxl" else fidelity))
                peers = drawn(model, theirs(fidelity))
                found[f"{name} {fidelity}"] = {
                    "difference": float((mine - peers).abs().max()),
                    # Of the reference, or of the step from one style fidelity to the next.
                    "effect": float((peers - plain).abs().max()),
                }
                plain = peers
    print(json.dumps(found))


if __name__ == "__main__":
    main()

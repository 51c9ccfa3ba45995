"""Advanced-ControlNet's families beside ours, on the host's UNet with random weights.

Run by a host's own Python in its folder: compare_advanced.py PACK ADVANCED_CONTROLNET [FAMILY ...]. Prints
one line of JSON: for each family and meaning the largest difference of the two latents after sampling, how
much what is compared changes theirs, and how large the latent is.

Of a union ControlNet one hint is compared: with several, theirs look at each other in its attention, ours do
not.
"""

import importlib
import json
import sys
import tempfile
import types
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

PACK, ADVANCED = sys.argv[1:3]
sys.path[:0] = [str(Path.cwd()), str(Path(__file__).parent / "family_checks")]
from comfy.cli_args import args  # noqa: E402

args.cpu = True
args.use_pytorch_cross_attention = True
import comfy.sample  # noqa: E402
import comfy.supported_models as models  # noqa: E402
import comfy.t2i_adapter.adapter  # noqa: E402
import folder_paths  # noqa: E402
import torch  # noqa: E402
from packs import load_pack  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from tiny import SD15, SDXL, TEXT, base, fill, low_rank, sized  # noqa: E402

# The width of union ControlNets is written into the code of both; one level is enough.
UNION = {
    **SDXL, "model_channels": 320, "num_res_blocks": [1], "channel_mult": [1], "transformer_depth": [1],
    "transformer_depth_output": [1, 1], "transformer_depth_middle": 1,
}  # fmt: skip
UNION_TYPES = 6
# Three steps from 0.6 of the noise lie at 0.4, 0.6 and 0.8 of all of sampling.
STEPS, DENOISE = 3, 0.6
BETWEEN_1_AND_2, BETWEEN_2_AND_3 = 0.5, 0.7
OURS, THEIRS = "CNetApply", "ACN_AdvancedControlNetApply_v2"
APPLY = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}

pack = load_pack(Path(PACK))
# Its package without its __init__, which needs a running server.
package = types.ModuleType("advanced")
package.__path__ = [str(Path(ADVANCED) / "adv_control")]
sys.modules["advanced"] = package
peers = {
    node.define_schema().node_id: node
    for module in ("nodes_main", "nodes_keyframes", "nodes_weight", "nodes_plusplus")
    for node in vars(importlib.import_module(f"advanced.{module}")).values()
    if isinstance(node, type) and "define_schema" in vars(node)
}
for part in ("networks.controlnet", "networks.union", "networks.lllite", "checkpoints.shapes"):
    importlib.import_module(f"cnet_pack.cnet_core.{part}")
networks = sys.modules["cnet_pack.cnet_core.networks"]
config_metadata = sys.modules["cnet_pack.cnet_core.checkpoints.shapes"].config_metadata
base_config = sys.modules["cnet_pack.nodes.host.models"].base_config


def ours(node, *positional, **inputs):
    return pack[node].execute(*positional, **inputs).args[0]


def theirs(node, *positional, **inputs):
    return peers[node].execute(*positional, **inputs).args[0]


def adapter_state(xl):
    channels = [64, 128, 256, 256] if xl else [32, 64, 128, 128]
    make = comfy.t2i_adapter.adapter.Adapter
    return fill(make(channels, 2, 768 if xl else 192, 1, True, False, xl), 2).state_dict()


def lllite_state(config):
    sizes = {}
    for (kind, number), (channels, scale, depth) in networks.lllite.transformer_blocks(config).items():
        block = "middle_block" if kind == "middle" else f"{kind}_blocks_{number}"
        for i in range(depth):
            for layer in ("attn1_to_q", "attn1_to_k", "attn1_to_v", "attn2_to_q"):
                name = f"lllite_unet_{block}_1_transformer_blocks_{i}_{layer}"
                sizes[name] = networks.lllite.LayerSizes(channels, {1: 1, 2: 2, 4: 3}[scale], 12, 10)
    state = fill(networks.lllite.LLLite(sizes), 2).state_dict()
    return {name.removeprefix("layers."): tensor for name, tensor in state.items()}


class Bench:
    """One family: its base, both packs' control of one file, and the latents drawn with chains of them."""

    def __init__(self, name, host, sizes):
        self.name, self.file = name, f"{name}.safetensors"
        self.model = base(host, sizes)
        heads = {"num_heads": 2, "num_head_channels": None} if host is models.SD15 else {}
        self.config = replace(base_config(self.model.model), **heads)
        state = {key: tensor.contiguous() for key, tensor in self.state().items()}
        save_file(state, FOLDER / self.file, metadata=config_metadata(self.config))
        types = {"union_controlnet_num_control_type": UNION_TYPES} if name == "union" else {}
        self.image = picture(5)
        # Of a Control-LoRA the host asks the base for its sizes, of others it guesses them by the file.
        with nullcontext() if "lora" in name else sized(host, {**sizes, **types}):
            self.nets = self.loaded()
        self.known = {}

    def state(self):
        if self.name.startswith("t2i"):
            return adapter_state("xl" in self.name)
        if self.name == "lllite":
            return lllite_state(self.config)
        if self.name == "union":
            return fill(networks.union.UnionControlNet(self.config, types=UNION_TYPES), 2).state_dict()
        state = fill(networks.controlnet.ControlNet(self.config), 2).state_dict()
        own = self.model.model.diffusion_model.state_dict()
        return low_rank(state, own) if "lora" in self.name else state

    def loaded(self):
        mine = ours("CNetLoadControlNet", self.file, model=self.model if "lora" in self.name else None)
        if self.name != "union":
            return {OURS: mine, THEIRS: theirs("ACN_ControlNetLoaderAdvanced", self.file)}
        peer = theirs("ACN_ControlNet++LoaderSingle", name=self.file, control_type="depth")
        return {OURS: ours("CNetUnionHints", mine, depth=self.image), THEIRS: peer}

    def drawn(self, *controls, batch=1):
        """The latent under a chain of controls: (OURS or THEIRS, inputs of its apply node) each."""
        key = (
            batch,
            *(
                (node, *((k, v if isinstance(v, float) else id(v)) for k, v in inputs.items()))
                for node, inputs in controls
            ),
        )
        if key not in self.known:
            sides = [prompt(seed) for seed in range(2)]
            for node, inputs in controls:
                image = None if self.name == "union" and node == OURS else self.image
                wanted = {**APPLY, "control_net": self.nets[node], "image": image, **inputs}
                sides = (pack if node == OURS else peers)[node].execute(*sides, **wanted).args
            shape = (batch, 4, 8, 8)
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(9))
            self.known[key] = comfy.sample.sample(
                self.model, noise, STEPS, 3.0, "euler", "simple", *sides, torch.zeros(shape),
                denoise=DENOISE, disable_pbar=True, seed=1,
            )  # fmt: skip
        return self.known[key]

    def compared(self):
        plain, found = (OURS, {}), {}

        def note(what, mine, peer, unlike):
            found[what] = {
                "difference": float((mine - peer).abs().max()),
                "effect": float((peer - unlike).abs().max()),
                "size": float(mine.abs().max()),
            }

        note("plain", self.drawn(plain), self.drawn((THEIRS, {})), self.drawn())
        for what, (mine, peer, batch) in MEANINGS.items():
            pair = [self.drawn(one, batch=batch) for one in ((OURS, mine), (THEIRS, peer))]
            note(what, *pair, self.drawn(plain, batch=batch))
        one, two = {"strength": 0.7}, {"strength": 0.4}
        alone = self.drawn((OURS, one), (OURS, two))
        for what, first, second in (("ours, theirs", OURS, THEIRS), ("theirs, ours", THEIRS, OURS)):
            note(what, alone, self.drawn((first, one), (second, two)), self.drawn((OURS, one)))
        return found


def picture(seed):
    return torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(seed))


def prompt(seed):
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(1, 1280, generator=generator)
    return [[torch.randn(1, 6, TEXT, generator=generator), {"pooled_output": pooled}]]


def meanings():
    """Our inputs, theirs of the same meaning, and the number of latents."""
    mask = torch.zeros(1, 64, 64)
    mask[:, :, :32] = 1
    keys = None, None
    for percent, strength in ((0.0, 0.4), (BETWEEN_1_AND_2, 1.0), (BETWEEN_2_AND_3, 0.0)):
        keys = (
            ours("CNetKeyframe", percent, strength, "hold", keys[0]),
            theirs("TimestepKeyframe", start_percent=percent, strength=strength, prev_timestep_kf=keys[1]),
        )
    part = {"start_percent": BETWEEN_1_AND_2, "end_percent": BETWEEN_2_AND_3}
    soft = theirs("ACN_ScaledSoftControlNetWeights", base_multiplier=0.825)
    third = theirs("ACN_ScaledSoftControlNetWeights", base_multiplier=1.0, uncond_multiplier=0.3)
    frames = theirs("LatentKeyframeGroup", index_strengths="0=1.0, 1=0.5, 2=0.0")
    return {
        "strength": ({"strength": 0.7}, {"strength": 0.7}, 1),
        "range": (part, part, 1),
        "half mask": ({"mask": mask}, {"mask_optional": mask}, 1),
        "keyframes": ({"schedule": keys[0]}, {"timestep_kf": keys[1]}, 1),
        "latent keyframes": (
            {"schedule": ours("CNetFrameStrengths", "1, 0.5, 0")}, {"latent_kf_override": frames}, 3,
        ),
        "uncond gain": ({"uncond_gain": 0.3}, {"weights_override": third}, 1),
        "soft weights": (
            {"blocks": ours("CNetBlockWeights", {"preset": "soft"})}, {"weights_override": soft}, 1,
        ),
    }  # fmt: skip


BENCHES = {
    "sdxl": (models.SDXL, SDXL),
    "sd15_control_lora": (models.SD15, SD15),
    "sdxl_control_lora": (models.SDXL, SDXL),
    "t2i_sd15": (models.SD15, SD15),
    "t2i_xl": (models.SDXL, SDXL),
    "lllite": (models.SDXL, SDXL),
    "union": (models.SDXL, UNION),
}

with tempfile.TemporaryDirectory() as folder, torch.no_grad():
    FOLDER, MEANINGS = Path(folder), meanings()
    folder_paths.add_model_folder_path("controlnet", folder)
    torch.manual_seed(1)
    print(json.dumps({name: Bench(name, *BENCHES[name]).compared() for name in sys.argv[3:] or BENCHES}))

"""Run by a host's own Python: our networks beside the host's and kohya's, on the host's UNet.

Arguments: the host's folder, an empty folder for files, kohya's node file or "none", the file of LLLite in
sd-scripts or "none". Prints one line of JSON: the largest difference of each comparison, and the size of what
the control changes.
"""

import importlib.util
import json
import sys
from pathlib import Path
from unittest.mock import MagicMock

ROOT, SCRATCH, KOHYA, SD_SCRIPTS = sys.argv[1:5]
sys.argv = [sys.argv[0], "--cpu", "--use-pytorch-cross-attention"]
sys.path.insert(0, ROOT)
sys.path.append(str(Path(__file__).resolve().parents[2]))

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.controlnet  # noqa: E402
import comfy.ops  # noqa: E402
import torch  # noqa: E402
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel  # noqa: E402
from comfy.t2i_adapter.adapter import Adapter, Adapter_light  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from cnet_core.checkpoints import open_control  # noqa: E402
from cnet_core.control.lllite import add_patches, corrections, layers_changed  # noqa: E402
from cnet_core.networks.config import UNetConfig  # noqa: E402
from cnet_core.networks.lllite import LayerSizes, LLLite, transformer_blocks  # noqa: E402
from cnet_core.networks.unet import UNet  # noqa: E402

WIDTHS = [32, 64, 128, 128]
SD = UNetConfig(32, (1, 2, 4, 4), context_dim=24, num_head_channels=16, use_linear_in_transformer=True)
XL = UNetConfig(
    32,
    (1, 2, 4),
    (2, 2, 2),
    (0, 1, 2),
    2,
    context_dim=24,
    num_head_channels=16,
    use_linear_in_transformer=True,
    adm_in_channels=20,
)


def randomised(net):
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if parameter.ndim == 1:
                parameter.normal_(1.0 if name.endswith("weight") else 0.0, 0.1)
            else:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    return net.eval().requires_grad_(False)


def host_unet(config):
    depths = [
        d for d, n in zip(config.transformer_depth, config.num_res_blocks, strict=True) for _ in range(n)
    ]
    ups = [
        d for d, n in zip(config.transformer_depth, config.num_res_blocks, strict=True) for _ in range(n + 1)
    ]
    return randomised(
        UNetModel(
            image_size=32,
            in_channels=4,
            model_channels=config.model_channels,
            out_channels=4,
            num_res_blocks=list(config.num_res_blocks),
            channel_mult=list(config.channel_mult),
            num_head_channels=config.num_head_channels,
            num_classes="sequential" if config.adm_in_channels else None,
            adm_in_channels=config.adm_in_channels,
            use_spatial_transformer=True,
            transformer_depth=depths,
            transformer_depth_output=ups,
            transformer_depth_middle=config.transformer_depth_middle,
            context_dim=config.context_dim,
            use_linear_in_transformer=True,
            legacy=False,
            dtype=torch.float32,
            operations=comfy.ops.disable_weight_init,
        )
    )


def inputs(config, height, width):
    torch.manual_seed(2)
    y = torch.randn(2, config.adm_in_channels) if config.adm_in_channels else None
    x, t = torch.randn(2, 4, height, width), torch.tensor([900.0, 30.0])
    return x, t, torch.randn(2, 7, 24), y, torch.rand(2, 3, 8 * height, 8 * width)


def saved(tensors, name):
    path = Path(SCRATCH) / f"{name}.safetensors"
    save_file(tensors, path)
    return path


def compare_adapter(name, theirs, config):
    """Features and the UNet's prediction, through the host's T2IAdapter control and through ours."""
    theirs = randomised(theirs)
    net = open_control(saved(theirs.state_dict(), name)).build()
    bare = host_unet(config)
    ours = UNet(config).eval()
    ours.load_state_dict(bare.state_dict())
    # The last halving is of an even side, where the host's odd padding plays no part.
    x, t, context, y, hint = inputs(config, 16, 24)
    hint = hint[:, : net.hint_channels]
    control = comfy.controlnet.T2IAdapter(theirs, theirs.input_channels, 8, "nearest-exact", "cpu")
    answer = control.set_cond_hint(hint).get_control(x, t, {}, 1, {})
    features = net.encode_hint(hint)
    their_features = [f for f in [*answer["input"], *answer["middle"]] if f is not None]
    if not answer["middle"]:
        their_features.reverse()
    else:
        their_features = [*reversed(their_features[:-1]), their_features[-1]]
    bare_prediction = bare(x, t, context, y)
    their_prediction = bare(x, t, context, y, control=answer)
    prediction = ours(x, t, context, y, net(x, features, t, context, y))
    return {
        "features": max(float((a - b).abs().max()) for a, b in zip(features, their_features, strict=True)),
        "unet": float((prediction - their_prediction).abs().max()),
        "effect": float((their_prediction - bare_prediction).abs().max()),
    }


def module_at(file):
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compare_lllite(node_file):
    """The host's UNet with kohya's patches and with ours, every hooked layer in the file."""
    kohya = module_at(node_file)
    sizes = {}
    for (kind, number), (channels, scale, depth) in transformer_blocks(XL).items():
        block = "middle_block" if kind == "middle" else f"{kind}_blocks_{number}"
        for i in range(depth):
            for layer in ("attn1_to_q", "attn1_to_k", "attn1_to_v", "attn2_to_q"):
                name = f"lllite_unet_{block}_1_transformer_blocks_{i}_{layer}"
                sizes[name] = LayerSizes(channels, {1: 1, 2: 2, 4: 3}[scale], 12, 10)
    state = randomised(LLLite(sizes)).state_dict()
    path = saved({name.removeprefix("layers."): tensor for name, tensor in state.items()}, "lllite")
    net = open_control(path).build()
    unet = host_unet(XL)
    x, t, context, y, hint = inputs(XL, 16, 24)
    patch = kohya.load_control_net_lllite_patch(str(path), hint.movedim(1, -1), 0.7, 0, 0, 0)
    theirs = unet(x, t, context, y, transformer_options={"patches": {name: [patch] for name in NAMES}})
    options = {}
    add_patches(options, corrections(net, net.encode_hint(hint), [0.7, 0.7]).attention)
    ours = unet(x, t, context, y, transformer_options=options)
    bare = unet(x, t, context, y)
    half = {}
    add_patches(half, corrections(net, net.encode_hint(hint), [0.7, 0.0]).attention)
    one_side = unet(x, t, context, y, transformer_options=half)
    return {
        "layers": len(sizes),
        "unet": float((ours - theirs).abs().max()),
        "controlled row": float((one_side[0] - theirs[0]).abs().max()),
        "other row": float((one_side[1] - bare[1]).abs().max()),
        "effect": float((theirs - bare).abs().max()),
    }


def compare_all_layers(file):
    """The host's UNet with every layer that sd-scripts can hook, hooked by it and by us."""
    # Of its own library it needs only the logging, and a class for an annotation.
    sys.modules["library"] = sys.modules["library.utils"] = MagicMock()
    sd_scripts = module_at(file)
    sd_scripts.ATTN1_2_ONLY = sd_scripts.SKIP_OUTPUT_BLOCKS = False
    sd_scripts.ControlNetLLLite.UNET_TARGET_REPLACE_MODULE = ["SpatialTransformer"]
    unet = host_unet(XL)
    x, t, context, y, hint = inputs(XL, 16, 24)
    bare = unet(x, t, context, y)
    original = sd_scripts.ControlNetLLLite(unet, cond_emb_dim=12, mlp_dim=10, multiplier=0.7)
    # Its modules become its own when it takes the place of the layers' forward.
    original.apply_to()
    randomised(original)
    original.set_cond_image(2 * hint - 1)
    theirs = unet(x, t, context, y)
    original.set_cond_image(None)
    net = open_control(saved(original.state_dict(), "all_layers")).build()
    found, options = corrections(net, net.encode_hint(hint), [0.7, 0.7]), {}
    add_patches(options, found.attention)
    with layers_changed(unet, found.layers):
        ours = unet(x, t, context, y, transformer_options=options)
    return {
        "layers": [len(original.unet_modules), len(net.names), len(found.layers)],
        "unet": float((ours - theirs).abs().max()),
        "after": float((unet(x, t, context, y) - bare).abs().max()),
        "effect": float((theirs - bare).abs().max()),
    }


NAMES = ("attn1_patch", "attn2_patch")

with torch.no_grad():
    found = {
        "full": compare_adapter("full", Adapter(WIDTHS, 2, 192, 1, True, False, False), SD),
        "full, 3x3 and strided": compare_adapter(
            "strided", Adapter(WIDTHS, 2, 192, 3, True, True, False), SD
        ),
        "grey": compare_adapter("grey", Adapter(WIDTHS, 2, 64, 1, True, False, False), SD),
        "light": compare_adapter("light", Adapter_light(WIDTHS, 4, 192), SD),
        "xl": compare_adapter("xl", Adapter(WIDTHS, 2, 768, 1, True, False, True), XL),
    }
    if KOHYA != "none":
        found["lllite"] = compare_lllite(KOHYA)
    if SD_SCRIPTS != "none":
        found["all layers"] = compare_all_layers(SD_SCRIPTS)
print(json.dumps(found))

"""Weight files as they are published, with random weights: made by the classes that they were published for.

`FILES` has for each annotator what its file holds, `PEERS` controlnet-aux's annotator for the same network.
"""

import contextlib
import functools
import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from annotators.networks import network_module
from annotators.registry import Annotator


@contextlib.contextmanager
def quietly(seed: int = 0) -> Iterator[None]:
    """controlnet-aux prints and warns; its weights are drawn from a seed."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        yield


def lively(net: torch.nn.Module, factor: float, *names: str) -> torch.nn.Module:
    """A random network whose last layers are so strong that its answers differ from place to place, and whose
    normalisations are not at rest."""
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, torch.nn.BatchNorm2d) and layer.running_var is not None:
                layer.running_mean.normal_(0.0, 0.1)
                layer.running_var.uniform_(0.5, 1.5)
                layer.weight.uniform_(0.8, 1.2)
                layer.bias.normal_(0.0, 0.1)
        for name, parameter in net.named_parameters():
            if any(part in name for part in names):
                parameter.mul_(factor)
    return net.eval().requires_grad_(False)


def hed() -> torch.nn.Module:
    return lively(network_module("hed").ControlNetHED_Apache2(), 3.0, "projection.weight")


def pidinet() -> torch.nn.Module:
    return lively(network_module("pidi.model").pidinet(), 20.0, "classifier.weight", "conv2.weight")


def teed() -> torch.nn.Module:
    return lively(network_module("teed.ted").TED(), 0.05, "block_1.conv1", "block_2")


def lineart() -> torch.nn.Module:
    return lively(network_module("lineart").Generator(3, 1, 3), 5.0, "model4")


def lineart_anime() -> torch.nn.Module:
    norm = functools.partial(torch.nn.InstanceNorm2d, affine=False, track_running_stats=False)
    return lively(network_module("lineart_anime").UnetGenerator(3, 1, 8, 64, norm_layer=norm), 1.0)


def mlsd() -> torch.nn.Module:
    net = network_module("mlsd.models.mbv2_mlsd_large").MobileV2_MLSD_Large()
    return lively(net, 30.0, "block23.conv3")


def midas() -> torch.nn.Module:
    return lively(network_module("midas.midas.dpt_depth").DPTDepthModel(backbone="vitb_rn50_384"), 1.0)


def leres() -> torch.nn.Module:
    model = network_module("leres.leres.multi_depth_model_woauxi").RelDepthModel(backbone="resnext101")
    return lively(model, 1.0)


def bae() -> torch.nn.Module:
    settings = SimpleNamespace(architecture="BN", sampling_ratio=0.4, importance_ratio=0.7)
    return lively(network_module("normalbae.nets.NNET").NNET(settings), 1.0)


def zoe() -> torch.nn.Module:
    config = network_module("zoe.zoedepth.utils.config").get_config("zoedepth", "infer")
    return lively(
        network_module("zoe.zoedepth.models.zoedepth.zoedepth_v1").ZoeDepth.build_from_config(config), 1.0
    )


def depth_anything() -> torch.nn.Module:
    import transformers

    # As the published config.json says it.
    config = transformers.DepthAnythingConfig(
        backbone_config={
            "model_type": "dinov2",
            "hidden_size": 384,
            "num_attention_heads": 6,
            "image_size": 518,
            "patch_size": 14,
            "out_features": ["stage3", "stage6", "stage9", "stage12"],
            "reshape_hidden_states": False,
        },
        fusion_hidden_size=64,
        head_in_index=-1,
        head_hidden_size=32,
        neck_hidden_sizes=[48, 96, 192, 384],
        patch_size=14,
        reassemble_factors=[4, 2, 1, 0.5],
        reassemble_hidden_size=384,
    )
    return lively(transformers.DepthAnythingForDepthEstimation(config), 1.0)


def upernet() -> torch.nn.Module:
    import transformers

    config = transformers.UperNetConfig(
        backbone_config=transformers.ConvNextConfig(
            depths=[3, 3, 27, 3],
            hidden_sizes=[96, 192, 384, 768],
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        num_labels=150,
        auxiliary_in_channels=384,
    )
    return lively(transformers.UperNetForSemanticSegmentation(config), 1.0)


def sam() -> torch.nn.Module:
    """Segment Anything in small: 256 pixels, 3 layers."""
    modeling = network_module("segment_anything.modeling")
    side, width = 16, 32
    net = modeling.Sam(
        image_encoder=modeling.ImageEncoderViT(
            img_size=16 * side,
            embed_dim=64,
            depth=3,
            num_heads=2,
            norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            global_attn_indexes=(2,),
            window_size=4,
            out_chans=width,
        ),
        prompt_encoder=modeling.PromptEncoder(width, (side, side), (16 * side, 16 * side), 16),
        mask_decoder=modeling.MaskDecoder(
            num_multimask_outputs=3,
            transformer=modeling.TwoWayTransformer(2, width, 8, 2048),
            transformer_dim=width,
        ),
    )
    # It thinks well of whatever it finds.
    torch.nn.init.ones_(net.mask_decoder.iou_prediction_head.layers[-1].bias)
    return lively(net, 1.0)


def openpose() -> torch.nn.Module:
    """Networks that find people, hands and faces in anything: their last maps are lively, their fields lean
    to the right and down."""
    models = network_module("open_pose.model")
    net = torch.nn.ModuleDict(
        {
            "body": models.bodypose_model(),
            "hand": models.handpose_model(),
            "face": network_module("open_pose.face").FaceNet(),
        }
    )
    for parameter in net.parameters():
        if parameter.ndim == 4:
            torch.nn.init.kaiming_normal_(parameter, nonlinearity="relu")
    with torch.no_grad():
        fields, heat = net["body"].model6_1.Mconv7_stage6_L1, net["body"].model6_2.Mconv7_stage6_L2
        fields.bias += 0.6
        for last in (heat, net["hand"].model6.Mconv7_stage6, net["face"].Mconv7_stage6):
            last.weight -= last.weight.mean((1, 2, 3), keepdim=True)
    return lively(net, 1.0)


def of_openpose(net: torch.nn.ModuleDict) -> dict[str, dict[str, torch.Tensor]]:
    """What is in each of its files: of the first two without the names of their stages."""

    def layers(part: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {name.partition(".")[2]: value for name, value in part.state_dict().items()}

    return {
        "body_pose_model.pth": layers(net["body"]),
        "hand_pose_model.pth": layers(net["hand"]),
        "facenet.pth": net["face"].state_dict(),
    }


def of_several_devices(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {f"module.{name}": value for name, value in net.state_dict().items()}


NETWORKS: dict[str, Callable[[], torch.nn.Module]] = {
    "hed": hed,
    "hed_scribble": hed,
    "pidinet": pidinet,
    "pidinet_scribble": pidinet,
    "teed": teed,
    "anyline": teed,
    "lineart": lineart,
    "lineart_coarse": lineart,
    "lineart_anime": lineart_anime,
    "mlsd": mlsd,
    "midas": midas,
    "midas_normals": midas,
    "leres": leres,
    "bae": bae,
    "zoe": zoe,
    "depth_anything_small": depth_anything,
    "upernet": upernet,
    "sam": sam,
    "openpose": openpose,
}

# What surrounds the weights in the published files.
WRAPPED: dict[str, Callable[[torch.nn.Module], Any]] = {
    "pidinet": lambda net: {"state_dict": of_several_devices(net), "epoch": 19},
    "lineart_anime": of_several_devices,
    "leres": lambda net: {"depth_model": of_several_devices(net), "shift_model": {}},
    "bae": lambda net: {"model": of_several_devices(net)},
    "zoe": lambda net: {"model": net.state_dict()},
    "openpose": of_openpose,
}


def write(annotator: Annotator, net: torch.nn.Module, folder: Path) -> None:
    """A network's weights as the annotator's files in a folder."""
    for weight in annotator.weights:
        path = folder / weight.repository / weight.file
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            net.save_pretrained(path.parent)
            continue
        name = annotator.id.removesuffix("_scribble")
        held = WRAPPED.get(name, torch.nn.Module.state_dict)(net)
        torch.save(held if len(annotator.weights) == 1 else held[weight.file], path)

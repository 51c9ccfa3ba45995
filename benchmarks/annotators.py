"""What annotators cost beside comfyui_controlnet_aux's: `python -m benchmarks.annotators --peer DIR`.

The same random weights, the same picture, in turns, in one process: seconds for one picture and per picture
of a batch, medians, and their ratio. Where kornia is installed, canny too, beside the call of ComfyUI's node.
"""

import argparse
import contextlib
import functools
import importlib
import io
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from annotators import run, weights
from annotators.errors import DependencyError
from annotators.networks import network_module
from annotators.neural import depth_anything as depth_anythings
from annotators.neural import mediapipe_people
from annotators.neural import zoe as zoe_networks
from annotators.table import ANNOTATORS
from tests.annotators.pose.answers import answer, crowd

from .__main__ import check_clock, positive

_NORM = functools.partial(torch.nn.InstanceNorm2d, affine=False, track_running_stats=False)
_BAE = SimpleNamespace(architecture="BN", sampling_ratio=0.4, importance_ratio=0.7)
# The side at which OpenPose's network for bodies sees a square picture, and the peer's MiDaS and
# Depth Anything any picture.
_SEEN, _SEEN_BY_MIDAS, _SEEN_BY_DEPTH_ANYTHING = 184, 384, 518

# By annotator: the peer's module and detector, and of its network the module, class and arguments.
SHARED: dict[str, tuple[str, str, str, str, tuple, dict[str, Any]]] = {
    "hed": ("hed", "HEDdetector", "hed", "ControlNetHED_Apache2", (), {}),
    "hed_scribble": ("hed", "HEDdetector", "hed", "ControlNetHED_Apache2", (), {}),
    "pidinet": ("pidi", "PidiNetDetector", "pidi.model", "pidinet", (), {}),
    "pidinet_scribble": ("pidi", "PidiNetDetector", "pidi.model", "pidinet", (), {}),
    "teed": ("teed", "TEDDetector", "teed.ted", "TED", (), {}),
    "anyline": ("teed", "TEDDetector", "teed.ted", "TED", (), {}),
    "lineart": ("lineart", "LineartDetector", "lineart", "Generator", (3, 1, 3), {}),
    "lineart_coarse": ("lineart", "LineartDetector", "lineart", "Generator", (3, 1, 3), {}),
    "lineart_anime": (
        "lineart_anime",
        "LineartAnimeDetector",
        "lineart_anime",
        "UnetGenerator",
        (3, 1, 8, 64),
        {"norm_layer": _NORM},
    ),
    "mlsd": ("mlsd", "MLSDdetector", "mlsd.models.mbv2_mlsd_large", "MobileV2_MLSD_Large", (), {}),
    "bae": ("normalbae", "NormalBaeDetector", "normalbae.nets.NNET", "NNET", (_BAE,), {}),
}

# What the peer is asked for besides.
ASKED: dict[str, dict[str, Any]] = {
    "hed_scribble": {"scribble": True},
    "pidinet_scribble": {"scribble": True},
    "lineart_coarse": {"coarse": True},
}

# By annotator without a network: the peer's module and detector, our values, and the peer's for the same.
WITHOUT_NETWORK: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "lineart_standard": ("lineart_standard", "LineartStandardDetector", {}, {}),
    "xdog_scribble": ("scribble", "ScribbleXDog_Detector", {}, {}),
    "drawing": ("scribble", "ScribbleDetector", {}, {}),
    "shuffle": ("shuffle", "ContentShuffleDetector", {}, {"seed": 1}),
    "tile": ("tile", "TileDetector", {"rate": 4.0}, {"pyrUp_iters": 2}),
    "recolor": ("recolor", "Recolorizer", {}, {}),
    "colour_grid": ("color", "ColorDetector", {"cell": 64}, {}),
    "threshold": ("binary", "BinaryDetector", {"level": 128}, {"bin_threshold": 128}),
}

Call = Callable[[Tensor], Any]
Pair = tuple[Call, Call]


def with_network(name: str, size: int, device: str) -> Pair:
    """Ours and the peer's way from pictures [B,H,W,3] to hints, on the same random network."""
    module, kind, place, network, arguments, options = SHARED[name]
    with quietly():
        made = getattr(peers(place), network)
        net = made(*arguments, **options).eval()
        peer = getattr(peers(module), kind)(*([net, net] if module == "lineart" else [net])).to(device)
    theirs = functools.partial(peer, **ASKED.get(name, {}))
    return ours(name, from_files(name, net).to(device)), one_by_one(theirs, size)


def without_network(name: str, size: int, device: str) -> Pair:
    module, kind, values, theirs = WITHOUT_NETWORK[name]
    with quietly():
        peer = getattr(peers(module), kind)()
    return ours(name, **values), one_by_one(functools.partial(peer, **theirs), size)


def anyline(size: int, device: str) -> Pair:
    """The peer's node asks two detectors, and joins what they draw, which is not counted here."""
    own, edges = with_network("anyline", size, device)
    with quietly():
        peer = peers("lineart_standard").LineartStandardDetector()
    lines = one_by_one(functools.partial(peer, guassian_sigma=2.0, intensity_threshold=3), size)
    return own, lambda images: (edges(images), lines(images))


def faces(size: int, device: str) -> Pair | None:
    """Of one face, whatever the pictures are; None without mediapipe's solutions. Where mediapipe has both
    its old and its new interface, the peer fails unless the new one is hidden from it."""
    try:
        import mediapipe
        from skimage.data import astronaut

        mediapipe_people.solutions()
    except (ImportError, DependencyError):
        return None
    face = cv2.resize(astronaut(), (size, size), interpolation=cv2.INTER_AREA)
    picture = torch.from_numpy(face.astype(np.float32) / 255)
    with quietly(), hidden(mediapipe.tasks.vision, "FaceLandmarker"):
        peer = peers("mediapipe_face").MediapipeFaceDetector()

    def shown(call: Call) -> Call:
        return lambda images: call(picture.expand(len(images), -1, -1, -1))

    return shown(ours("mediapipe_face", faces=1)), shown(one_by_one(peer, size))


def openpose(size: int, device: str, parts: bool) -> Pair:
    """Body, and with `parts` hands and face too, of one person, which is what the body's network says to any
    picture, after its time."""
    with quietly():
        models = peers("open_pose.model")
        nets = [models.bodypose_model(), models.handpose_model(), peers("open_pose.face").FaceNet()]
        kinds = ("Body", "Hand", "Face")
        detectors = [
            detector("open_pose", kind, device, model=net) for kind, net in zip(kinds, nets, strict=True)
        ]
    own: Any = from_files("openpose", *nets).to(device)
    maps = [one[None].to(device) for one in answer(crowd(0, 1, size, size), (size, size), (_SEEN, _SEEN))]
    for net in (own.body, nets[0]):
        net.register_forward_hook(lambda module, given, said: tuple(one.clone() for one in maps))
    whole = peers("open_pose").OpenposeDetector(*detectors)
    peer = functools.partial(whole, include_hand=parts, include_face=parts)
    return ours("openpose", own, hands=parts, face=parts), one_by_one(peer, size)


def leres(size: int, device: str) -> Pair:
    with quietly():
        net = peers("leres.leres.multi_depth_model_woauxi").RelDepthModel(backbone="resnext101").eval()
        peer = peers("leres").LeresDetector(net, None).to(device)
    return ours("leres", from_files("leres", net).to(device)), one_by_one(peer, size)


def midas(size: int, device: str, normals: bool = False) -> Pair:
    """The peer's network is of transformers: the same one, with random weights of its own. Asked for normals
    it makes its depth's picture too."""
    import transformers

    dpt = network_module("midas.midas.dpt_depth").DPTDepthModel(backbone="vitb_rn50_384", non_negative=True)
    config = transformers.DPTConfig(
        is_hybrid=True,
        neck_hidden_sizes=[256, 512, 768, 768],
        neck_ignore_stages=[0, 1],
        reassemble_factors=[1, 1, 1, 0.5],
    )
    half = [0.5] * 3
    peer = detector(
        "midas",
        "MidasDetector",
        device,
        model=transformers.DPTForDepthEstimation(config).eval(),
        processor=transformers.DPTImageProcessor(image_mean=half, image_std=half),
    )
    own = from_files("midas", dpt).to(device)

    def both(picture: np.ndarray, **options: Any) -> np.ndarray:
        return peer(picture, depth_and_normal=True, **options)[1]

    name = "midas_normals" if normals else "midas"
    return ours(name, own, resolution=_SEEN_BY_MIDAS), one_by_one(both if normals else peer, size)


def depth_anything(size: int, device: str) -> Pair:
    """The small network, ours of transformers, with random weights of its own. Both look at 518 pixels."""
    import transformers

    module, file = peers("depth_anything_v2"), "depth_anything_v2_vits.pth"
    with quietly():
        net = peers("depth_anything_v2.dpt").DepthAnythingV2(**module.model_configs[file]).eval()
        peer = module.DepthAnythingV2Detector(net, file).to(device)
    config = depth_anythings.configuration(depth_anythings.SIZES["Small"])
    own = transformers.DepthAnythingForDepthEstimation(config).eval().to(device)
    return ours("depth_anything_small", own, resolution=_SEEN_BY_DEPTH_ANYTHING), one_by_one(peer, size)


def zoe(size: int, device: str) -> Pair:
    """The peer's network is of transformers: the same transformer, with random weights of its own and heads
    for rooms and for streets, of which it takes one. It does not ask about the mirror image."""
    import transformers

    depths = {"nyu": 10.0, "kitti": 80.0}
    config = transformers.ZoeDepthConfig(
        bin_configurations=[
            {"n_bins": 64, "min_depth": 1e-3, "max_depth": depth, "name": name}
            for name, depth in depths.items()
        ],
        num_patch_transformer_layers=4,
        patch_transformer_hidden_size=128,
        patch_transformer_intermediate_size=1024,
        patch_transformer_num_attention_heads=4,
    )
    pipe = transformers.pipeline(
        task="depth-estimation",
        model=transformers.ZoeDepthForDepthEstimation(config).eval(),
        image_processor=transformers.ZoeDepthImageProcessor(),
        device=device,
    )
    peer = detector("zoe", "ZoeDetector", device, pipe=pipe)
    own = from_files("zoe", zoe_networks.network()).to(device)
    return ours("zoe", own, mirrored=False), one_by_one(peer, size)


def sam(size: int, device: str) -> Pair:
    """The peer's network is of transformers: the same one, with random weights of its own. Both are asked
    about as many points as the peer takes for pictures of this size."""
    import transformers

    peer = detector(
        "sam",
        "SamDetector",
        device,
        model=transformers.SamModel(transformers.SamConfig()).eval(),
        processor=transformers.SamProcessor(transformers.SamImageProcessor()),
    )
    net = from_files("sam", network_module("segment_anything.build_sam").sam_model_registry["vit_b"]())
    return ours("sam", net.to(device), points=max(8, min(24, size // 64))), one_by_one(peer, size)


def peers(module: str) -> ModuleType:
    """A module of the peer."""
    return importlib.import_module(f"custom_controlnet_aux.{module}")


def detector(module: str, kind: str, device: str, **attributes: Any) -> Any:
    """A detector of the peer that has these instead of what it would download."""
    with quietly():
        made = object.__new__(getattr(peers(module), kind))
    for name, value in {"device": device, **attributes}.items():
        setattr(made, name, value.to(device) if isinstance(value, nn.Module) else value)
    return made


def from_files(name: str, *nets: nn.Module) -> nn.Module:
    """Our network of an annotator, with the weights of these as its files."""
    annotator = ANNOTATORS[name]
    with tempfile.TemporaryDirectory() as folder:
        for weight, net in zip(annotator.weights, nets, strict=True):
            torch.save(net.state_dict(), Path(folder, Path(weight.file).name))
        made = weights.build(annotator, [folder])
    assert made is not None
    return made


def ours(name: str, net: nn.Module | None = None, resolution: int | None = None, **values: Any) -> Call:
    """Our way from pictures [B,H,W,3] to hints."""
    annotator = ANNOTATORS[name]
    return lambda images: run.annotate(annotator, images, values, net=net, resolution=resolution)


def one_by_one(peer: Callable[..., np.ndarray], size: int) -> Call:
    """The peer's way, as its nodes go it: picture by picture, from bytes to bytes."""

    def call(images: Tensor) -> Tensor:
        hints = [
            peer(np.asarray(image * 255.0, np.uint8), detect_resolution=size, output_type="np")
            for image in images.numpy()
        ]
        return torch.stack([torch.from_numpy(hint.astype(np.float32) / 255.0) for hint in hints])

    return call


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """The peer prints and warns."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def hidden(module: Any, name: str) -> Iterator[None]:
    """A module does without one of its names."""
    kept = vars(module).pop(name, None)
    try:
        yield
    finally:
        if kept is not None:
            setattr(module, name, kept)


def canny(size: int, device: str) -> Pair | None:
    """Ours and what ComfyUI's Canny node calls; None without kornia."""
    try:
        from kornia.filters import canny as theirs
    except ImportError:
        return None
    return ours("canny"), lambda images: theirs(images.movedim(-1, 1), 0.4, 0.8)[1]


# By row: both ways for pictures of a size.
PAIRS: dict[str, Callable[[int, str], Pair | None]] = {
    "canny": canny,
    **{name: functools.partial(without_network, name) for name in WITHOUT_NETWORK},
    **{name: functools.partial(with_network, name) for name in SHARED},
    "openpose, body": functools.partial(openpose, parts=False),
    "openpose": functools.partial(openpose, parts=True),
    "anyline": anyline,
    "mediapipe_face": faces,
    "leres": leres,
    "midas": midas,
    "midas_normals": functools.partial(midas, normals=True),
    "depth_anything_small": depth_anything,
    "zoe": zoe,
    "sam": sam,
}


def measured(pair: Pair, images: Tensor, rounds: int, clock: Callable[[], float]) -> tuple[float, float]:
    """Medians of the seconds per picture, ours and theirs, who take turns after a first go of each."""
    for call in pair:
        call(images[:1])
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds):
        for i in (0, 1) if turn % 2 else (1, 0):
            start = clock()
            pair[i](images)
            times[i].append((clock() - start) / len(images))
    return statistics.median(times[0]), statistics.median(times[1])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.annotators", description=__doc__)
    parser.add_argument("--peer", type=Path, help="a folder of comfyui_controlnet_aux")
    parser.add_argument("--size", type=positive, default=512, help="sides of the picture")
    parser.add_argument(
        "--batch", type=positive, default=16, help="pictures of a batch; with 1 none is measured"
    )
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: the time that the process itself used"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=PAIRS, help="these annotators alone")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if options.peer is not None and not (options.peer / "src" / "custom_controlnet_aux").is_dir():
        parser.error(f"--peer {options.peer} is no folder of comfyui_controlnet_aux")
    check_clock(parser, options)
    if options.only and not options.peer and set(options.only) != {"canny"}:
        parser.error("all but canny are measured beside comfyui_controlnet_aux; give --peer with its folder")
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    if options.peer:
        sys.path.insert(0, str(options.peer / "src"))
    torch.manual_seed(0)
    images = torch.rand(options.batch, options.size, options.size, 3)
    names = PAIRS if options.peer else ["canny"]
    rows = []
    with torch.no_grad():
        for name in [one for one in names if not options.only or one in options.only]:
            pair = PAIRS[name](options.size, options.device)
            if pair is None:
                print(f"{name} is left out: what it needs is not installed here", file=sys.stderr)
                continue
            many = [images[:1], images] if options.batch > 1 else [images]
            times = [measured(pair, some, options.rounds, clock) for some in many]
            rows.append({"annotator": name, **dict(zip(("one", "batch"), times, strict=False))})
            if not options.json:
                cells = (f"{ours:.3f} | {theirs:.3f} | {ours / theirs:.2f}" for ours, theirs in times)
                print(f"| {name} | {' | '.join(cells)} |", flush=True)
    if options.json:
        print(json.dumps({"size": options.size, "batch": options.batch, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()

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
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from annotators import run, weights
from annotators.table import ANNOTATORS

_NORM = functools.partial(torch.nn.InstanceNorm2d, affine=False, track_running_stats=False)
_BAE = SimpleNamespace(architecture="BN", sampling_ratio=0.4, importance_ratio=0.7)

# By annotator: the peer's module and detector, and of its network the module, class and arguments.
PEERS: dict[str, tuple[str, str, str, str, tuple, dict[str, Any]]] = {
    "hed": ("hed", "HEDdetector", "hed", "ControlNetHED_Apache2", (), {}),
    "pidinet": ("pidi", "PidiNetDetector", "pidi.model", "pidinet", (), {}),
    "teed": ("teed", "TEDDetector", "teed.ted", "TED", (), {}),
    "lineart": ("lineart", "LineartDetector", "lineart", "Generator", (3, 1, 3), {}),
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

Pair = tuple[Callable[[Tensor], Any], Callable[[Tensor], Any]]


def with_network(name: str, size: int) -> Pair:
    """Ours and the peer's way from pictures [B,H,W,3] to hints, on the same random network."""
    module, detector, place, network, arguments, options = PEERS[name]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        theirs = importlib.import_module(f"custom_controlnet_aux.{module}")
        made = getattr(importlib.import_module(f"custom_controlnet_aux.{place}"), network)
        net = made(*arguments, **options).eval()
        peer = getattr(theirs, detector)(*([net, net] if module == "lineart" else [net]))
    annotator = ANNOTATORS[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, Path(annotator.weights[0].file).name)
        torch.save(net.state_dict(), path)
        ours = weights.build(annotator, [folder])

    def of_peer(images: Tensor) -> Tensor:
        # As its nodes do: picture by picture, from bytes to bytes.
        hints = [
            peer(np.asarray(image * 255.0, np.uint8), detect_resolution=size, output_type="np")
            for image in images.numpy()
        ]
        return torch.stack([torch.from_numpy(hint.astype(np.float32) / 255.0) for hint in hints])

    return lambda images: run.annotate(annotator, images, net=ours), of_peer


def canny() -> Pair | None:
    """Ours and what ComfyUI's Canny node calls; None without kornia."""
    try:
        from kornia.filters import canny as theirs
    except ImportError:
        return None
    return (
        lambda images: run.annotate(ANNOTATORS["canny"], images),
        lambda images: theirs(images.movedim(-1, 1), 0.4, 0.8)[1],
    )


def seconds(call: Callable[[Tensor], Any], images: Tensor) -> float:
    start = time.perf_counter()
    call(images)
    return (time.perf_counter() - start) / len(images)


def measured(pair: Pair, images: Tensor, rounds: int) -> tuple[float, float]:
    """Medians of the seconds per picture, ours and theirs, who take turns after a first go of each."""
    for call in pair:
        call(images[:1])
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds):
        for i in (0, 1) if turn % 2 else (1, 0):
            times[i].append(seconds(pair[i], images))
    return statistics.median(times[0]), statistics.median(times[1])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.annotators", description=__doc__)
    parser.add_argument("--peer", type=Path, help="a folder of comfyui_controlnet_aux")
    parser.add_argument("--size", type=int, default=512, help="sides of the picture")
    parser.add_argument("--batch", type=int, default=16, help="pictures of a batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these annotators alone")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peer:
        sys.path.insert(0, str(options.peer / "src"))
    torch.manual_seed(0)
    images = torch.rand(options.batch, options.size, options.size, 3)
    names = ["canny", *(PEERS if options.peer else ())]
    rows = []
    with torch.no_grad():
        for name in [one for one in names if not options.only or one in options.only]:
            pair = canny() if name == "canny" else with_network(name, options.size)
            if pair is None:
                print("canny is left out: kornia is not installed here", file=sys.stderr)
                continue
            one, batch = (measured(pair, some, options.rounds) for some in (images[:1], images))
            rows.append({"annotator": name, "one": one, "batch": batch})
            if not options.json:
                cells = (f"{ours:.3f} | {theirs:.3f} | {ours / theirs:.2f}" for ours, theirs in (one, batch))
                print(f"| {name} | {' | '.join(cells)} |", flush=True)
    if options.json:
        print(json.dumps({"size": options.size, "batch": options.batch, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()

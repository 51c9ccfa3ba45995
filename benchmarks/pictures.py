"""The drawing process: `python -m benchmarks.pictures SETTINGS RESULT`, both JSON, started by reuse.

It runs in the host's Python. SETTINGS are reuse's; RESULT is the file for the figures.
"""

import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from .hosted import PACK, Pack
from .measure import enter, host, say
from .reuse import POLICIES

SEED = 0
KINDS = ("pose", "depth")
SHOWN = 8


@dataclass
class Studio:
    """The mini model and its ControlNets in a host, and scenes to draw, all as one batch."""

    pack: Pack
    model: Any
    vae: Any
    prompts: dict[str, list]
    controls: dict[str, Any]
    hints: dict[str, Tensor]
    scenes: Sequence[Any]
    scheduler: str
    passes: int = 0

    def conditioned(self, economy: str | tuple[str, str, float] | None) -> dict[str, list]:
        """Both prompts, under both controls with an economy of the nodes or a policy; None for no control."""
        if economy is None:
            return self.prompts
        settings: dict[str, Any] = {}
        if isinstance(economy, str):
            settings["economy"] = economy
        else:
            method, anchors, value = economy
            number = {"error" if anchors == "adaptive" else "share": value}
            chosen = {"anchors": anchors, **number}
            settings["reuse"] = self.pack.run("CNetResidualReuse", method=method, anchors=chosen)[0]
        units = {
            f"unit{i}": self.pack.run(
                "CNetUnit", control_net=self.controls[kind], image=self.hints[kind], **settings
            )[0]
            for i, kind in enumerate(KINDS)
        }
        both = self.pack.run("CNetMerge", **self.prompts, units=units, mode={"mode": "sum"})
        return dict(zip(self.prompts, both, strict=True))

    def draw(self, economy: Any, sampler: str, steps: int, guidance: float) -> tuple[Tensor, int]:
        """Pictures [N,H,W,3] in 0..1, and how many rows the controls' networks were given."""
        sample = importlib.import_module("comfy.sample")
        latent = torch.zeros(len(self.scenes), 4, 16, 16)
        self.passes = 0
        drawn = sample.sample(
            self.model,
            sample.prepare_noise(latent, SEED),
            steps,
            guidance,
            sampler,
            self.scheduler,
            **self.conditioned(economy),
            latent_image=latent,
            disable_pbar=True,
            seed=SEED,
        )
        return self.vae.decode(drawn), self.passes


def studio(settings: dict[str, Any]) -> Studio:
    from demo.report import hint_of
    from demo.scenes import draw_scene

    pack = Pack()
    model, clip, vae = pack.run("CNetLoadMiniSD")
    first = settings["first_seed"]
    scenes = [draw_scene(seed) for seed in range(first, first + settings["scenes"])]

    def encoded(texts: list[str]) -> list:
        entries = [clip.encode_from_tokens_scheduled(clip.tokenize(text))[0] for text in texts]
        return [[torch.cat([tokens for tokens, _ in entries]), entries[0][1]]]

    made = Studio(
        pack,
        model,
        vae,
        {"positive": encoded([s.caption for s in scenes]), "negative": encoded([""] * len(scenes))},
        {kind: pack.load(PACK / f"demo/weights/controlnet/cnet_mini_{kind}.safetensors") for kind in KINDS},
        {kind: hint_of(kind, scenes) for kind in KINDS},
        scenes,
        settings["scheduler"],
    )

    def count(_module: Any, inputs: tuple, _output: Any) -> None:
        made.passes += inputs[0].shape[0]

    for control in made.controls.values():
        control.network.net.register_forward_hook(count)
    return made


def figures(settings: dict[str, Any]) -> dict[str, Any]:
    from demo.sample import GUIDANCE

    if settings["threads"]:
        torch.set_num_threads(settings["threads"])
    enter({**settings, "host_args": [], "device": "cpu"})
    made = studio(settings)
    runs = []
    for sampler in settings["samplers"]:
        for steps in settings["steps"]:
            economies: dict[str, Any] = {"light": "light", "strong": "strong"}
            if settings["policies"] and (sampler, steps) == ("euler", 30):
                economies = {"no control": None, **economies, **POLICIES}
            exact, passes = made.draw("exact", sampler, steps, GUIDANCE)
            pictures = {"exact": exact}
            found: dict[str, dict[str, Any]] = {
                "exact": {"computed": 1.0, "fidelity": fidelity(exact, made.scenes)}
            }
            for name, economy in economies.items():
                pictures[name], own = made.draw(economy, sampler, steps, GUIDANCE)
                psnrs = psnr(pictures[name], exact)
                found[name] = {
                    "computed": own / passes,
                    "psnr": psnrs,
                    "median": float(np.median(psnrs)),
                    "p10": float(np.percentile(psnrs, 10)),
                    "fidelity": fidelity(pictures[name], made.scenes),
                }
                say(f"{sampler}, {steps} steps, {name}: {found[name]['median']:.1f} {found[name]['p10']:.1f}")
            runs.append({"sampler": sampler, "steps": steps, "found": found})
            if settings["sheets"]:
                folder = Path(settings["sheets"])
                folder.mkdir(parents=True, exist_ok=True)
                shown = sheet(made.hints, pictures, {name: one.get("psnr") for name, one in found.items()})
                encoded = cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, 88])[1]
                (folder / f"{sampler}_{steps}.jpg").write_bytes(encoded.tobytes())
    kept = {**settings, "guidance": GUIDANCE}
    return {"host": host(settings), "settings": kept, "runs": runs}


def fidelity(images: Tensor, scenes: Sequence[Any]) -> dict[str, list[float]]:
    """How well each picture follows its pose, its depth, and its edges, higher is better."""
    from demo.report import MEASURES

    pairs = list(zip(images.numpy(), scenes, strict=True))
    return {
        kind: [float(measure(image, scene)) for image, scene in pairs] for kind, measure in MEASURES.items()
    }


def psnr(images: Tensor, exact: Tensor) -> list[float]:
    """Peak signal to noise ratio of each picture in dB; 120 for equal ones."""
    errors = (images - exact).pow(2).mean((1, 2, 3)).clamp_min(1e-12)
    return (-10 * errors.log10()).tolist()


def sheet(
    hints: dict[str, Tensor], pictures: dict[str, Tensor], psnrs: dict[str, list[float] | None]
) -> np.ndarray:
    """BGR uint8 [H,W,3]: a column per scene; hints, then pictures with their PSNR to the exact ones."""
    rows: dict[str, tuple[Tensor, list[float] | None]] = {
        f"{kind} hint": (hint, None) for kind, hint in hints.items()
    }
    rows |= {name: (images, psnrs[name]) for name, images in pictures.items()}
    bands = []
    for name, (images, values) in rows.items():
        cells = []
        for i, image in enumerate(images[:SHOWN]):
            pixels = (image.numpy() * 255).round().astype(np.uint8)[..., ::-1]
            cells.append(written(pixels, "" if values is None else f"{values[i]:.0f} dB"))
        bands.append(np.hstack([label(name, cells[0].shape[0]), *cells]))
    return np.vstack(bands)


def written(cell: np.ndarray, text: str) -> np.ndarray:
    """A picture with a strip below it for a few words."""
    strip = np.full((16, cell.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, text, (4, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (40, 40, 40), 1, cv2.LINE_AA)
    return np.vstack([cell, strip])


def label(name: str, height: int) -> np.ndarray:
    cell = np.full((height, 110, 3), 255, np.uint8)
    for line, word in enumerate(name.split(" ")):
        place = (6, height // 2 - 8 + 16 * line)
        cv2.putText(cell, word, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (40, 40, 40), 1, cv2.LINE_AA)
    return cell


def main() -> None:
    settings, result = json.loads(sys.argv[1]), Path(sys.argv[2])
    with torch.inference_mode():
        result.write_text(json.dumps(figures(settings)))


if __name__ == "__main__":
    main()

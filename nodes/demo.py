"""The mini Stable Diffusion that comes with the pack, and pictures to try it with."""

from pathlib import Path

import cv2
import numpy as np
import torch
from comfy_api.latest import io, ui

from ..cnet_core.errors import CNetError
from . import host, mini

EXAMPLES = host.PACK / "workflows" / "inputs"


class LoadMiniSD(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetLoadMiniSD",
            display_name="Load Mini SD (CNet)",
            category="cnet/demo",
            description=(
                "A miniature Stable Diffusion that comes with the pack and needs no GPU. It draws dancers "
                "and solids in mist at 128x128 and knows the words of such scenes, like: a red dancer, blue "
                "and green things, yellow ground, mist."
            ),
            search_aliases=["mini stable diffusion", "demo model", "tiny model"],
            inputs=[],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The UNet, for a sampler."),
                io.Clip.Output(display_name="clip", tooltip="The text encoder, for CLIP Text Encode."),
                io.Vae.Output(display_name="vae", tooltip="The autoencoder, for VAE Decode and VAE Encode."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls) -> list[tuple[int, int] | None]:
        return mini.fingerprint(host.MINI_WEIGHTS)

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*mini.load(host.MINI_WEIGHTS))


class ExampleImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetExampleImage",
            display_name="Example Image (CNet)",
            category="cnet/demo",
            description=(
                "A picture or a hint that comes with the pack, so that its workflows run as they are. "
                "Replace it by Load Image to use your own."
            ),
            search_aliases=["demo image", "sample hint"],
            # The preview comes back when the node was cached.
            has_intermediate_output=True,
            inputs=[
                io.Combo.Input(
                    "name",
                    options=sorted(path.name for path in EXAMPLES.glob("*.png")),
                    tooltip="A file in the pack's workflows/inputs folder.",
                )
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The picture, of its own size.")],
        )

    @classmethod
    def execute(cls, name: str) -> io.NodeOutput:
        image = read_example(EXAMPLES, name)
        return io.NodeOutput(image, ui=ui.PreviewImage(image))


def read_example(folder: Path, name: str) -> torch.Tensor:
    """IMAGE [1,H,W,3] of a file directly inside the folder. Raises CNetError for any other name."""
    path = folder / name
    if path.parent != folder or path.suffix != ".png" or not path.is_file():
        raise CNetError(f"{name!r} is none of the pack's example images; choose one from the list.")
    # np.fromfile, because cv2.imread cannot open every path on Windows.
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise CNetError(f"{path} is damaged; install the pack again.")
    return torch.from_numpy(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)).float().div(255.0)[None]

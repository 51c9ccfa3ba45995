"""The host's nodes for masks: same ids, inputs and meaning as in ComfyUI. MASK is [B,H,W] in 0..1."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .nodes_image import LARGEST, LoadImage
from .shims import api_ui
from .shims.api_latest import io
from .shims.utils import common_upscale

CHANNELS = ["red", "green", "blue", "alpha"]


def pixels(id: str, default: int = 0, min: int = 0) -> Any:
    return io.Int.Input(id, default=default, min=min, max=LARGEST, step=1)


def as_batch(mask: Tensor) -> Tensor:
    """A mask [H,W] or [B,H,W], or with a channel, as [B,H,W]."""
    return mask.reshape(-1, *mask.shape[-2:])


class LoadImageMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="LoadImageMask",
            display_name="Load Image (as Mask)",
            category="image",
            description="Loads one channel of a picture from the input folder as a mask.",
            inputs=[
                LoadImage.define_schema().inputs[0],
                io.Combo.Input("channel", options=["alpha", "red", "green", "blue"]),
            ],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def validate_inputs(cls, image: str) -> bool | str:
        return LoadImage.validate_inputs(image)

    @classmethod
    def fingerprint_inputs(cls, image: str, channel: str) -> str:
        return LoadImage.fingerprint_inputs(image)

    @classmethod
    def execute(cls, image: str, channel: str) -> Any:
        """MASK [B,H,W]: the channel, or for alpha LoadImage's mask, 1 where transparent."""
        picture, mask = LoadImage.execute(image).args
        return io.NodeOutput(mask if channel == "alpha" else picture[..., CHANNELS.index(channel)].clone())


class ImageToMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="ImageToMask",
            display_name="Convert Image to Mask",
            category="image/mask",
            description="One channel of a picture as a mask.",
            inputs=[io.Image.Input("image"), io.Combo.Input("channel", options=CHANNELS)],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(cls, image: Tensor, channel: str) -> Any:
        return io.NodeOutput(image[..., CHANNELS.index(channel)])


class MaskToImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="MaskToImage",
            display_name="Convert Mask to Image",
            category="image/mask",
            description="A mask as a grey picture.",
            inputs=[io.Mask.Input("mask")],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, mask: Tensor) -> Any:
        return io.NodeOutput(as_batch(mask)[..., None].expand(-1, -1, -1, 3))


class SolidMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SolidMask",
            display_name="Create Solid Mask",
            category="image/mask",
            description="A mask of one value.",
            inputs=[
                io.Float.Input("value", default=1.0, min=0.0, max=1.0, step=0.01),
                pixels("width", 512, 1),
                pixels("height", 512, 1),
            ],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(cls, value: float, width: int, height: int) -> Any:
        return io.NodeOutput(torch.full((1, height, width), value))


class InvertMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="InvertMask",
            display_name="Invert Mask",
            category="image/mask",
            description="1 minus a mask.",
            inputs=[io.Mask.Input("mask")],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(cls, mask: Tensor) -> Any:
        return io.NodeOutput(1.0 - mask)


OPERATIONS = {
    "multiply": lambda a, b: a * b,
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "and": lambda a, b: (a.round().bool() & b.round().bool()).float(),
    "or": lambda a, b: (a.round().bool() | b.round().bool()).float(),
    "xor": lambda a, b: (a.round().bool() ^ b.round().bool()).float(),
}


class MaskComposite(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="MaskComposite",
            display_name="Combine Masks",
            category="image/mask",
            description="Lays one mask onto another at a place.",
            inputs=[
                io.Mask.Input("destination"),
                io.Mask.Input("source"),
                pixels("x"),
                pixels("y"),
                io.Combo.Input("operation", options=list(OPERATIONS)),
            ],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(cls, destination: Tensor, source: Tensor, x: int, y: int, operation: str) -> Any:
        """The destination, changed where the source's upper left corner at (x, y) lays it; cut to 0..1."""
        made = as_batch(destination).clone()
        below = made[:, y : y + source.shape[-2], x : x + source.shape[-1]]
        above = as_batch(source)[:, : below.shape[-2], : below.shape[-1]]
        below.copy_(OPERATIONS[operation](below, above))
        return io.NodeOutput(made.clamp(0.0, 1.0))


class FeatherMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="FeatherMask",
            display_name="Feather Mask",
            category="image/mask",
            description="Lets a mask fade out towards its borders.",
            inputs=[io.Mask.Input("mask"), *(pixels(side) for side in ("left", "top", "right", "bottom"))],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(cls, mask: Tensor, left: int, top: int, right: int, bottom: int) -> Any:
        """Times (i + 1) / n, where n is the width of a border and i the distance from the mask's edge."""
        made = as_batch(mask).clone()
        columns, rows = made, made.transpose(1, 2)
        for lines, width, far in ((columns, left, 0), (columns, right, 1), (rows, top, 0), (rows, bottom, 1)):
            n = min(width, lines.shape[-1])
            ramp = torch.arange(1, n + 1, dtype=torch.float64).div(n).to(lines)
            if far:
                lines[..., lines.shape[-1] - n :] *= ramp.flip(0)
            else:
                lines[..., :n] *= ramp
        return io.NodeOutput(made)


class BatchMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="BatchMasksNode",
            display_name="Batch Masks",
            category="image/mask",
            description="Masks as one batch, all of the first one's size.",
            inputs=[
                io.Autogrow.Input(
                    "masks", io.Autogrow.TemplatePrefix(io.Mask.Input("mask"), prefix="mask", min=1, max=50)
                )
            ],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(cls, masks: dict[str, Tensor]) -> Any:
        each = [as_batch(mask)[:, None] for mask in masks.values()]
        height, width = each[0].shape[-2:]
        return io.NodeOutput(
            torch.cat([common_upscale(mask, width, height, "bilinear", "center")[:, 0] for mask in each])
        )


class MaskPreview(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="MaskPreview",
            display_name="Preview Mask",
            category="image/mask",
            description="Saves masks as grey pictures into the temporary folder.",
            inputs=[io.Mask.Input("mask")],
            outputs=[io.Mask.Output(display_name="mask")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, mask: Tensor) -> Any:
        return io.NodeOutput(mask, ui=api_ui.PreviewMask(mask, cls=cls))


MASK_NODES: list[Any] = [
    LoadImageMask,
    ImageToMask,
    MaskToImage,
    SolidMask,
    InvertMask,
    MaskComposite,
    FeatherMask,
    BatchMasks,
    MaskPreview,
]

"""The host's nodes for pictures: same ids, inputs and meaning as in ComfyUI. IMAGE is [B,H,W,C] in 0..1."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, ImageSequence
from torch import Tensor

from .shims import api_ui, folder_paths
from .shims.api_latest import io
from .shims.utils import common_upscale

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tiff"}
ANIMATED = {"GIF", "PNG", "WEBP"}
LARGEST = 16384
METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]


class LoadImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        folder = Path(folder_paths.get_input_directory())
        names = [p.name for p in folder.iterdir() if p.suffix.lower() in PICTURES] if folder.is_dir() else []
        return io.Schema(
            node_id="LoadImage",
            display_name="Load Image",
            category="image",
            description="Loads a picture from the input folder.",
            inputs=[io.Combo.Input("image", options=sorted(names), upload=io.UploadType.image)],
            outputs=[io.Image.Output(), io.Mask.Output()],
        )

    @classmethod
    def validate_inputs(cls, image: str) -> bool | str:
        if folder_paths.exists_annotated_filepath(image):
            return True
        folder = folder_paths.get_input_directory()
        return f"there is no picture '{image}' in {folder}; name its folder with --input"

    @classmethod
    def fingerprint_inputs(cls, image: str) -> str:
        return hashlib.sha256(Path(folder_paths.get_annotated_filepath(image)).read_bytes()).hexdigest()

    @classmethod
    def execute(cls, image: str) -> Any:
        """IMAGE [B,H,W,3] in 0..1, MASK [B,H,W], 1 where transparent (zeros [B,64,64] without alpha).

        A picture for each frame of an animation.
        """
        with Image.open(folder_paths.get_annotated_filepath(image)) as opened:
            # What else has several pictures in a file has other sizes of the first one.
            frames = ImageSequence.Iterator(opened) if opened.format in ANIMATED else [opened]
            pictures = [ImageOps.exif_transpose(frame) for frame in frames]
        if pictures[0].mode.startswith("I"):
            # 16 bits of grey, which Pillow would clip to 8 instead of scaling them.
            grey = torch.from_numpy(np.asarray(pictures[0], dtype=np.float32) / 65535.0)
            return io.NodeOutput(grey[None, :, :, None].repeat(1, 1, 1, 3), torch.zeros(1, 64, 64))
        clear = any("A" in one.getbands() or one.mode == "P" for one in pictures)
        pixels = _values(pictures, "RGBA" if clear else "RGB")
        mask = 1.0 - pixels[..., 3] if clear else torch.zeros(len(pictures), 64, 64)
        return io.NodeOutput(pixels[..., :3].contiguous(), mask)


def _values(pictures: Sequence[Image.Image], mode: str) -> Tensor:
    """Pictures of one size as [B,H,W,C] in 0..1."""
    return torch.from_numpy(np.stack([np.asarray(one.convert(mode), np.float32) for one in pictures]) / 255.0)


class SaveImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SaveImage",
            display_name="Save Image",
            category="image",
            description="Saves pictures as PNG files with the workflow in them.",
            inputs=[
                io.Image.Input("images", tooltip="The pictures."),
                io.String.Input("filename_prefix", default="ComfyUI", tooltip="How the files' names begin."),
            ],
            outputs=[io.Image.Output("images")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images: torch.Tensor, filename_prefix: str) -> Any:
        shown = api_ui.ImageSaveHelper.get_save_images_ui(images, filename_prefix, cls)
        return io.NodeOutput(images, ui=shown)


class PreviewImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="PreviewImage",
            display_name="Preview Image",
            category="image",
            description="Saves pictures into the temporary folder.",
            inputs=[io.Image.Input("images")],
            outputs=[io.Image.Output("images")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images: torch.Tensor) -> Any:
        return io.NodeOutput(images, ui=api_ui.PreviewImage(images, cls=cls))


class ImageScale(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="ImageScale",
            display_name="Upscale Image",
            category="image/upscaling",
            description="Pictures in another size.",
            inputs=[
                io.Image.Input("image"),
                io.Combo.Input("upscale_method", options=METHODS),
                io.Int.Input("width", default=512, min=0, max=LARGEST, step=1),
                io.Int.Input("height", default=512, min=0, max=LARGEST, step=1),
                io.Combo.Input("crop", options=["disabled", "center"]),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: Tensor, upscale_method: str, width: int, height: int, crop: str) -> Any:
        """A side of 0 follows from the other; two of them leave the pictures as they are."""
        if width == height == 0:
            return io.NodeOutput(image)
        width = width or max(1, round(image.shape[2] * height / image.shape[1]))
        height = height or max(1, round(image.shape[1] * width / image.shape[2]))
        return io.NodeOutput(resized(image, width, height, upscale_method, crop))


class ImageScaleBy(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="ImageScaleBy",
            display_name="Upscale Image By",
            category="image/upscaling",
            description="Pictures larger or smaller by a factor.",
            inputs=[
                io.Image.Input("image"),
                io.Combo.Input("upscale_method", options=METHODS),
                io.Float.Input("scale_by", default=1.0, min=0.01, max=8.0, step=0.01),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: Tensor, upscale_method: str, scale_by: float) -> Any:
        height, width = (round(side * scale_by) for side in image.shape[1:3])
        return io.NodeOutput(resized(image, width, height, upscale_method))


class BatchImages(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        slots = io.Autogrow.TemplatePrefix(io.Image.Input("image"), prefix="image", min=1, max=50)
        return io.Schema(
            node_id="BatchImagesNode",
            display_name="Batch Images",
            category="image/batch",
            description="Pictures as one batch, all of the first one's size.",
            inputs=[io.Autogrow.Input("images", slots)],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, images: dict[str, Tensor]) -> Any:
        """Where some have an alpha channel, the others get one of 1."""
        each = list(images.values())
        channels = max(image.shape[-1] for image in each)
        each = [torch.nn.functional.pad(image, (0, channels - image.shape[-1]), value=1.0) for image in each]
        height, width = each[0].shape[1:3]
        return io.NodeOutput(
            torch.cat(
                [
                    image
                    if image.shape[1:3] == (height, width)
                    else resized(image, width, height, "bilinear", "center")
                    for image in each
                ]
            )
        )


class RepeatImageBatch(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="RepeatImageBatch",
            display_name="Repeat Image Batch",
            category="image/batch",
            description="A batch of pictures several times over.",
            inputs=[io.Image.Input("image"), io.Int.Input("amount", default=1, min=1, max=4096)],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: Tensor, amount: int) -> Any:
        return io.NodeOutput(image.repeat(amount, 1, 1, 1))


class ImageFromBatch(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="ImageFromBatch",
            display_name="Get Image from Batch",
            category="image/batch",
            description="Some pictures of a batch.",
            inputs=[
                io.Image.Input("image"),
                io.Int.Input("batch_index", default=0, min=-LARGEST, max=LARGEST),
                io.Int.Input("length", default=1, min=1, max=4096),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: Tensor, batch_index: int, length: int) -> Any:
        return io.NodeOutput(image[part_of(len(image), batch_index, length)].clone())


def resized(image: Tensor, width: int, height: int, method: str, crop: str = "disabled") -> Tensor:
    return common_upscale(image.movedim(-1, 1), width, height, method, crop).movedim(1, -1)


def part_of(count: int, index: int, length: int) -> slice:
    """`length` entries of a batch from `index` on, below 0 counted from its end; both cut to the batch."""
    first = max(0, min(count - 1, index + count if index < 0 else index))
    return slice(first, min(first + length, count))


IMAGE_NODES: list[Any] = [
    LoadImage,
    SaveImage,
    PreviewImage,
    ImageScale,
    ImageScaleBy,
    BatchImages,
    RepeatImageBatch,
    ImageFromBatch,
]

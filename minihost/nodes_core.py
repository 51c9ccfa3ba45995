"""The host's own nodes that the shipped workflows use: same ids, inputs and meaning as in ComfyUI."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from .sampling import SAMPLERS, SCHEDULERS, sample
from .shims import api_ui, folder_paths
from .shims.api_latest import io

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tiff"}
LARGEST = 16384


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
        """IMAGE [1,H,W,3] in 0..1, MASK [1,H,W], 1 where transparent (zeros [1,64,64] without alpha)."""
        with Image.open(folder_paths.get_annotated_filepath(image)) as opened:
            picture = ImageOps.exif_transpose(opened)
        pixels = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255.0
        mask = torch.zeros(1, 64, 64)
        if "A" in picture.getbands():
            mask = 1.0 - torch.from_numpy(np.asarray(picture.getchannel("A"), dtype=np.float32) / 255.0)[None]
        return io.NodeOutput(torch.from_numpy(pixels)[None], mask)


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


class EmptyLatentImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        side = {"default": 512, "min": 16, "max": LARGEST, "step": 8}
        return io.Schema(
            node_id="EmptyLatentImage",
            display_name="Empty Latent Image",
            category="latent",
            description="An empty latent, to start a picture from noise.",
            inputs=[
                io.Int.Input("width", **side, tooltip="Width in pixels."),
                io.Int.Input("height", **side, tooltip="Height in pixels."),
                io.Int.Input("batch_size", default=1, min=1, max=4096, tooltip="How many pictures."),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, width: int, height: int, batch_size: int) -> Any:
        return io.NodeOutput({"samples": torch.zeros(batch_size, 4, height // 8, width // 8)})


class CLIPTextEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="CLIPTextEncode",
            display_name="CLIP Text Encode (Prompt)",
            category="conditioning",
            description="Encodes a text for the diffusion model.",
            inputs=[
                io.String.Input("text", multiline=True, dynamic_prompts=True, tooltip="The text."),
                io.Clip.Input("clip", tooltip="The text encoder."),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, text: str, clip: Any) -> Any:
        return io.NodeOutput(clip.encode_from_tokens_scheduled(clip.tokenize(text)))


class KSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="KSampler",
            display_name="KSampler",
            category="sampling",
            description="Denoises a latent into what the conditioning describes.",
            inputs=[
                io.Model.Input("model"),
                io.Int.Input("seed", default=0, min=0, max=2**64 - 1, control_after_generate=True),
                io.Int.Input("steps", default=20, min=1, max=10000),
                io.Float.Input("cfg", default=8.0, min=0.0, max=100.0, step=0.1, round=0.01),
                io.Combo.Input("sampler_name", options=list(SAMPLERS)),
                io.Combo.Input("scheduler", options=list(SCHEDULERS)),
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative"),
                io.Latent.Input("latent_image"),
                io.Float.Input("denoise", default=1.0, min=0.0, max=1.0, step=0.01),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        positive: list,
        negative: list,
        latent_image: dict[str, Any],
        denoise: float,
    ) -> Any:
        unknown = [key for key in ("noise_mask", "batch_index") if key in latent_image]
        if unknown:
            raise ValueError(
                f"minihost cannot sample a latent with '{unknown[0]}'; run this workflow in ComfyUI"
            )
        samples = sample(
            model,
            latent_image["samples"],
            positive,
            negative,
            seed=seed,
            steps=steps,
            cfg=cfg,
            sampler=sampler_name,
            scheduler=scheduler,
            denoise=denoise,
        )
        return io.NodeOutput({**latent_image, "samples": samples})


class VAEDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="VAEDecode",
            display_name="VAE Decode",
            category="latent",
            description="Decodes a latent into a picture.",
            inputs=[io.Latent.Input("samples"), io.Vae.Input("vae")],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, samples: dict[str, Any], vae: Any) -> Any:
        return io.NodeOutput(vae.decode(samples["samples"]))


class VAEEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="VAEEncode",
            display_name="VAE Encode",
            category="latent",
            description="Encodes a picture into a latent.",
            inputs=[io.Image.Input("pixels"), io.Vae.Input("vae")],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, pixels: torch.Tensor, vae: Any) -> Any:
        return io.NodeOutput({"samples": vae.encode(pixels)})


CORE_NODES: list[Any] = [
    LoadImage,
    SaveImage,
    PreviewImage,
    EmptyLatentImage,
    CLIPTextEncode,
    KSampler,
    VAEDecode,
    VAEEncode,
]


def saved_paths(ui: dict[str, dict[str, Any]]) -> list[str]:
    """Paths of the pictures that nodes saved, previews too."""
    found = [image for shown in ui.values() for image in shown.get("images", [])]
    return [
        os.path.join(folder_paths.get_directory_by_type(image["type"]), image["subfolder"], image["filename"])
        for image in found
    ]

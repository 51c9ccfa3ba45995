"""The host's nodes around the model, and the list of all nodes of the host that minihost has.

Same ids, inputs and meaning as in ComfyUI; they are those that the shipped workflows use.
"""

from __future__ import annotations

import os
from typing import Any

import torch

from .nodes_image import IMAGE_NODES
from .nodes_latent import LATENT_NODES
from .nodes_mask import MASK_NODES
from .nodes_value import VALUE_NODES
from .sampling import SAMPLERS, SCHEDULERS, make_sigmas, prepare_noise, sample
from .shims import folder_paths
from .shims.api_latest import io


class CLIPTextEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="CLIPTextEncode",
            display_name="CLIP Text Encode (Prompt)",
            category="model/conditioning",
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
            category="model/sampling",
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
        if "noise_mask" in latent_image:
            raise ValueError("minihost cannot sample with a noise mask; run this workflow in ComfyUI")
        latent = latent_image["samples"]
        samples = sample(
            model,
            prepare_noise(latent.shape, seed, latent_image.get("batch_index")),
            latent,
            positive,
            negative,
            sigmas=make_sigmas(model.get_model_object("model_sampling"), scheduler, steps, denoise),
            cfg=cfg,
            sampler=sampler_name,
        )
        return io.NodeOutput({**latent_image, "samples": samples})


class VAEDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="VAEDecode",
            display_name="VAE Decode",
            category="model/latent",
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
            category="model/latent",
            description="Encodes a picture into a latent.",
            inputs=[io.Image.Input("pixels"), io.Vae.Input("vae")],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, pixels: torch.Tensor, vae: Any) -> Any:
        return io.NodeOutput({"samples": vae.encode(pixels)})


CORE_NODES: list[Any] = [
    *(CLIPTextEncode, KSampler, VAEDecode, VAEEncode),
    *IMAGE_NODES,
    *LATENT_NODES,
    *MASK_NODES,
    *VALUE_NODES,
]


def saved_paths(ui: dict[str, dict[str, Any]]) -> list[str]:
    """Paths of the pictures that nodes saved, previews too."""
    found = [image for shown in ui.values() for image in shown.get("images", [])]
    return [
        os.path.join(folder_paths.get_directory_by_type(image["type"]), image["subfolder"], image["filename"])
        for image in found
    ]

"""The host's nodes for latents: same ids, inputs and meaning as in ComfyUI.

LATENT is {"samples": [B,4,H/8,W/8]}, and "batch_index" where the latents' places in the batch that they come
from are not 0, 1, ..
"""

from __future__ import annotations

from typing import Any

import torch

from .nodes_image import LARGEST, part_of
from .shims.api_latest import io
from .shims.utils import common_upscale

Latent = dict[str, Any]


class EmptyLatentImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        side = {"default": 512, "min": 16, "max": LARGEST, "step": 8}
        return io.Schema(
            node_id="EmptyLatentImage",
            display_name="Empty Latent Image",
            category="model/latent",
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


class RepeatLatentBatch(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="RepeatLatentBatch",
            display_name="Repeat Latent Batch",
            category="model/latent/batch",
            description="A batch of latents several times over.",
            inputs=[io.Latent.Input("samples"), io.Int.Input("amount", default=1, min=1, max=64)],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, samples: Latent, amount: int) -> Any:
        """Places, where there are some, go on after the last one, so that each latent has its own noise."""
        made = {**samples, "samples": samples["samples"].repeat(amount, 1, 1, 1)}
        if "batch_index" in samples:
            places = samples["batch_index"]
            span = max(places) - min(places) + 1
            made["batch_index"] = [place + i * span for i in range(amount) for place in places]
        return io.NodeOutput(made)


class LatentFromBatch(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="LatentFromBatch",
            display_name="Get Latent From Batch",
            category="model/latent/batch",
            description="Some latents of a batch, which keep their noise.",
            inputs=[
                io.Latent.Input("samples"),
                io.Int.Input("batch_index", default=0, min=-LARGEST, max=LARGEST),
                io.Int.Input("length", default=1, min=1, max=64),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, samples: Latent, batch_index: int, length: int) -> Any:
        part = part_of(len(samples["samples"]), batch_index, length)
        return io.NodeOutput(
            {**samples, "samples": samples["samples"][part].clone(), "batch_index": places(samples)[part]}
        )


class BatchLatents(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        slots = io.Autogrow.TemplatePrefix(io.Latent.Input("latent"), prefix="latent", min=1, max=50)
        return io.Schema(
            node_id="BatchLatentsNode",
            display_name="Batch Latents",
            category="model/latent/batch",
            description="Latents as one batch, all of the first one's size.",
            inputs=[io.Autogrow.Input("latents", slots)],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, latents: dict[str, Latent]) -> Any:
        each = list(latents.values())
        height, width = each[0]["samples"].shape[-2:]
        samples = [common_upscale(one["samples"], width, height, "bilinear", "center") for one in each]
        index = [place for one in each for place in places(one)]
        return io.NodeOutput({**each[0], "samples": torch.cat(samples), "batch_index": index})


def places(latent: Latent) -> list[int]:
    return latent.get("batch_index", list(range(len(latent["samples"]))))


LATENT_NODES: list[Any] = [EmptyLatentImage, RepeatLatentBatch, LatentFromBatch, BatchLatents]

"""The trained network as a file that others load: LDM names, diffusers' folder, or Control-LoRA."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..checkpoints import base_name
from ..checkpoints.convert import to_diffusers
from ..checkpoints.load import write_tensors
from ..checkpoints.shapes import config_metadata
from ..errors import TrainingError
from ..networks.controlnet import ControlNet
from ..networks.union import UnionControlNet
from .batches import Source
from .learner import Learner
from .low_rank import is_low_rank, low_rank_tensors
from .shards import write_whole
from .state import writing

Format = Literal["ldm", "diffusers"]


def result_metadata(learner: Learner, source: Source) -> dict[str, str]:
    """What the file says of how it was made: base, hints, data, steps and settings."""
    return {
        "cnet.base": base_name(learner.base.config),
        "cnet.base_hash": learner.base_hash,
        "cnet.prediction": learner.settings.prediction,
        "cnet.steps": str(learner.step),
        "cnet.data_hash": source.data_hash,
        "cnet.settings": json.dumps(asdict(learner.settings)),
        **{f"cnet.{name}": value for name, value in source.facts.items()},
    }


def save_result(
    net: ControlNet,
    tensors: Mapping[str, Tensor],
    path: Path,
    metadata: Mapping[str, str],
    format: Format = "ldm",
    dtype: torch.dtype | None = torch.float16,
) -> None:
    """Write a trained network, replacing the file at once or not at all.

    tensors: its state dict, of Learner.result, or those of a file written so. format: "ldm", one file that
    every host loads, or "diffusers", a folder for ControlNetModel.from_pretrained. dtype: of the weights,
    None for as they are.
    Raises TrainingError if it cannot be written, or not in this format.
    """
    cast = {name: tensor.detach().to("cpu", dtype or tensor.dtype) for name, tensor in tensors.items()}
    described = {**metadata, **config_metadata(net.config, **_hint(net))}
    if is_low_rank(cast):
        cast = low_rank_tensors(cast)
    if format == "diffusers":
        if is_low_rank(cast) or isinstance(net, UnionControlNet):
            raise TrainingError("diffusers has no format for Control-LoRA and union networks; use ldm.")
        _write_diffusers(net, cast, path, described)
        return
    with writing(path):
        write_tensors(path, cast, described)


def _hint(net: ControlNet) -> dict[str, Any]:
    return {"hint_channels": net.hint_channels, "hint_widths": net.hint_widths}


def _write_diffusers(
    net: ControlNet, tensors: dict[str, Tensor], folder: Path, about: dict[str, str]
) -> None:
    renamed = to_diffusers(tensors, net.config, len(net.hint_widths))
    weights = folder / "diffusion_pytorch_model.safetensors"
    with writing(weights):
        write_tensors(weights, renamed, {**about, "format": "pt"})
    config = json.dumps(diffusers_config(net), indent=2)
    write_whole(folder / "config.json", config.encode())


def diffusers_config(net: ControlNet) -> dict[str, Any]:
    """The config.json of diffusers' ControlNetModel. Raises TrainingError for sizes that it cannot say."""
    config = net.config
    if len(set(config.num_res_blocks)) > 1:
        raise TrainingError("diffusers' ControlNet has as many residual blocks on each level; use ldm.")
    widths = [config.model_channels * mult for mult in config.channel_mult]
    attention = [depth > 0 for depth in config.transformer_depth]
    depths = [max(1, depth) for depth in config.transformer_depth]
    more: dict[str, Any] = {}
    if config.adm_in_channels is not None:
        # SDXL's: a pooled text, and six numbers of 256 channels each.
        more = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": config.adm_in_channels,
        }
    return {
        "_class_name": "ControlNetModel",
        "in_channels": config.in_channels,
        "conditioning_channels": net.hint_channels,
        "conditioning_embedding_out_channels": list(net.hint_widths),
        "block_out_channels": widths,
        "down_block_types": ["CrossAttnDownBlock2D" if has else "DownBlock2D" for has in attention],
        "layers_per_block": config.num_res_blocks[0],
        "transformer_layers_per_block": depths,
        "cross_attention_dim": config.context_dim,
        # The number of heads, under a name that says otherwise.
        "attention_head_dim": [config.heads(width) for width in widths],
        "use_linear_projection": config.use_linear_in_transformer,
        "norm_num_groups": config.norm_groups,
        **more,
    }

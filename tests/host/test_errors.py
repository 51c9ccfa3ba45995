"""Wrong inputs: each is refused at the node where the mistake is, in the host's own error format."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cnet_core.checkpoints import load_controlnet, save_controlnet
from cnet_core.networks.controlnet import ControlNet

from .hosting import REPO, Host, RejectedError, Run, api_prompt, nodes_of

GOOD = REPO / "demo" / "weights" / "controlnet" / "cnet_mini_pose.safetensors"


def good() -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a mini ControlNet."""
    with safe_open(GOOD, "pt") as file:
        return load_file(GOOD), file.metadata()


def small(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.float16)


def not_a_checkpoint(path: Path) -> None:
    path.write_bytes(b"<!DOCTYPE html><html>Sign in to download</html>")


def truncated(path: Path) -> None:
    path.write_bytes(GOOD.read_bytes()[:-1000])


def missing_key(path: Path) -> None:
    tensors, metadata = good()
    tensors.pop("middle_block_out.0.weight")
    save_file(tensors, path, metadata)


def unexpected_key(path: Path) -> None:
    tensors, metadata = good()
    save_file({**tensors, "zero_convs.99.0.weight": small((1, 1, 1, 1))}, path, metadata)


def wrong_shape(path: Path) -> None:
    tensors, metadata = good()
    save_file({**tensors, "middle_block_out.0.weight": small((5, 5, 1, 1))}, path, metadata)


def lora(path: Path) -> None:
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    save_file(
        {
            f"{name}.lora_down.weight": small((4, 320)),
            f"{name}.lora_up.weight": small((320, 4)),
            f"{name}.alpha": small(()),
        },
        path,
    )


def base_unet(path: Path) -> None:
    tensors = load_file(REPO / "demo" / "weights" / "unet.safetensors")
    save_file({f"model.diffusion_model.{key}": value for key, value in tensors.items()}, path)


def vae(path: Path) -> None:
    save_file(
        {
            "first_stage_model.decoder.conv_in.weight": small((512, 4, 3, 3)),
            "first_stage_model.encoder.conv_in.weight": small((128, 3, 3, 3)),
            "first_stage_model.quant_conv.weight": small((8, 8, 1, 1)),
        },
        path,
    )


def model_patch(path: Path) -> None:
    save_file(
        {
            "control_layers.0.adaLN_modulation.0.weight": small((8, 8)),
            "control_all_x_embedder.2-1.weight": small((8, 8)),
            "control_noise_refiner.0.attention.k_norm.weight": small((8,)),
        },
        path,
    )


def unknown(path: Path) -> None:
    save_file({"foo.weight": small((8, 8))}, path)


def half_an_adapter(path: Path) -> None:
    """Of no family for the pack; the host's loader takes it for an adapter."""
    save_file({"conv_in.weight": small((8, 64, 3, 3))}, path)


WRONG_FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "web_page": (not_a_checkpoint, "web page"),
    "cut_short": (truncated, "truncated"),
    "missing_key": (missing_key, "middle_block_out.0.weight"),
    "unexpected_key": (unexpected_key, "zero_convs.99"),
    "wrong_shape": (wrong_shape, "middle_block_out.0.weight"),
    "a_lora": (lora, "LoRA"),
    "a_unet": (base_unet, "UNet"),
    "a_vae": (vae, "VAE"),
    "a_model_patch": (model_patch, "model patch"),
    "unknown": (unknown, "no known family"),
    "half_an_adapter": (half_an_adapter, "own loader fails"),
}


def with_file(prompt: dict[str, Any], name: str) -> tuple[dict[str, Any], str]:
    """The prompt with another file in its first control loader, and that loader's id."""
    prompt = json.loads(json.dumps(prompt))
    loader = nodes_of(prompt, "CNetLoadControlNet")[0]
    prompt[loader]["inputs"]["control_net_name"] = name
    return prompt, loader


def assert_pack_error(run: Run, node: str, kind: str, *words: str) -> None:
    """The run ended at this node with this exception of the pack, whose message holds the words."""
    assert run.error is not None, run.entry["status"]
    assert run.error["node_id"] == node, run.error["exception_message"]
    assert run.error["exception_type"].rpartition(".")[2] == kind, run.error["exception_message"]
    for word in words:
        assert word.lower() in run.error["exception_message"].lower(), run.error["exception_message"]
    # Both the log and the frontend's dialog print the message as it stands.
    assert run.error["exception_message"].count("\n") <= 12


@pytest.mark.parametrize("name", WRONG_FILES)
def test_a_wrong_file_is_refused_by_the_loader(host: Host, name: str) -> None:
    write, word = WRONG_FILES[name]
    file = f"{name}.safetensors"
    write(host.base / "models" / "controlnet" / file)
    prompt, loader = with_file(api_prompt("pose"), file)
    assert_pack_error(host.queue(prompt), loader, "CheckpointError", file, word)


@pytest.mark.parametrize(
    ("changes", "class_type"),
    [({"context_dim": 96}, "CNetApply"), ({"model_channels": 64}, "KSampler")],
    ids=["other_text", "other_width"],
)
def test_a_control_for_another_base_is_found_before_sampling(
    host: Host, changes: dict[str, Any], class_type: str
) -> None:
    """At the apply node where the prompt's text tells, else when the sampler sets out, before a step."""
    net = load_controlnet(GOOD)
    file = f"other_{next(iter(changes))}.safetensors"
    other = ControlNet(replace(net.config, **changes), hint_widths=net.hint_widths)
    save_controlnet(other, host.base / "models" / "controlnet" / file)
    prompt, _ = with_file(api_prompt("pose"), file)
    (node,) = nodes_of(prompt, class_type)
    assert_pack_error(host.queue(prompt), node, "BaseMismatchError", file)


def refused(host: Host, prompt: dict[str, Any], node: str, kind: str, name: str) -> None:
    """The host's validation rejects the prompt for this input of this node."""
    with pytest.raises(RejectedError) as caught:
        host.submit(prompt)
    found = [(error["type"], error["extra_info"]["input_name"]) for error in caught.value.errors(node)]
    assert (kind, name) in found, caught.value


def test_values_out_of_range_are_refused_before_anything_runs(host: Host) -> None:
    prompt = api_prompt("pose")
    (apply,) = nodes_of(prompt, "CNetApply")
    prompt[apply]["inputs"]["strength"] = 11.0
    refused(host, prompt, apply, "value_bigger_than_max", "strength")
    prompt[apply]["inputs"].update(strength=1.0, end_percent=-0.5)
    refused(host, prompt, apply, "value_smaller_than_min", "end_percent")


def test_missing_and_mistaken_inputs_are_refused_before_anything_runs(host: Host) -> None:
    prompt = api_prompt("pose")
    (apply,) = nodes_of(prompt, "CNetApply")
    control_net = prompt[apply]["inputs"].pop("control_net")
    refused(host, prompt, apply, "required_input_missing", "control_net")
    prompt[apply]["inputs"].update(control_net=control_net)
    image = prompt[apply]["inputs"]["image"]
    prompt[apply]["inputs"].update(image=prompt[apply]["inputs"]["control_net"])
    refused(host, prompt, apply, "return_type_mismatch", "image")
    prompt[apply]["inputs"].update(image=image)
    prompt, loader = with_file(prompt, "no_such_file.safetensors")
    refused(host, prompt, loader, "value_not_in_list", "control_net_name")


def test_a_control_without_a_hint_is_refused_at_the_node(host: Host) -> None:
    prompt = api_prompt("pose")
    (apply,) = nodes_of(prompt, "CNetApply")
    del prompt[apply]["inputs"]["image"]
    assert_pack_error(host.queue(prompt), apply, "HintError", "no hint", "connect an image")


def test_a_merge_whose_units_are_all_muted_leaves_the_prompts_alone(host: Host) -> None:
    """A frontend leaves muted nodes out."""
    prompt = api_prompt("pose_depth")
    (merge,) = nodes_of(prompt, "CNetMerge")
    inputs = prompt[merge]["inputs"]
    prompt[merge]["inputs"] = {key: value for key, value in inputs.items() if not key.startswith("units.")}
    host.queue(prompt).checked()
    assert "no unit is connected, or all are muted" in host.log


def test_an_end_before_its_start_is_refused_at_the_node(host: Host) -> None:
    prompt = api_prompt("pose")
    (apply,) = nodes_of(prompt, "CNetApply")
    prompt[apply]["inputs"].update(start_percent=0.8, end_percent=0.2)
    assert_pack_error(host.queue(prompt), apply, "ControlError", "0.8", "0.2")


def with_schedule(*nodes: dict[str, Any]) -> dict[str, Any]:
    """The pose workflow under a chain of schedule nodes, named schedule0, schedule1, ..."""
    prompt = api_prompt("pose")
    (apply,) = nodes_of(prompt, "CNetApply")
    for i, node in enumerate(nodes):
        previous = {"previous": [f"schedule{i - 1}", 0]} if i else {}
        prompt[f"schedule{i}"] = {**node, "inputs": {**node["inputs"], **previous}}
    prompt[apply]["inputs"]["schedule"] = [f"schedule{len(nodes) - 1}", 0]
    return prompt


def keyframe(percent: float, strength: float = 1.0) -> dict[str, Any]:
    inputs = {"percent": percent, "strength": strength, "interpolation": "linear"}
    return {"class_type": "CNetKeyframe", "inputs": inputs}


def test_keyframes_out_of_order_are_refused_at_the_later_one(host: Host) -> None:
    prompt = with_schedule(keyframe(0.6), keyframe(0.2))
    assert_pack_error(host.queue(prompt), "schedule1", "ControlError", "0.2", "0.6", "order of time")


def test_negative_strengths_are_refused(host: Host) -> None:
    refused(host, with_schedule(keyframe(0.5, -1.0)), "schedule0", "value_smaller_than_min", "strength")
    frames = {"class_type": "CNetFrameStrengths", "inputs": {"strengths": "1, -1"}}
    assert_pack_error(host.queue(with_schedule(frames)), "schedule0", "ControlError", "frame 1", "upwards")

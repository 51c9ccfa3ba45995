"""Beside ComfyUI-Advanced-ControlNet in one host: the same latent where both mean the same.

Full-width SD1.5 with random weights, the same files, seed and prompts. Where both run the same batches the
latents are equal bit for bit on a CPU; tolerances allow for another order of sums.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from .conftest import HOSTS, NONE
from .hosting import Host, host_label
from .random_weights import give_weights

pytestmark = pytest.mark.slow

NAME = "ComfyUI-Advanced-ControlNet"
HOW_TO_GET_IT = (
    f"no {NAME} found. Clone https://github.com/Kosinkadink/{NAME} and set ADVANCED_CONTROLNET_PATH to the "
    "clone, or clone it into the custom_nodes of the ComfyUI that is tested."
)
TOLERANCE = 1e-5
# Rounding of latents that are up to 15, where the order of the arithmetic differs. Ours leaves rows of
# strength 0 out of the batch (another order of sums), theirs multiplies them by 0; ours multiplies weights
# with each other and then the residual, theirs the residual with one after the other.
TOLERANCE_OF_ANOTHER_ORDER = 1e-4

# One control of a chain: the class of its apply node, and the inputs that differ from APPLY's.
Control = tuple[str, dict[str, Any]]
OURS, THEIRS, HOSTS_OWN = "CNetApply", "ACN_AdvancedControlNetApply_v2", "ControlNetApplyAdvanced"
NETS = {OURS: "net_ours", THEIRS: "net_theirs", HOSTS_OWN: "net_host"}

# Sampling from 0.3 of the noise in three steps: these lie at 0.778, 0.889 and 1.0 of all of sampling.
STEPS, DENOISE = 3, 0.3
BETWEEN_1_AND_2, BETWEEN_2_AND_3 = 0.83, 0.94

# Everything that a test may link to; the host runs what is linked.
NODES: dict[str, tuple[str, dict[str, Any]]] = {
    "model": ("UNETLoader", {"unet_name": "sd15.safetensors", "weight_dtype": "default"}),
    "hint": ("LoadImage", {"image": "hint.png"}),
    "yes": ("HostProbeRandomConditioning", {"seed": 1, "width": 768}),
    "no": ("HostProbeRandomConditioning", {"seed": 2, "width": 768}),
    "net_ours": ("CNetLoadControlNet", {"control_net_name": "sd15_control.safetensors"}),
    "net_theirs": ("ACN_ControlNetLoaderAdvanced", {"cnet": "sd15_control.safetensors"}),
    "net_host": ("ControlNetLoader", {"control_net_name": "sd15_control.safetensors"}),
    **{
        mask: ("LoadImageMask", {"image": f"{mask}.png", "channel": "red"})
        for mask in ("full", "empty", "half", "quarter")
    },
    "soft_ours": ("CNetBlockWeights", {"preset": "soft"}),
    "soft_theirs": ("ACN_ScaledSoftControlNetWeights", {"base_multiplier": 0.825}),
    "own_ours": (
        "CNetBlockWeights",
        {"preset": "custom", "preset.weights": ", ".join(str((i + 1) / 10) for i in range(13))},
    ),
    "own_theirs": (
        "ACN_CustomControlNetWeightsSD15",
        {**{f"output_{i}": (i + 1) / 10 for i in range(12)}, "middle_0": 1.3},
    ),
    "cond_only_theirs": (
        "ACN_CustomControlNetWeightsSD15",
        {**{f"output_{i}": 1.0 for i in range(12)}, "middle_0": 1.0, "uncond_multiplier": 0.0},
    ),
    "third_theirs": ("ACN_ScaledSoftControlNetWeights", {"base_multiplier": 1.0, "uncond_multiplier": 0.3}),
    "frames_ours": ("CNetFrameStrengths", {"strengths": "1, 0.5, 0"}),
    "frames_theirs": ("LatentKeyframeGroup", {"index_strengths": "0=1.0, 1=0.5, 2=0.0"}),
    "one_frame_ours": ("CNetFrameStrengths", {"strengths": "0.5"}),
    "one_frame_theirs": ("LatentKeyframeGroup", {"index_strengths": "0=0.5"}),
    "key0_ours": ("CNetKeyframe", {"percent": 0.0, "strength": 0.4, "interpolation": "hold"}),
    "key1_ours": (
        "CNetKeyframe",
        {"percent": BETWEEN_1_AND_2, "strength": 1.0, "interpolation": "hold", "previous": ["key0_ours", 0]},
    ),
    "keys_ours": (
        "CNetKeyframe",
        {"percent": BETWEEN_2_AND_3, "strength": 0.0, "interpolation": "hold", "previous": ["key1_ours", 0]},
    ),
    "key0_theirs": ("TimestepKeyframe", {"start_percent": 0.0, "strength": 0.4}),
    "key1_theirs": (
        "TimestepKeyframe",
        {"start_percent": BETWEEN_1_AND_2, "strength": 1.0, "prev_timestep_kf": ["key0_theirs", 0]},
    ),
    "keys_theirs": (
        "TimestepKeyframe",
        {"start_percent": BETWEEN_2_AND_3, "strength": 0.0, "prev_timestep_kf": ["key1_theirs", 0]},
    ),
    "late_ours": ("CNetKeyframe", {"percent": 0.9, "strength": 0.2, "interpolation": "hold"}),
    "late_theirs": ("TimestepKeyframe", {"start_percent": 0.9, "strength": 0.2}),
}  # fmt: skip
APPLY = {"image": ["hint", 0], "strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}


def checkout(root: Path) -> Path | None:
    """The peer's folder for a host."""
    named = os.environ.get("ADVANCED_CONTROLNET_PATH")
    path = Path(named).expanduser().resolve() if named else root / "custom_nodes" / NAME
    return path if (path / "adv_control").is_dir() else None


@pytest.fixture(
    scope="module",
    params=HOSTS or [NONE],
    ids=[f"ComfyUI-{host_label(root)}" for root in HOSTS] or ["no-ComfyUI"],
)
def beside(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, weights: Path
) -> Iterator[Host]:
    """A host with both packs, the random networks, a hint and masks."""
    peer = checkout(request.param)
    if peer is None:
        pytest.skip(HOW_TO_GET_IT)
    running = Host(request.param, tmp_path_factory.mktemp("beside"))
    (running.base / "custom_nodes").mkdir()
    (running.base / "custom_nodes" / NAME).symlink_to(peer, target_is_directory=True)
    try:
        running.start()
        give_weights(running, weights)
        for name, columns in (("full", 64), ("empty", 0), ("half", 32), ("quarter", 16)):
            mask = np.zeros((64, 64, 3), dtype=np.uint8)
            mask[:, :columns] = 255
            Image.fromarray(mask).save(running.base / "input" / f"{name}.png")
        yield running
    finally:
        running.stop()


def chained(controls: tuple[Control, ...], batch: int) -> dict[str, Any]:
    """The prompt under a chain of controls."""
    nodes = {name: {"class_type": kind, "inputs": dict(inputs)} for name, (kind, inputs) in NODES.items()}
    positive, negative = ["yes", 0], ["no", 0]
    for i, (kind, inputs) in enumerate(controls):
        both = {"positive": positive, "negative": negative}
        merged = kind == "CNetMerge"
        own = {} if merged else {**APPLY, "control_net": [NETS.get(kind, "net_ours"), 0]}
        nodes[f"apply{i}"] = {"class_type": kind, "inputs": {**both, **own, **inputs}}
        positive, negative = [f"apply{i}", 0], [f"apply{i}", 1]
    for i, net in enumerate(("net_ours", "net_theirs")):
        unit = {**APPLY, "strength": 0.6, "control_net": [net, 0]}
        nodes[f"unit{i}"] = {"class_type": "CNetUnit", "inputs": unit}
    nodes["empty_latent"] = {
        "class_type": "EmptyLatentImage",
        "inputs": {"width": 64, "height": 64, "batch_size": batch},
    }
    # A low starting noise keeps the latent near one in size, where 1e-5 means something in fp32.
    nodes["sampler"] = {
        "class_type": "KSampler",
        "inputs": {
            "model": ["model", 0], "positive": positive, "negative": negative,
            "latent_image": ["empty_latent", 0], "seed": 11, "steps": STEPS, "cfg": 3.0,
            "sampler_name": "euler", "scheduler": "normal", "denoise": DENOISE,
        },
    }  # fmt: skip
    nodes["save"] = {
        "class_type": "SaveLatent",
        "inputs": {"samples": ["sampler", 0], "filename_prefix": "latent"},
    }
    return nodes


Latent = Callable[..., torch.Tensor]


@pytest.fixture(scope="module")
def latent(beside: Host) -> Latent:
    """Runs a chain of controls once and remembers its latent."""
    known: dict[str, torch.Tensor] = {}

    def run(*controls: Control, batch: int = 1) -> torch.Tensor:
        key = repr((controls, batch))
        if key not in known:
            known[key] = beside.queue(chained(controls, batch)).checked().latent("save")
        return known[key]

    return run


def ours(**inputs: Any) -> Control:
    return OURS, inputs


def theirs(**inputs: Any) -> Control:
    return THEIRS, inputs


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape and a.isfinite().all() and b.isfinite().all()
    return (a - b).abs().max().item()


def check_same(
    name: str, a: torch.Tensor, b: torch.Tensor, unlike: torch.Tensor, tolerance: float = TOLERANCE
) -> None:
    """Both are the same, and what is compared is seen in them."""
    found, seen = difference(a, b), difference(a, unlike)
    print(f"{name}: max abs difference {found:.2e} of {a.abs().max():.2f}; the effect itself {seen:.2e}")
    assert seen > 1e-3, "what is compared does nothing, so the comparison says nothing"
    assert found <= tolerance


# Each of our inputs beside theirs of the same meaning, with the number of latents.
SAME: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "strength": ({"strength": 0.7}, {"strength": 0.7}, 1),
    "range": (
        {"start_percent": BETWEEN_1_AND_2, "end_percent": BETWEEN_2_AND_3},
        {"start_percent": BETWEEN_1_AND_2, "end_percent": BETWEEN_2_AND_3},
        1,
    ),
    "soft weights": ({"blocks": ["soft_ours", 0]}, {"weights_override": ["soft_theirs", 0]}, 1),
    "prompt first": ({"balance": "prompt first"}, {"weights_override": ["soft_theirs", 0]}, 1),
    "weights of one's own": ({"blocks": ["own_ours", 0]}, {"weights_override": ["own_theirs", 0]}, 1),
    "half mask": ({"mask": ["half", 0]}, {"mask_optional": ["half", 0]}, 1),
    "latent keyframes": (
        {"schedule": ["frames_ours", 0]},
        {"latent_kf_override": ["frames_theirs", 0]},
        3,
    ),
    "keyframes": ({"schedule": ["keys_ours", 0]}, {"timestep_kf": ["keys_theirs", 0]}, 1),
    "uncond gain": ({"uncond_gain": 0.3}, {"weights_override": ["third_theirs", 0]}, 1),
    "uncond gain 0": ({"uncond_gain": 0.0}, {"weights_override": ["cond_only_theirs", 0]}, 1),
    "all at once": (
        {
            "strength": 0.8, "end_percent": BETWEEN_2_AND_3, "mask": ["half", 0],
            "blocks": ["soft_ours", 0], "schedule": ["keys_ours", 0],
        },
        {
            "strength": 0.8, "end_percent": BETWEEN_2_AND_3, "mask_optional": ["half", 0],
            "weights_override": ["soft_theirs", 0], "timestep_kf": ["keys_theirs", 0],
        },
        1,
    ),
}  # fmt: skip
IN_ANOTHER_ORDER = ("latent keyframes", "uncond gain 0", "all at once")


def test_a_plain_control_is_the_same(latent: Latent) -> None:
    check_same("plain", latent(ours()), latent(theirs()), unlike=latent())


@pytest.mark.parametrize("what", SAME)
def test_the_same_meaning_gives_the_same_latent(latent: Latent, what: str) -> None:
    mine, peers, batch = SAME[what]
    check_same(
        what,
        latent(ours(**mine), batch=batch),
        latent(theirs(**peers), batch=batch),
        unlike=latent(ours(), batch=batch),
        tolerance=TOLERANCE_OF_ANOTHER_ORDER if what in IN_ANOTHER_ORDER else TOLERANCE,
    )


def test_full_and_empty_masks_are_all_and_nothing_in_both(latent: Latent) -> None:
    for name, like in (("full", latent(ours())), ("empty", latent())):
        assert difference(like, latent(ours(mask=[name, 0]))) <= TOLERANCE
        assert difference(like, latent(theirs(mask_optional=[name, 0]))) <= TOLERANCE


def test_a_mask_with_its_edge_within_a_block_is_averaged_here_and_sampled_there(latent: Latent) -> None:
    """A quarter of the deepest block's one place is a quarter by area; their bilinear samples miss it."""
    mine, peers = latent(ours(mask=["quarter", 0])), latent(theirs(mask_optional=["quarter", 0]))
    assert difference(mine, peers) > TOLERANCE
    # Neither is far from the other: only the deep, coarse blocks differ.
    assert difference(mine, peers) < difference(latent(ours()), mine) / 2


def test_frames_without_a_strength_keep_the_last_one_here_and_are_silent_there(latent: Latent) -> None:
    half, none = latent(ours(strength=0.5), batch=2), latent(batch=2)
    mine = latent(ours(schedule=["one_frame_ours", 0]), batch=2)
    peers = latent(theirs(latent_kf_override=["one_frame_theirs", 0]), batch=2)
    assert difference(half, none) > 1e-3
    assert difference(mine, half) <= TOLERANCE
    assert difference(peers[:1], half[:1]) <= TOLERANCE
    assert difference(peers[1:], none[1:]) <= TOLERANCE


def test_before_the_first_keyframe_its_strength_holds_here_and_is_full_there(latent: Latent) -> None:
    mine, peers = latent(ours(schedule=["late_ours", 0])), latent(theirs(timestep_kf=["late_theirs", 0]))
    assert difference(mine, latent(ours(strength=0.2))) <= TOLERANCE
    assert difference(mine, peers) > 1e-3


@pytest.mark.parametrize(
    "control",
    [
        pytest.param(ours(control_net=["net_theirs", 0], strength=0.7), id="their-loader-our-apply"),
        pytest.param(theirs(control_net=["net_ours", 0], strength=0.7), id="our-loader-their-apply"),
        pytest.param(theirs(control_net=["net_host", 0], strength=0.7), id="host-loader-their-apply"),
        pytest.param(
            (HOSTS_OWN, {"control_net": ["net_theirs", 0], "strength": 0.7}), id="their-loader-host-apply"
        ),
    ],
)
def test_loaders_and_apply_nodes_mix(latent: Latent, control: Control) -> None:
    check_same("mixed", latent(ours(strength=0.7)), latent(control), unlike=latent())


def test_our_weights_act_on_their_control(latent: Latent) -> None:
    weights = {"mask": ["half", 0], "blocks": ["soft_ours", 0], "schedule": ["keys_ours", 0], "strength": 0.8}
    inner = ours(control_net=["net_theirs", 0], **weights)
    check_same("our weights on their control", latent(ours(**weights)), latent(inner), unlike=latent(ours()))


@pytest.mark.parametrize("order", ["ours-first", "theirs-first"])
def test_one_chain_of_both_adds_them_up(latent: Latent, order: str) -> None:
    one, two = {"strength": 0.7}, {"strength": 0.4, "end_percent": BETWEEN_2_AND_3}
    alone = latent(ours(**one), ours(**two))
    both = (ours(**one), theirs(**two)) if order == "ours-first" else (theirs(**one), ours(**two))
    check_same(order, alone, latent(*both), unlike=latent(ours(**one)))


@pytest.mark.parametrize("order", ["merge-first", "theirs-first"])
def test_a_merge_beside_their_control_adds_up(latent: Latent, order: str) -> None:
    """One of the merge's units holds a control from their loader."""
    merge = ("CNetMerge", {"units.unit0": ["unit0", 0], "units.unit1": ["unit1", 0], "mode": "sum"})
    after = theirs(strength=0.4)
    both = (merge, after) if order == "merge-first" else (after, merge)
    alone = latent(ours(strength=0.6), ours(strength=0.6), ours(strength=0.4))
    check_same(order, alone, latent(*both), unlike=latent(ours(strength=0.6), ours(strength=0.6)))

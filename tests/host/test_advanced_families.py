"""Every family that Advanced-ControlNet shares, in each host's own Python; the script says what is compared.

SD1.5's plain ControlNets are compared at full width, through real hosts, in test_advanced_controlnet.py.
"""

import functools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .conftest import HOSTS, NONE
from .hosting import REPO, host_label, host_python

SCRIPT = Path(__file__).with_name("compare_advanced.py")
# Rounding of latents of up to 61: bit for bit the same but for union ControlNets (2e-5), whose hints and text
# are computed once here.
TOLERANCE = 1e-4
FAMILIES = ("sdxl", "sd15_control_lora", "sdxl_control_lora", "t2i_sd15", "t2i_xl", "lllite", "union")
MEANINGS = (
    "plain",
    "strength",
    "range",
    "half mask",
    "keyframes",
    "latent keyframes",
    "uncond gain",
    "soft weights",
    "ours, theirs",
    "theirs, ours",
)
SOFT, OURS_LAST = "soft weights", "theirs, ours"
# What is not meant the same. They count an adapter's four features as eight blocks; ours fall by one each.
UNLIKE = {("t2i_sd15", SOFT), ("t2i_xl", SOFT), ("lllite", OURS_LAST)}
# Soft weights do nothing to these of theirs.
WITHOUT_WEIGHTS = {("sd15_control_lora", SOFT), ("sdxl_control_lora", SOFT), ("lllite", SOFT)}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "ADVANCED_CONTROLNET_PATH" not in os.environ,
        reason="set ADVANCED_CONTROLNET_PATH to a clone of ComfyUI-Advanced-ControlNet",
    ),
    pytest.mark.parametrize("root", HOSTS or [NONE], ids=host_label if HOSTS else None),
]


@functools.cache
def found(root: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """What the script prints in this host."""
    command = [host_python(root), SCRIPT, REPO, os.environ["ADVANCED_CONTROLNET_PATH"]]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_meaning_gives_the_same_latent(root: Path, family: str) -> None:
    assert set(found(root)[family]) == set(MEANINGS)
    for what, result in found(root)[family].items():
        print(f"{family}, {what}: {result}")
        if (family, what) not in UNLIKE | WITHOUT_WEIGHTS:
            assert result["effect"] > 0.1, what
            assert result["difference"] <= TOLERANCE, what


def test_soft_weights_fall_over_an_adapter_s_own_blocks_here_and_over_eight_there(root: Path) -> None:
    for family in ("t2i_sd15", "t2i_xl"):
        result = found(root)[family][SOFT]
        assert result["effect"] > 0.1 and result["difference"] > 0.1


def test_soft_weights_act_on_control_loras_and_lllite_here_only(root: Path) -> None:
    for family, what in WITHOUT_WEIGHTS:
        result = found(root)[family][what]
        assert result["effect"] == 0 and result["difference"] > 0.1


def test_lllite_of_ours_goes_before_others_patches_so_after_theirs_it_is_not_quite_the_same(
    root: Path,
) -> None:
    result = found(root)["lllite"][OURS_LAST]
    assert TOLERANCE < result["difference"] < result["effect"] / 10

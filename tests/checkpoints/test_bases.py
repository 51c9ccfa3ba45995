"""A control network is refused on another base before anything runs."""

from dataclasses import replace
from itertools import permutations

import pytest

from cnet_core.checkpoints import base_name, check_base
from cnet_core.checkpoints.bases import SDXL_REFINER, go_together
from cnet_core.errors import BaseMismatchError
from cnet_core.networks.config import SD15, SD21, SDXL, UNetConfig
from cnet_core.networks.t2i_adapter import AdapterConfig

BASES = {"SD1.5": SD15, "SD2.x": SD21, "SDXL": SDXL, "SDXL refiner": SDXL_REFINER}
MINI = UNetConfig(32, (1, 2, 3, 3), context_dim=64, num_head_channels=32)


@pytest.mark.parametrize("name", BASES)
def test_names(name):
    assert base_name(BASES[name]) == name
    check_base(BASES[name], BASES[name])


def test_custom_widths_are_told_by_their_sizes():
    assert base_name(MINI) == "custom width 32 x (1, 2, 3, 3), text 64"
    check_base(MINI, MINI)


@pytest.mark.parametrize(("control", "base"), list(permutations([*BASES.values(), MINI], 2)))
def test_every_mismatch_names_both_and_the_mend(control, base):
    with pytest.raises(BaseMismatchError) as caught:
        check_base(control, base, "pose.safetensors")
    message = str(caught.value)
    assert message.startswith(f"pose.safetensors was made for {base_name(control)}, ")
    assert f"the model is {base_name(base)}" in message and "Use a ControlNet made for" in message


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"context_dim": 32}, "text of width 32, the model 64"),
        (
            {"channel_mult": (1, 2, 4, 4)},
            "12 skips from 32 to 128 channels, the model's 12 skips from 32 to 96",
        ),
        ({"num_res_blocks": (1, 1, 1, 1)}, "8 skips"),
        ({"adm_in_channels": 100}, "vector condition of width 100, the model none"),
        ({"in_channels": 9}, "9 latent channels, the model 4"),
    ],
)
def test_each_difference_is_said(change, says):
    with pytest.raises(BaseMismatchError, match="made for") as caught:
        check_base(replace(MINI, **change), MINI)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"transformer_depth": (0, 0, 0, 0), "transformer_depth_middle": 0, "context_dim": 0},
        {"transformer_depth": (0, 0, 1, 0)},
        {"num_heads": 8, "num_head_channels": None},
    ],
    ids=["no text", "shallow", "heads"],
)
def test_what_may_differ(change):
    check_base(replace(MINI, **change), MINI)


def test_only_the_channels_differ():
    with pytest.raises(BaseMismatchError) as caught:
        check_base(replace(SD15, in_channels=9), SD15)
    assert "made for SD1.5 with 9 latent channels, but the model is one with 4" in str(caught.value)
    assert "made for SD1.5, or" not in str(caught.value)


def test_a_control_network_serves_an_inpainting_base():
    check_base(SD15, replace(SD15, in_channels=9))


@pytest.mark.parametrize(("base", "channels"), [("SD1.5", 9), ("SD1.5", 8), ("SD2.x", 5), ("SDXL", 9)])
def test_inpainting_models_have_their_bases_name(base, channels):
    config = {"SD1.5": SD15, "SD2.x": SD21, "SDXL": SDXL}[base]
    assert base_name(replace(config, in_channels=channels)) == base
    with pytest.raises(BaseMismatchError, match=f"Use a ControlNet made for {base}, "):
        check_base(SDXL if base != "SDXL" else SD15, replace(config, in_channels=channels))


FULL = AdapterConfig()
ADAPTERS = {
    "full": FULL,
    "light": replace(FULL, kind="light"),
    "xl": replace(FULL, kind="xl"),
}


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        (SD15, SD15, True),
        # Told apart by the text that they read, not by their blocks.
        (SD15, SD21, True),
        (SD15, SDXL, False),
        (SD15, MINI, False),
        (SDXL, replace(SDXL, transformer_depth=(0, 0, 0), transformer_depth_middle=0), True),
        (SD15, ADAPTERS["full"], True),
        (SDXL, ADAPTERS["full"], False),
        (SDXL, ADAPTERS["xl"], True),
        (ADAPTERS["full"], ADAPTERS["light"], True),
        (ADAPTERS["full"], ADAPTERS["xl"], False),
        (SDXL, None, True),
    ],
)
def test_what_goes_together_adds_to_the_same_blocks(one, other, together):
    assert go_together(one, other) is together
    assert go_together(other, one) is together

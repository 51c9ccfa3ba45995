"""Presets: what is estimated, beside what was measured, and that it fits."""

import gc
import json
from pathlib import Path

import pytest
import torch

from cnet_core.errors import TrainingError
from cnet_core.networks.config import SD15, SDXL, UNetConfig
from cnet_core.networks.unet import UNet
from cnet_core.training.config import Settings
from cnet_core.training.presets import PRESETS, estimate, preset
from cnet_core.training.start import trainable

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
LIBRARIES = 1e9


@pytest.mark.parametrize("file", ["training_gpu", "training_gpu_bf16"])
def test_the_estimate_is_little_above_what_was_measured(file):
    measured = json.loads((RESULTS / f"{file}.json").read_text())
    told, taken = measured["settings"], sum(measured["memory_bytes"]["ours"].values())
    settings = Settings(batch=told["batch"], accumulation=1, precision=told.get("precision", "fp32"))
    found = estimate(SD15, settings, told["size"], told["size"])
    assert taken < found.total - LIBRARIES < 1.15 * taken


@pytest.mark.parametrize(
    "card, batch, recompute, optimizer",
    [
        ("8 GB", 4, "all", "adamw8bit"),
        ("12 GB", 4, "control", "adamw"),
        ("16 GB", 4, "none", "adamw"),
        ("24 GB", 8, "none", "adamw"),
    ],
)
def test_presets_fit_by_the_estimate_that_is_stated(card, batch, recompute, optimizer):
    settings = preset(card, SD15, Settings(precision="fp32"))
    assert settings.precision == "bf16"
    assert (settings.batch, settings.recompute, settings.optimizer) == (batch, recompute, optimizer)
    assert settings.batch * settings.accumulation == 8
    assert estimate(SD15, settings).total <= PRESETS[card]


def test_averaged_weights_are_counted_and_of_a_control_lora_those_that_are_trained():
    small = UNetConfig(32, (1, 2), (1, 1), (1, 0), context_dim=8, num_heads=2)
    for rank in (0, 4):
        plain, averaged = (estimate(small, Settings(rank=rank, ema=ema), 64, 64) for ema in (0.0, 0.9))
        net = trainable(UNet(small), Settings(rank=rank))
        trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
        assert averaged.total - plain.total == 4 * trained
        assert (plain.network, plain.optimizer) == (8 * trained, 8 * trained)


def test_what_fits_no_card_is_refused_with_the_least_that_it_takes():
    with pytest.raises(TrainingError, match=r"SDXL at 1024x1024 does not fit 8 GB: at least about 20\.\d GB"):
        preset("8 GB", SDXL, Settings(), 1024, 1024)


@pytest.mark.parametrize("recompute", ["none", "control", "all"])
def test_an_estimate_leaves_nothing_behind(recompute):
    def living():
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    estimate(SD15, Settings(recompute=recompute), 256, 256)
    before = living()
    estimate(SD15, Settings(recompute=recompute), 256, 256)
    assert living() <= before

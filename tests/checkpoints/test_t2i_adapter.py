"""T2I-Adapter files of every kind and layout: sizes from shapes, the network as it was, errors by name."""

import re
from pathlib import Path

import pytest
import torch

from cnet_core.checkpoints import identify, load_controlnet, open_control, read_state_dict
from cnet_core.checkpoints.detect import FAMILIES
from cnet_core.checkpoints.t2i_adapter import AdapterFile
from cnet_core.errors import BaseMismatchError, CheckpointError
from cnet_core.networks.config import SD15, SD21, SDXL
from cnet_core.networks.t2i_adapter import AdapterConfig, T2IAdapter

WIDTHS = (8, 16, 24, 24)
CONFIGS = [
    AdapterConfig("full", 3, WIDTHS),
    AdapterConfig("full", 1, WIDTHS, 3),
    AdapterConfig("full", 3, WIDTHS, 2, 3, pooled=False),
    AdapterConfig("light", 3, WIDTHS, 4),
    AdapterConfig("light", 1, WIDTHS, 1),
    AdapterConfig("xl", 3, WIDTHS),
    AdapterConfig("xl", 1, WIDTHS, 1),
]


def weights(config: AdapterConfig) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return T2IAdapter(config).state_dict()


def in_diffusers(config: AdapterConfig, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names that diffusers gives the same tensors."""

    def rename(match: re.Match) -> str:
        if config.kind == "light":
            return f"adapter.body.{match[1]}.resnets.{match[2]}.{match[3]}"
        level, block = divmod(int(match[1]), config.blocks)
        where = "" if match[3].startswith("in_conv") else f"resnets.{block}."
        return f"adapter.body.{level}.{where}{match[3]}"

    pattern = r"body\.(\d+)\.body\.(\d+)\.(.+)" if config.kind == "light" else r"body\.(\d+)\.()(.+)"
    names = {name: re.sub(f"^{pattern}", rename, name) for name in state}
    return {n if n.startswith("adapter.") else f"adapter.{n}": state[name] for name, n in names.items()}


@pytest.mark.parametrize("layout", ["release", "nested", "diffusers"])
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_every_kind_and_layout(write, config, layout):
    if layout == "diffusers" and not config.pooled:
        pytest.skip("diffusers has no strided adapters")
    state = weights(config)
    tensors = {
        "release": state,
        "nested": {f"adapter.{name}": tensor for name, tensor in state.items()},
        "diffusers": in_diffusers(config, state),
    }[layout]
    file = open_control(write({name: tensor.half() for name, tensor in tensors.items()}))
    assert (file.family.id, file.family.kind) == ("t2i_adapter", "native")
    assert file.config == config
    assert (file.hint_channels, file.dtype, file.needs) == (config.hint_channels, torch.float16, None)
    net = file.build(dtype=torch.float32)
    assert all(torch.equal(net.state_dict()[name], tensor.half().float()) for name, tensor in state.items())
    assert not net.training and not any(p.requires_grad for p in net.parameters())


def full_size(kind) -> AdapterFile:
    """Of the released sizes, without weights."""
    config = AdapterConfig(kind)
    state = T2IAdapter(config, dtype=torch.float16, device="meta").state_dict()
    (family,) = (family for family in FAMILIES if family.id == "t2i_adapter")
    return AdapterFile(Path("canny.safetensors"), family, config, state)


def test_label_and_base():
    full, light, xl = (full_size(kind) for kind in ("full", "light", "xl"))
    assert full.base == "SD1.5 or SD2.x" and xl.base == "SDXL"
    assert full.label == "T2I-Adapter (full) for SD1.5 or SD2.x, fp16, 77.4 M parameters"
    assert light.label.startswith("T2I-Adapter (light) for SD1.5 or SD2.x, fp16, ")
    assert xl.label == "T2I-Adapter (xl) for SDXL, fp16, 79.0 M parameters"
    for file, fitting in ((full, (SD15, SD21)), (light, (SD15, SD21)), (xl, (SDXL,))):
        for base in fitting:
            file.check_base(base, "canny")
    with pytest.raises(BaseMismatchError, match=r"canny was made for SD1\.5 or SD2\.x, but.* is SDXL"):
        full.check_base(SDXL, "canny")
    with pytest.raises(BaseMismatchError, match=r"canny was made for SDXL, but the model is SD1\.5"):
        xl.check_base(SD15, "canny")


def test_described_by_its_label(write):
    path = write(weights(CONFIGS[0]))
    assert open_control(path).label.startswith("T2I-Adapter (full) for a custom base, fp32, ")


@pytest.mark.parametrize("config", [CONFIGS[0], CONFIGS[3]], ids=["full", "light"])
def test_missing_tensors_are_called_as_in_the_file(write, config):
    tensors = in_diffusers(config, weights(config))
    for gone in ("adapter.body.2.resnets.1.block2.bias", "adapter.body.1.in_conv.weight"):
        path = write({name: tensor for name, tensor in tensors.items() if name != gone})
        with pytest.raises(CheckpointError, match=f"1 missing: {re.escape(gone)}"):
            open_control(path).build()


def test_damaged_files(write):
    state = weights(CONFIGS[0])
    cut = {name: tensor for name, tensor in state.items() if not name.startswith("body.7.")}
    with pytest.raises(CheckpointError, match=r"damaged or incomplete T2I-Adapter.*7 residual blocks"):
        open_control(write(cut))
    odd = {**state, "conv_in.weight": state["conv_in.weight"][:, :100]}
    with pytest.raises(CheckpointError, match=r"damaged or incomplete T2I-Adapter.*100 input channels"):
        open_control(write(odd))
    light = weights(CONFIGS[3])
    del light["body.3.out_conv.weight"]
    with pytest.raises(CheckpointError, match=r"it has no body\.3\.out_conv\.weight"):
        open_control(write(light))


def test_an_adapter_is_no_controlnet_and_style_models_are_no_adapters(write):
    with pytest.raises(CheckpointError, match=r"T2I-Adapter \(full\).*Expected a ControlNet"):
        load_controlnet(write(weights(CONFIGS[0])))
    style = write({"style_embedding": torch.zeros(1), "transformer_layes.0.ln_1.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"style adapter.*models/style_models.*Load Style Model"):
        open_control(style)
    fuser = write({"spatial_feat_mapping.0.1.weight": torch.zeros(1), "task_embedding": torch.zeros(1)})
    assert identify(read_state_dict(fuser)).id == "coadapter_fuser"
    with pytest.raises(CheckpointError, match=r"CoAdapter fuser"):
        open_control(fuser)

"""Union ControlNets from files and back: sizes out of shapes, and what is wrong with a file."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from cnet_core.checkpoints import identify, load_controlnet, open_control, read_state_dict, save_controlnet
from cnet_core.checkpoints.convert import to_diffusers
from cnet_core.errors import CheckpointError
from cnet_core.networks.union import UnionControlNet, type_ids

from .conftest import CONFIGS, WIDTHS, randomised


def net_of(config, types: int, layers: int = 1) -> UnionControlNet:
    torch.manual_seed(types)
    return randomised(
        UnionControlNet(config, hint_widths=WIDTHS, types=types, layers=layers, type_channels=4)
    )


def as_released(net: UnionControlNet) -> dict[str, torch.Tensor]:
    """The names of the released files."""
    state = to_diffusers(net.state_dict(), net.config)
    return {name.replace(".in_proj.", ".in_proj_"): tensor for name, tensor in state.items()}


@pytest.fixture(scope="module")
def sd15_union() -> UnionControlNet:
    return net_of(CONFIGS["sd15"], 8)


def assert_same(found, expected):
    found, expected = found.state_dict(), expected.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(("types", "layers"), [(6, 1), (8, 1), (8, 2)])
def test_released_names_give_the_network(write, config, types, layers):
    net = net_of(config, types, layers)
    file = open_control(write(as_released(net), config=config))
    assert (file.family.id, file.family.kind) == ("union", "native")
    assert file.union_types == type_ids(types)
    assert file.label.startswith("union ControlNet for ")
    built = file.build()
    assert isinstance(built, UnionControlNet)
    assert (built.types, built.type_channels) == (types, 4)
    assert_same(built, net)


def test_a_plain_controlnet_has_no_types(write, sd15_controlnet):
    assert open_control(write(sd15_controlnet.state_dict())).union_types == ()


def test_saved_and_loaded(tmp_path, sd15_union):
    path = tmp_path / "net.safetensors"
    save_controlnet(sd15_union, path, dtype=torch.float16)
    assert identify(read_state_dict(path)).id == "union"
    net = load_controlnet(path, dtype=torch.float32)
    assert isinstance(net, UnionControlNet)
    for name, tensor in sd15_union.state_dict().items():
        assert torch.equal(net.state_dict()[name], tensor.half().float())


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_missing_tensor_is_named_as_in_the_file(tmp_path_factory, sd15_union, data):
    state = as_released(sd15_union)
    own = [name for name in state if name.startswith(("task", "transformer_", "spatial", "control_add"))]
    gone = data.draw(st.sampled_from([*own, "conv_in.weight", "controlnet_mid_block.bias"]))
    path = tmp_path_factory.getbasetemp() / "union-missing.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items() if name != gone}, path)
    with pytest.raises(CheckpointError) as caught:
        load_controlnet(path)
    assert gone in str(caught.value) and "Download it again" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("surprise.weight", (1,), "1 unexpected: surprise.weight"),
        (
            "transformer_layes.0.attn.in_proj_weight",
            (32, 96),
            r"in_proj_weight is \(32, 96\), expected \(96, 32\)",
        ),
        ("task_embedding", (8, 16), r"task_embedding is \(8, 16\), expected \(8, 32\)"),
        ("task_embedding", (5, 32), "5 types do not divide the width 32"),
        ("task_embedding", (8,), r"task_embedding is \(8,\), expected \(8, 32\)"),
        ("control_add_embedding.linear_1.weight", (8,), "damaged or incomplete union ControlNet"),
    ],
)
def test_wrong_tensors(write, sd15_union, name, shape, message):
    with pytest.raises(CheckpointError, match=message):
        load_controlnet(write({**as_released(sd15_union), name: torch.ones(shape)}))

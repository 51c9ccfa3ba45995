"""What `inspect` and its command line say of files of every kind, and of strangers' metadata."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cnet_core.__main__ import main
from cnet_core.checkpoints import Family, base_name, inspect, save_controlnet
from cnet_core.checkpoints.convert import to_diffusers
from cnet_core.checkpoints.detect import HOST_CONTROLNETS
from cnet_core.checkpoints.family import has_all
from cnet_core.checkpoints.inspect import count
from cnet_core.checkpoints.text import printable
from cnet_core.errors import CheckpointError
from tests.checkpoints.test_detect import KEYS, tensors

REPO = Path(__file__).parents[2]


@pytest.fixture
def saved(tmp_path, sd15_controlnet):
    path = tmp_path / "net.safetensors"
    save_controlnet(sd15_controlnet, path, {"author": "somebody"}, torch.float16)
    return path


def test_a_controlnet(saved, sd15_controlnet):
    found = inspect(saved)
    parameters = sum(p.numel() for p in sd15_controlnet.parameters())
    assert (found.family, found.loader, found.hint_channels) == ("ldm_controlnet", "native", 3)
    assert found.base.startswith("custom width 32")
    assert found.precision == {"fp16": parameters} and found.parameters == parameters
    assert found.tensors == len(sd15_controlnet.state_dict())
    assert found.size == saved.stat().st_size
    assert found.metadata["author"] == "somebody"
    assert found.needs is None and found.union_types == ()
    text = found.to_text()
    for part in (str(saved), "ControlNet", "fp16", "hint channels", "Load ControlNet (CNet)", "somebody"):
        assert part in text


def test_every_layout_has_the_same_sizes(write, sd15_controlnet):
    state = sd15_controlnet.state_dict()
    config = sd15_controlnet.config
    one = inspect(write(state, "ldm.safetensors", config))
    other = inspect(write(to_diffusers(state, config, 4), "diffusers.safetensors", config))
    both = {
        **{f"control_model.{name}": t for name, t in state.items()},
        "model.beside.weight": torch.zeros(9),
    }
    beside = inspect(write(both, "beside.safetensors", config))
    assert one.parameters == other.parameters == beside.parameters
    assert one.tensors == beside.tensors
    assert one.base == other.base == beside.base


def test_a_difference_file_needs_its_base(write, sd15_controlnet):
    state = {**sd15_controlnet.state_dict(), "difference": torch.ones(())}
    found = inspect(write(state, config=sd15_controlnet.config))
    assert found.family == "difference_controlnet" and found.needs == "unet"
    assert "the base model" in found.to_text()


@pytest.mark.parametrize(("family", "mend"), KEYS, ids=[family for family, _ in KEYS])
def test_every_other_kind_is_named_with_its_mend(write, family, mend):
    found = inspect(write(tensors(KEYS[family, mend])))
    assert found.family == family
    assert found.loader in ("host", "other") and mend in found.mend
    assert found.name in found.to_text() and found.mend in found.to_text()
    json.loads(found.to_json())


def test_the_base_of_a_unet(write, unet, config):
    state = unet.state_dict()
    whole = {
        **{f"model.diffusion_model.{n}": t for n, t in state.items()},
        "first_stage_model.a": torch.ones(1),
    }
    for content, family in (
        (state, "ldm_unet"),
        (to_diffusers(state, config), "diffusers_unet"),
        (whole, "checkpoint"),
    ):
        found = inspect(write(content, config=config))
        assert (found.family, found.base) == (family, base_name(config))


def test_a_file_of_which_a_part_is_missing_is_refused_as_by_the_loader(write, sd15_controlnet):
    state = dict(sd15_controlnet.state_dict())
    lost = "middle_block.1.transformer_blocks.0.attn1.to_q.weight"
    del state[lost]
    with pytest.raises(CheckpointError, match=f"1 missing: {lost}"):
        inspect(write(state, config=sd15_controlnet.config))


@pytest.mark.parametrize(
    "names",
    [
        ["controlnet_cond_embedding.conv_in.weight", "down_blocks.400000000.resnets.0.norm1.weight"],
        ["controlnet_cond_embedding.blocks.400000000.weight", "controlnet_cond_embedding.conv_in.weight"],
        ["adapter.body.0.resnets.0.block1.weight", "adapter.body.0.resnets.400000000.block1.weight"],
        ["lora_controlnet", "input_hint_block.0.weight", "zero_convs.5000.0.weight"],
        [f"down_blocks.{i}.resnets.900.norm1.weight" for i in range(9)]
        + ["controlnet_cond_embedding.conv_in.weight"],
    ],
)
def test_names_do_not_make_us_count_to_billions(write, names):
    with pytest.raises(CheckpointError, match=r"net\.safetensors is a damaged .* no network has so many"):
        inspect(write(tensors(names)))


def test_one_broken_file_does_not_hide_the_others(write, saved, capsys, sd15_controlnet):
    state = dict(sd15_controlnet.state_dict())
    state["input_blocks.0.0.weight"] = torch.zeros(0, 4, 3, 3)
    empty = write(state, "empty.safetensors")
    huge = write(sd15_controlnet.state_dict(), "huge.safetensors")
    tensors_of = {name: tensor.contiguous() for name, tensor in sd15_controlnet.state_dict().items()}
    save_file(tensors_of, huge, {"cnet.config": '{"num_heads": 8, "norm_groups": Infinity}'})
    assert main(["inspect", str(empty), str(huge), str(saved)]) == 1
    said = capsys.readouterr()
    assert "ControlNet" in said.out and str(saved) in said.out
    assert "empty.safetensors is a damaged" in said.err and "huge.safetensors" in said.err


def test_what_a_family_alone_has_is_shown(write):
    """A new family shows up by what its opened file tells."""

    class Opened:
        hint_channels = 5
        union_types = ("openpose", "depth")
        needs = None
        global_average_pooling = True
        base = "SD9"

        def check(self):
            pass

        def __init__(self, file, family):
            self.tensors = {"a": torch.zeros(2, 3, dtype=torch.bfloat16), "b": torch.zeros(2)}

    entry = Family("novel", "novel network", has_all("novel.weight"), Opened)
    found = inspect(write(tensors(["novel.weight"])), (entry,))
    assert (found.hint_channels, found.base, found.loader) == (5, "SD9", "native")
    assert found.union_types == ("openpose", "depth") and found.global_average_pooling is True
    assert found.precision == {"bf16": 6, "fp32": 2}
    text = found.to_text()
    assert "2: openpose, depth" in text and "global" in text and "bf16 75.0%, fp32 25.0%" in text


HOST_FAMILIES = {
    "flux_xlabs": (
        {"controlnet_blocks.0.weight": (8, 8), "double_blocks.0.img_attn.norm.key_norm.scale": (4,)}
        | {"input_hint_block.0.weight": (16, 3, 3, 3)},
        ("Flux", 3, None, None),
    ),
    "flux_mistoline": (
        {"controlnet_blocks.0.linear.weight": (8, 8), "input_cond_block.encoder.0.weight": (16, 3, 3, 3)},
        ("Flux", 3, None, None),
    ),
    "flux_instantx": (
        {"controlnet_blocks.0.weight": (8, 8), "controlnet_x_embedder.weight": (8, 64)}
        | {"controlnet_mode_embedder.weight": (7, 8)},
        ("Flux", None, 16, 7),
    ),
    "sd3": (
        {"controlnet_blocks.0.weight": (8, 8), "pos_embed_input.proj.weight": (2432, 17, 2, 2)},
        ("SD3.5 Large", None, 17, None),
    ),
    "qwen_instantx": (
        {"controlnet_blocks.0.weight": (8, 8), "transformer_blocks.0.img_mlp.net.0.proj.weight": (8, 8)}
        | {"controlnet_x_embedder.weight": (8, 68)},
        ("Qwen-Image", None, 17, None),
    ),
    "qwen_fun": (
        {"control_blocks.0.after_proj.weight": (8, 8), "control_img_in.weight": (8, 132)},
        ("Qwen-Image", None, 33, None),
    ),
    "hunyuan_dit": (
        {"after_proj_list.18.bias": (8,), "x_embedder.proj.weight": (8, 4, 2, 2)},
        ("HunyuanDiT", None, 4, None),
    ),
    "cascade": (
        {"backbone.0.0.weight": (24, 3, 3, 3), "projections.0.0.weight": (8, 8, 1, 1)},
        ("Stable Cascade", 3, None, None),
    ),
}


@pytest.mark.parametrize("family", HOST_FAMILIES)
def test_what_the_shapes_of_the_hosts_families_tell(write, family):
    shapes, expected = HOST_FAMILIES[family]
    found = inspect(write({name: torch.zeros(shape) for name, shape in shapes.items()}))
    assert found.family == family
    assert (found.base, found.hint_channels, found.encoded_channels, found.union_modes) == expected
    text = found.to_text()
    assert found.base in text and "hint channels" in text
    assert ("VAE" in text) == (found.encoded_channels is not None)
    assert (f"{found.union_modes};" in text) == (found.union_modes is not None)
    loaded_by = next(line for line in text.splitlines() if "loaded by" in line)
    assert "ComfyUI's own ControlNet loader" in loaded_by and "the Load ControlNet (CNet) node" in loaded_by


def test_every_family_of_the_host_is_measured():
    assert set(HOST_FAMILIES) == {family.id for family in HOST_CONTROLNETS}


def test_unknown_and_damaged(write, tmp_path):
    found = inspect(write(tensors(["foo.weight"])))
    assert (found.family, found.loader, found.mend) == ("unknown", "unknown", "")
    assert "foo.weight" in found.to_text()
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"<html>")
    with pytest.raises(CheckpointError, match="web page"):
        inspect(broken)
    cut = ["control_model.zero_convs.0.0.weight", "control_model.input_hint_block.0.bias"]
    with pytest.raises(CheckpointError, match="input_blocks"):
        inspect(write(tensors(cut)))


def test_a_strangers_metadata_cannot_command_the_terminal(tmp_path):
    path = tmp_path / "net.safetensors"
    long = "x" * 5_000_000
    metadata = {"a\x1b[2J": "red\x1b[31m\r\n\x07\x9b\u202e\u2028end", "a long one": long}
    metadata |= {f"key {i}": "" for i in range(100)}
    save_file({"foo": torch.zeros(1)}, path, metadata)
    found = inspect(path)
    text = found.to_text()
    assert all(c == "\n" or c.isprintable() for c in text)
    assert r"red\x1b[31m\r\n\x07\x9b\u202e\u2028end" in text
    assert len(text) < 5000 and "5,000,000 characters" in text and "more entries" in text
    line = found.to_json()
    assert line.isprintable()
    assert json.loads(line)["metadata"] == metadata


def test_a_header_may_have_no_metadata_at_all(tmp_path):
    header = b'{"__metadata__":null,"foo":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    path = tmp_path / "net.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert inspect(path).metadata == {}


def test_numbers_and_texts():
    assert [count(n) for n in (999, 12_345, 1_234_567, 2_567_000_000)] == ["999", "12,345", "1.2 M", "2.57 G"]
    assert printable("größe 大きさ 🖼") == "größe 大きさ 🖼"
    assert printable("abcdef", 3) == "abc... (6 characters)"
    assert printable(7) == "7"


def test_command_line_in_text(saved, tmp_path, capsys):
    assert main(["inspect", str(saved)]) == 0
    assert "ControlNet" in capsys.readouterr().out
    missing = tmp_path / "missing\x1b[31m.safetensors"
    assert main(["inspect", str(missing), str(saved)]) == 1
    shown = capsys.readouterr()
    assert "does not exist" in shown.err and "\x1b" not in shown.err
    assert "somebody" in shown.out


def test_command_line_expands_globs_as_shells_on_windows_do_not(saved, capsys):
    (saved.parent / "a [1].safetensors").write_bytes(saved.read_bytes())
    assert main(["inspect", "--json", str(saved.parent / "*.safetensors")]) == 0
    paths = [Path(json.loads(line)["path"]) for line in capsys.readouterr().out.splitlines()]
    assert paths == [saved.parent / "a [1].safetensors", saved]
    assert main(["inspect", str(paths[0])]) == 0


def test_command_line_in_json(saved, tmp_path, capsys):
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"PK\x03\x04 and no more")
    assert main(["inspect", "--json", str(saved), str(broken)]) == 1
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["family"], first["hint_channels"]) == ("ldm_controlnet", 3)
    assert second.keys() == {"path", "error"} and "broken.pth" in second["error"]


def test_command_line_as_people_call_it(tmp_path):
    """No traceback, whatever the terminal can show."""
    notes = tmp_path / "notes.txt"
    notes.write_text("hello")
    done = subprocess.run(
        [sys.executable, "-m", "cnet_core", "inspect", str(notes)],
        check=False,
        cwd=REPO,
        capture_output=True,
        text=True,
        env={"PYTHONIOENCODING": "ascii", "PATH": "/usr/bin"},
    )
    assert done.returncode == 1
    assert "a text file" in done.stderr and "Traceback" not in done.stderr

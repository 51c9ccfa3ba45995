"""The shell's fit, resume and export: what is told, what is written, and what is refused."""

import random
import re
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from cnet_core.checkpoints import load_controlnet, read_state_dict, save_controlnet, save_unet
from cnet_core.networks.controlnet import ControlNet
from cnet_core.training.loop import CURVES, HISTORY, STATES
from cnet_core.training.plan import PLAN, read_toml
from cnet_core.training.state import State, States, alone, read_state

from .conftest import CONFIG, HINT_WIDTHS, XL, make_base
from .shelling import REPO, STEPS, in_process, result, run, same, told

__all__ = ["told"]


def test_a_training_ends_with_a_network_that_says_what_it_is(told, tmp_path, capsys):
    assert run("fit", *told) == 0
    said = capsys.readouterr()
    assert "step 8/8  loss " in said.err and "it/s" in said.err and "left" in said.err
    assert f"{tmp_path / 'pose' / 'pose.safetensors'}: done after 8 steps" in said.out
    assert Image.open(tmp_path / "pose" / CURVES).width > 100
    net = load_controlnet(tmp_path / "pose" / "pose.safetensors")
    assert net.config == CONFIG
    about = read_state_dict(tmp_path / "pose" / "pose.safetensors").metadata
    assert about["cnet.hint_kind"] == "lines" and about["cnet.steps"] == "8"
    # Told by the base's file.
    assert about["cnet.prediction"] == "v"
    assert {tensor.dtype for tensor in result(tmp_path / "pose").values()} == {torch.float16}


def test_an_sd2_base_that_does_not_say_what_it_predicts_is_refused(told, tmp_path, capsys):
    save_unet(make_base(replace(CONFIG, context_dim=1024)), tmp_path / "sd2.safetensors")
    assert run("fit", *told, "--base", tmp_path / "sd2.safetensors") == 1
    assert re.search(r"sd2\.safetensors is an SD2\.x model .*--prediction v .*eps", capsys.readouterr().err)
    assert not (tmp_path / "pose").exists()
    # Told, it goes on to what is wrong next.
    assert run("fit", *told, "--base", tmp_path / "sd2.safetensors", "--prediction", "v") == 1
    assert "channels of text" in capsys.readouterr().err


def test_a_toml_file_says_the_same_from_its_own_folder_and_flags_win(told, tmp_path, monkeypatch):
    (tmp_path / "mine.toml").write_text(
        'cache = "cache"\nbase = "base.safetensors"\nout = "pose"\nsteps = 99\nbatch = 2\naccumulation = 1\n'
        'rate = 1e-2\nwarm_up = 2\nsave_every = 3\nshow_every = 1\ndevice = "cpu"\n'
    )
    monkeypatch.chdir("/")
    assert run("fit", "--config", tmp_path / "mine.toml", "--steps", STEPS) == 0
    (tmp_path / "pose").rename(tmp_path / "told")
    assert run("fit", *told) == 0
    (tmp_path / "told" / "pose.safetensors").rename(tmp_path / "told" / "told.safetensors")
    assert same(result(tmp_path / "pose"), result(tmp_path / "told"))


@pytest.mark.parametrize(
    "text, error",
    [
        ("steps = ", "is no TOML file"),
        ('base = "C:\\Users\\me"', "Backslashes in paths need single quotes"),
        ("stepz = 3", r"has no setting 'stepz'; there are steps, batch"),
        ('steps = "3"', "steps is '3'; expected a whole number"),
        ("steps = 0", "steps is 0; expected 1 or more"),
        ("cache = 3", "cache is 3; expected a path in quotes"),
        ("memory = 11", "memory is 11; choose one of 8, 12, 16, 24"),
        ('tensorboard = "yes"', "tensorboard is 'yes'; expected true or false"),
        ("memory = 12", "torch sees none"),
    ],
)
def test_wrong_settings_are_errors_that_say_the_mend(told, tmp_path, capsys, text, error):
    (tmp_path / "mine.toml").write_text(text)
    paths = told[2:6] if text.startswith("cache") else told[:6]
    assert run("fit", "--config", tmp_path / "mine.toml", *paths, "--device", "cpu") == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and error in said
    assert not (tmp_path / "pose").exists()


def test_what_is_missing_is_asked_for(tmp_path, capsys):
    assert run("fit", "--out", tmp_path) == 1
    said = capsys.readouterr().err
    assert "--cache FOLDER" in said and "--base FILE" in said and "--out" not in said
    assert run("fit", "--config", tmp_path / "none.toml") == 1
    assert "none.toml cannot be read: No such file" in capsys.readouterr().err


def test_the_help_teaches_by_example(capsys):
    for words, taught in (
        ((), "--sheet sheet.jpg"),
        (("fit",), "accelerate launch"),
        (("resume",), "--steps"),
    ):
        with pytest.raises(SystemExit):
            run(*words, "--help")
        assert taught in capsys.readouterr().out


def test_base_data_and_initial_network_of_other_families_are_refused(told, tmp_path, capsys):
    save_unet(make_base(XL), tmp_path / "xl.safetensors")
    assert run("fit", *told, "--base", tmp_path / "xl.safetensors") == 1
    assert "made with the VAE or CLIP of another family" in capsys.readouterr().err
    save_controlnet(ControlNet.from_unet(make_base(XL), 3, HINT_WIDTHS), tmp_path / "init.safetensors")
    assert run("fit", *told, "--init", tmp_path / "init.safetensors") == 1
    assert "init.safetensors was made for" in capsys.readouterr().err
    assert not (tmp_path / "pose").exists()


def test_a_training_goes_on_from_its_own_result(told, tmp_path):
    assert run("fit", *told, "--save-every", 99) == 0
    more = (*told, "--out", tmp_path / "more", "--steps", 1, "--rate", 0)
    assert run("fit", *more, "--init", tmp_path / "pose" / "pose.safetensors") == 0
    assert same(result(tmp_path / "pose"), result(tmp_path / "more"))


def test_resume_takes_what_changes_nothing_and_refuses_the_rest(told, tmp_path, capsys):
    folder = tmp_path / "pose"
    assert run("fit", *told) == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert run("resume", folder, "--batch", 3) == 1
    assert "batch was 2, is 3" in capsys.readouterr().err
    assert run("fit", *told) == 1
    assert "holds a training already (up to step-00000008)" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    (tmp_path / "cache").rename(tmp_path / "moved")
    assert run("resume", folder, "--steps", 10, "--cache", tmp_path / "moved") == 0
    assert read_toml(folder / PLAN)["steps"] == 10
    assert run("fit", *told, "--cache", tmp_path / "moved", "--out", tmp_path / "ten", "--steps", 10) == 0
    assert same(result(folder), result(tmp_path / "ten"))
    assert run("resume", tmp_path) == 1
    assert f"has no {PLAN}" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no SIGKILL")
def test_what_a_killed_resumption_was_told_is_remembered(told, tmp_path):
    folder = tmp_path / "pose"
    assert run("fit", *told, "--device", "cpu") == 0
    assert read_toml(folder / PLAN)["device"] == "cpu"
    killed = in_process(
        "resume", folder, "--steps", 40, when=lambda line: signal.SIGKILL if "step 10/" in line else None
    )
    assert killed[0] == -signal.SIGKILL and read_toml(folder / PLAN)["steps"] == 40


def test_two_trainings_in_one_folder_are_refused(told, tmp_path, capsys):
    folder = tmp_path / "pose"
    folder.mkdir()
    with alone(folder):
        assert run("fit", *told) == 1
    assert f"another process trains in {folder}" in capsys.readouterr().err
    assert not (folder / PLAN).exists()
    assert run("fit", *told) == 0


@pytest.mark.parametrize("device", ["foo", "cuda:77"])
def test_a_device_that_is_not_there_is_named(told, tmp_path, capsys, device):
    assert run("fit", *told, "--device", device) == 1
    assert f"no device '{device}'" in capsys.readouterr().err


def test_a_loss_that_is_no_number_stops_it_and_the_states_from_before_serve(told, tmp_path, capsys):
    folder = tmp_path / "pose"
    assert run("fit", *told, "--rate", 1e18, "--warm-up", 0, "--save-every", 1, "--steps", 50) == 1
    said = capsys.readouterr().err
    assert "the loss became " in said and "initial ControlNet of a new training" in said
    assert not (folder / "pose.safetensors").exists()
    assert run("export", folder, "--dtype", "fp32") == 0
    assert all(torch.isfinite(tensor).all() for tensor in result(folder).values())


def test_export_writes_the_newest_state_in_the_format_asked_for(told, tmp_path, capsys):
    folder = tmp_path / "pose"
    assert run("fit", *told, "--ema", 0.9) == 0
    assert run("export", folder, "--to", tmp_path / "again.safetensors") == 0
    assert same(dict(read_state_dict(tmp_path / "again.safetensors").tensors), result(folder))
    assert run("export", folder, "--format", "diffusers", "--dtype", "fp32") == 0
    net = load_controlnet(folder / "pose-diffusers" / "diffusion_pytorch_model.safetensors")
    assert same({k: v.half() for k, v in net.state_dict().items()}, result(folder))
    (folder / "pose.safetensors").write_bytes(b"")
    newest = sorted((folder / STATES).iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    capsys.readouterr()
    assert run("export", folder) == 0
    said = capsys.readouterr()
    assert str(newest) in said.err and "after 6 steps" in said.out


def test_a_training_is_exported_after_its_cache_and_base_were_moved(told, tmp_path, capsys):
    folder = tmp_path / "pose"
    assert run("fit", *told) == 0
    plan = read_toml(folder / PLAN)
    moved = {name: Path(plan[name]).rename(tmp_path / f"moved_{name}") for name in ("cache", "base")}
    assert run("export", folder) == 1
    words = [word for name, path in moved.items() for word in (f"--{name}", path)]
    assert run("export", folder, *words, "--to", tmp_path / "again.safetensors") == 0
    assert same(dict(read_state_dict(tmp_path / "again.safetensors").tensors), result(folder))


@pytest.mark.parametrize("name", [PLAN, "pose.safetensors"])
def test_files_of_others_are_not_written_over(told, tmp_path, capsys, name):
    own = tmp_path / "pose" / name
    own.parent.mkdir()
    own.write_text("mine")
    assert run("fit", *told) == 1
    assert f"has {name}, but no states" in capsys.readouterr().err and own.read_text() == "mine"


def test_an_initial_network_that_is_gone_is_asked_for(told, tmp_path, capsys):
    begun = (*told, "--init", tmp_path / "pose" / "pose.safetensors", "--out", tmp_path / "second")
    assert run("fit", *told) == 0 and run("fit", *begun) == 0
    moved = (tmp_path / "pose" / "pose.safetensors").rename(tmp_path / "moved.safetensors")
    assert run("export", tmp_path / "second") == 1
    assert "Say by --init where it lies" in capsys.readouterr().err
    assert run("export", tmp_path / "second", "--init", moved) == 0


def test_a_training_goes_on_whatever_became_of_the_network_that_it_began_with(told, tmp_path, capsys):
    """As where that is the result of another training, which went on as well."""
    first, second = tmp_path / "pose", tmp_path / "second"
    assert run("fit", *told) == 0
    begun = (*told, "--init", first / "pose.safetensors", "--out", second)
    assert run("fit", *begun) == 0 and run("fit", *begun, "--out", tmp_path / "straight", "--steps", 10) == 0
    before = result(second)
    assert run("resume", first, "--steps", 10) == 0
    assert run("export", second, "--to", tmp_path / "again.safetensors") == 0
    assert same(dict(read_state_dict(tmp_path / "again.safetensors").tensors), before)
    assert run("resume", second, "--steps", 10) == 0
    assert same(result(second), result(tmp_path / "straight"))


def test_a_training_of_several_processes_is_exported_by_one(told, tmp_path):
    folder = tmp_path / "pose"
    assert run("fit", *told) == 0
    newest = sorted((folder / STATES).iterdir())[-1]
    state = read_state(newest)
    facts = {**state.facts, "identity": {**state.facts["identity"], "processes": 2}}
    newest.unlink()
    States(folder / STATES, 2).write(State(state.step, state.tensors, facts))
    assert run("export", folder, "--to", tmp_path / "again.safetensors") == 0
    assert same(dict(read_state_dict(tmp_path / "again.safetensors").tensors), result(folder))
    # Another seed is still another training.
    facts["identity"]["seed"] = -1
    States(folder / STATES, 2).write(State(state.step, state.tensors, facts))
    assert run("export", folder) == 1


def test_curves_that_cannot_be_written_do_not_end_a_training(told, tmp_path, capsys):
    (tmp_path / "pose" / CURVES).mkdir(parents=True)
    assert run("fit", *told) == 0
    assert f"{CURVES} cannot be written" in capsys.readouterr().err
    assert (tmp_path / "pose" / "pose.safetensors").exists()


def test_a_base_says_by_its_tensors_what_it_predicts(told, tmp_path, capsys):
    """As files of SDXL do."""
    save_unet(make_base(), tmp_path / "silent.safetensors")
    unet = read_state_dict(tmp_path / "silent.safetensors")
    for name, expected in (("v_pred", 0), ("ztsnr", 1)):
        path = tmp_path / f"{name}.safetensors"
        inside = {f"model.diffusion_model.{k}": tensor for k, tensor in unet.tensors.items()}
        save_file({**inside, name: torch.zeros(1)}, path, unet.metadata)
        assert run("fit", *told, "--base", path, "--out", tmp_path / name) == expected
    assert "another noise schedule" in capsys.readouterr().err
    about = read_state_dict(tmp_path / "v_pred" / "v_pred.safetensors").metadata
    assert about["cnet.prediction"] == "v"


def test_a_control_lora_is_trained_exported_and_loaded(told, tmp_path, capsys):
    assert run("fit", *told, "--rank", 2) == 0
    trained = tmp_path / "pose" / "pose.safetensors"
    assert "lora_controlnet" in result(tmp_path / "pose")
    assert load_controlnet(trained, base=make_base().state_dict()).config == CONFIG
    assert run("export", tmp_path / "pose", "--format", "diffusers") == 1
    assert "no format for Control-LoRA" in capsys.readouterr().err


def test_tensorboard_reads_the_log(told, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert run("fit", *told, "--tensorboard", "--steps", 4) == 0
    assert run("resume", tmp_path / "pose", "--steps", 6) == 0
    log = events.EventAccumulator(str(tmp_path / "pose" / "tensorboard")).Reload()
    assert [event.step for event in log.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    # Refused, and nothing that was logged is void.
    assert run("fit", *told, "--tensorboard", "--steps", 4) == 1
    log = events.EventAccumulator(str(tmp_path / "pose" / "tensorboard")).Reload()
    assert [event.step for event in log.Scalars("loss")] == [1, 2, 3, 4, 5, 6]


def test_probes_are_drawn_with_the_mini_autoencoder(tmp_path, capsys):
    weights, pairs = REPO / "demo" / "weights", tmp_path / "pairs"
    inputs = REPO / "workflows" / "inputs"
    for kind, name in (("images", "scene"), ("hints", "scribble")):
        (pairs / kind).mkdir(parents=True)
        Image.open(inputs / f"{name}.png").convert("RGB").resize((64, 64)).save(pairs / kind / "a.png")
    (pairs / "images" / "a.txt").write_text("a red dancer in teal mist")
    sizes = ("--resolution", 64, "--hint-kind", "lines")
    assert run("cache", pairs, "--out", tmp_path / "cache", "--encoders", weights, *sizes) == 0
    where = ("--cache", tmp_path / "cache", "--base", weights / "unet.safetensors", "--encoders", weights)
    how = ("--steps", 1, "--accumulation", 1, "--probe-every", 1, "--device", "cpu")
    assert run("fit", *where, "--out", tmp_path / "run", *how) == 0
    assert "step 1: fidelity 0." in capsys.readouterr().err
    for step in (0, 1):
        assert Image.open(tmp_path / "run" / "probes" / f"step-{step:08}.png").size == (64, 128)


def test_probes_without_the_autoencoder_of_the_cache_are_not_drawn_and_with_another_refused(
    told, tmp_path, capsys
):
    another = ("--encoders", REPO / "demo" / "weights")
    assert run("fit", *told, *another) == 1
    assert re.search(
        r"latents of .*cache are not of the autoencoder in .*leave it\s+out", capsys.readouterr().err
    )
    assert not (tmp_path / "pose").exists()
    assert run("fit", *told, "--steps", 1) == 0
    assert "no probes are drawn: without --encoders" in capsys.readouterr().err
    assert run("resume", tmp_path / "pose", "--steps", 2, "--probe-every", 0, *another) == 0
    assert "probes" not in capsys.readouterr().err


def test_ctrl_c_writes_a_state_and_stops_and_resumed_it_ends_bit_for_bit_alike(told, tmp_path):
    def interrupt(line: str) -> int | None:
        return signal.SIGINT if line.startswith("step 2/") else None

    endless = (*told, "--steps", 100_000, "--save-every", 100_000)
    status, said = in_process("fit", *endless, when=interrupt)
    assert status == 130
    step = int(said.split("stopped after step ")[1].split(".")[0])
    assert f'python -m cnet_core.training resume "{tmp_path / "pose"}"' in said
    assert [path.stem for path in (tmp_path / "pose" / STATES).iterdir()] == [f"step-{step:08}"]
    assert run("resume", tmp_path / "pose", "--steps", step + 2, "--save-every", 3) == 0
    assert run("fit", *told, "--out", tmp_path / "straight", "--steps", step + 2) == 0
    assert same(result(tmp_path / "pose"), result(tmp_path / "straight"))


@pytest.fixture(params=[1, 2])
def threads(request) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no SIGKILL")
def test_killed_at_any_moment_and_resumed_it_ends_bit_for_bit_alike(threads, told, tmp_path):
    """Twice, at steps that chance picks."""
    folder, steps = tmp_path / "pose", 40
    first, second = sorted(random.sample(range(4, steps - 1), 2))

    def killed_after(step: int) -> Callable[[str], int | None]:
        return lambda line: signal.SIGKILL if line.startswith(f"step {step}/") else None

    longer = ("--steps", steps, "--ema", 0.9)
    assert in_process("fit", *told, *longer, when=killed_after(first))[0] == -signal.SIGKILL
    assert in_process("resume", folder, when=killed_after(second))[0] == -signal.SIGKILL
    assert run("resume", folder) == 0
    assert run("fit", *told, *longer, "--out", tmp_path / "straight") == 0
    states = [
        read_state(run / STATES / f"step-{steps:08}.safetensors") for run in (folder, tmp_path / "straight")
    ]
    assert same(states[0].tensors, states[1].tensors), (first, second)
    assert states[0].facts == states[1].facts, (first, second)
    assert same(result(folder), result(tmp_path / "straight")), (first, second)
    assert (folder / HISTORY).read_bytes() == (tmp_path / "straight" / HISTORY).read_bytes()

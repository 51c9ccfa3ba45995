"""Training in the graph: from pictures to a CONTROL_NET and its file, with the base as it was."""

import hashlib
import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cnet_core.checkpoints import inspect, read_state_dict
from cnet_core.networks.config import SD15
from cnet_core.networks.controlnet import HINT_WIDTHS
from cnet_core.training.config import Settings
from cnet_core.training.presets import estimate
from minihost import shims
from minihost.graph import Executor
from minihost.shims.model_management import InterruptProcessingException

OWN = {
    "memory": "own settings",
    "batch": 2,
    "accumulation": 1,
    "precision": "fp32",
    "recompute": "none",
    "optimizer": "adamw",
}
# Of the tiny model: quick to learn something that can be seen.
QUICK = {"steps": 4, "learning_rate": 1e-2, "seed": 0, "warm_up": 0, "memory": OWN}


@pytest.fixture(autouse=True)
def folders(tmp_path):
    """Input, output and temporary folders of one test, and a folder for ControlNets before all others."""
    for kind in ("input", "output", "temp"):
        (tmp_path / kind).mkdir()
        shims.folder_paths.set_directory(kind, tmp_path / kind)
    shims.folder_paths.add_model_folder_path("controlnet", str(tmp_path / "models"), is_default=True)
    yield tmp_path
    shims.folder_paths.folder_names_and_paths["controlnet"][0].remove(str(tmp_path / "models"))
    shims.model_management.interrupt_current_processing(False)


@pytest.fixture
def run(call):
    """Execute a node as the host does, in inference mode."""

    def run(node: str, **inputs: Any) -> Any:
        with torch.inference_mode():
            return call(node, **inputs)

    return run


@pytest.fixture
def model(run):
    """The tiny (MODEL, CLIP, VAE), loaded in inference mode: its weights know no gradients."""
    return run("TinyLoad", prediction="v")


def hashed(model: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.model.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def pictures(count: int = 2, side: int = 64, seed: int = 1) -> torch.Tensor:
    return torch.rand(count, side, side, 3, generator=torch.Generator().manual_seed(seed))


def given(images: torch.Tensor | None = None, hints: torch.Tensor | None = None, captions: str = "one"):
    """The inputs of Training Data for pictures from the graph."""
    images = pictures() if images is None else images
    hints = pictures(seed=2) if hints is None else hints
    source = {"source": "images", "images": images, "given_hints": hints, "captions": captions}
    return {"source": source, "hints": {"hints": "as given"}, "resolution": 64}


@pytest.fixture
def cache(run, model):
    data, _, _ = run("CNetTrainingData", **given())
    return run("CNetCacheTrainingData", data=data, vae=model[2], clip=model[1], folder="training/cache")


@pytest.fixture
def train(run, model, cache):
    """Train the tiny model's new ControlNet; gives (control_net, loss_map, curves)."""

    def train(folder: str = "training/run", control_net: Any = None, **changes: Any) -> Any:
        net = run("CNetControlNetFromModel", model=model[0]) if control_net is None else control_net
        inputs = {"model": model[0], "control_net": net, "cache": cache, "folder": folder, **QUICK, **changes}
        return run("CNetTrain", **inputs)

    return train


def results(folders: Path, name: str = "run") -> list[Path]:
    return sorted((folders / "output" / "training" / name).glob("controlnet-*.safetensors"))


def test_a_new_controlnet_says_nothing_and_shares_nothing(run, model, prompts, apply, draw, hint):
    control = run("CNetControlNetFromModel", model=model[0])
    assert torch.equal(draw(**prompts), draw(**apply(prompts, control, hint)))
    base = dict(model[0].model.diffusion_model.named_parameters())
    own = dict(control.network.net.named_parameters())
    assert own.keys() & base.keys()
    assert all(torch.equal(own[name], base[name]) for name in own.keys() & base.keys())
    assert not {p.data_ptr() for p in own.values()} & {p.data_ptr() for p in base.values()}


def test_trained_in_the_hosts_inference_mode_it_acts_and_the_base_is_as_it_was(
    folders, train, model, prompts, apply, draw, hint
):
    before = hashed(model[0])
    control, loss_map, curves = train()
    assert hashed(model[0]) == before
    assert all(not p.requires_grad for p in model[0].model.parameters())
    assert len(loss_map["loss"]) == 4 and all(loss > 0 for loss in loss_map["loss"])
    assert curves.shape[0] == 1 and curves.shape[-1] == 3 and float(curves.min()) >= 0
    with torch.inference_mode():
        plain, steered = (draw(**p, model=model[0]) for p in (prompts, apply(prompts, control, hint)))
    assert not torch.equal(plain, steered)
    assert hashed(model[0]) == before
    assert len(results(folders)) == 1


def test_the_base_is_the_hosts_memory_not_a_copy_of_it(host, model):
    with torch.inference_mode(), host.training_mode():
        base = host.training_base(model[0])
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    theirs = dict(model[0].model.diffusion_model.named_parameters())
    ours = dict(base.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(ours[name].data_ptr() == theirs[name].data_ptr() for name in ours)
    assert not any(p.is_inference() or p.requires_grad for p in ours.values())


class Interrupting:
    """A VAE at whose `at`-th decoding the user cancels; the first decodings are of the true pictures."""

    def __init__(self, vae: Any, at: int):
        self.vae, self.at, self.patcher = vae, at, vae.patcher

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        self.at -= 1
        if self.at == 0:
            shims.model_management.interrupt_current_processing()
        return self.vae.decode(latent)


def test_cancelled_and_run_again_it_ends_as_if_it_had_not_been(folders, train, model):
    before = hashed(model[0])
    train("training/straight", vae=model[2], probe_every=2)
    with pytest.raises(InterruptProcessingException):
        # Two true pictures, and two drawn before the first step.
        train(vae=Interrupting(model[2], 5), probe_every=2)
    states = sorted((folders / "output" / "training" / "run" / "states").iterdir())
    assert [path.stem for path in states] == ["step-00000002"]
    assert hashed(model[0]) == before and not results(folders)
    _, loss_map, _ = train(vae=model[2], probe_every=2)
    # Files are named by what is in them.
    assert [p.name for p in results(folders)] == [p.name for p in results(folders, "straight")]
    assert len(loss_map["loss"]) == 4
    assert len(list((folders / "output" / "training" / "run" / "probes").iterdir())) == 3


def test_run_again_a_finished_training_gives_what_it_gave_and_more_steps_go_on(folders, train, capsys):
    _, first, _ = train()
    assert "nothing was trained" not in capsys.readouterr().err
    _, again, _ = train()
    assert "nothing was trained" in capsys.readouterr().err
    assert first == again and len(results(folders)) == 1
    _, more, _ = train(steps=6)
    assert more["loss"][:4] == first["loss"] and len(more["loss"]) == 6
    assert len(results(folders)) == 2


def test_a_training_that_is_longer_already_is_given_and_said(folders, train, capsys):
    _, first, _ = train(steps=3)
    capsys.readouterr()
    _, again, _ = train(steps=2)
    assert first == again and len(results(folders)) == 1
    assert "holds a training of 3 steps already, and 2 were asked for" in capsys.readouterr().err


def test_a_training_is_not_mixed_with_another(train):
    train()
    with pytest.raises(ValueError, match=r"rate was 0\.01, is 0\.02"):
        train(learning_rate=2e-2)
    with pytest.raises(ValueError, match="holds a training already"):
        train(resume=False)


def test_presets_state_their_estimate_before_they_begin(train, capsys):
    train(memory={"memory": "8 GB"}, steps=1)
    said = capsys.readouterr().err
    assert "8 GB: batch 8, accumulation 1, precision fp32" in said
    assert "about" in said and "GB: base" in said
    assert said.index("8 GB:") < said.index("step 1 of 1, loss")


@pytest.mark.parametrize(
    "device, optimizer, precision",
    [("cuda", "adamw8bit", "bf16"), ("mps", "adamw", "bf16"), ("cpu", "adamw", "fp32")],
)
def test_presets_take_what_the_device_can_and_state_what_that_takes(nodes, device, optimizer, precision):
    settings_of = sys.modules[nodes["CNetTrain"].__module__].settings_of
    settings, found = settings_of({"memory": "8 GB"}, SD15, (64, 64), HINT_WIDTHS, 77, device)
    assert (settings.optimizer, settings.precision) == (optimizer, precision)
    assert str(found) == str(estimate(SD15, Settings(**asdict(settings)), 64, 64))


def test_saved_it_loads_and_draws_the_same(folders, run, train, call, prompts, apply, draw, hint):
    control, _, _ = train()
    for _ in range(2):
        run("CNetSaveControlNet", control_net=control, filename_prefix="mine/lines", precision="fp32")
    names = sorted(path.name for path in (folders / "models" / "mine").iterdir())
    assert names == ["lines_00001_.safetensors", "lines_00002_.safetensors"]
    metadata = read_state_dict(folders / "models" / "mine" / names[0]).metadata
    assert (
        metadata["cnet.steps"] == "4" and metadata["cnet.prediction"] == "v" and metadata["cnet.pairs"] == "2"
    )
    assert len(metadata["cnet.base_hash"]) == 64 and "cnet.data_hash" in metadata
    loaded = call("CNetLoadControlNet", control_net_name=f"mine/{names[0]}")
    assert torch.equal(draw(**apply(prompts, loaded, hint)), draw(**apply(prompts, control, hint)))


def test_saved_for_diffusers_it_is_a_folder_that_loads_too(
    folders, run, train, call, prompts, apply, draw, hint
):
    control, _, _ = train()
    run("CNetSaveControlNet", control_net=control, filename_prefix="d", precision="fp32", format="diffusers")
    assert sorted(p.name for p in (folders / "models" / "d_00001_").iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    loaded = call("CNetLoadControlNet", control_net_name="d_00001_/diffusion_pytorch_model.safetensors")
    assert torch.equal(draw(**apply(prompts, loaded, hint)), draw(**apply(prompts, control, hint)))


def test_a_control_lora_is_trained_and_saved_as_one(
    folders, run, train, call, model, prompts, apply, draw, hint
):
    control, _, _ = train(rank=2)
    run("CNetSaveControlNet", control_net=control, filename_prefix="low", precision="fp32")
    (path,) = (folders / "models").iterdir()
    assert inspect(path).family == "control_lora"
    loaded = call("CNetLoadControlNet", control_net_name=path.name, model=model[0])
    both = [draw(**apply(prompts, one, hint), model=model[0]) for one in (control, loaded)]
    assert torch.equal(*both) and not torch.equal(both[0], draw(**prompts, model=model[0]))
    with pytest.raises(ValueError, match="diffusers has no format for Control-LoRA"):
        run("CNetSaveControlNet", control_net=control, filename_prefix="low", format="diffusers")
    assert list((folders / "models").iterdir()) == [path]


def test_a_loaded_controlnet_is_trained_further_and_stays_as_it_is(train, load):
    first = load("first")
    before = {name: tensor.clone() for name, tensor in first.network.net.state_dict().items()}
    control, _, _ = train(control_net=first, steps=1, learning_rate=1e-3)
    after = first.network.net.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    trained = control.network.net.state_dict()
    moved = [float((trained[name] - before[name]).abs().max()) for name in before]
    assert 0 < max(moved) < 2e-3


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "", "."])
def test_names_that_lead_out_of_the_hosts_folders_are_refused(folders, run, train, model, cache, name):
    with pytest.raises(ValueError, match="names no folder inside"):
        train(name)
    data, _, _ = run("CNetTrainingData", **given())
    with pytest.raises(ValueError, match="names no folder inside"):
        run("CNetCacheTrainingData", data=data, vae=model[2], clip=model[1], folder=name)
    with pytest.raises(ValueError, match="there is no folder"):
        run("CNetTrainingData", **{**given(), "source": {"source": "folder", "folder": name}})
    if name.strip("."):
        control = run("CNetControlNetFromModel", model=model[0])
        with pytest.raises(ValueError, match="outside"):
            run("CNetSaveControlNet", control_net=control, filename_prefix=f"{name}/net")
    assert not list(folders.rglob("*escaped*")) and not Path("/tmp/escaped").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
def test_data_may_lie_elsewhere_by_a_link_in_the_input_folder(folders, run):
    folder_of_pairs(folders / "elsewhere")
    (folders / "input" / "linked").symlink_to(folders / "elsewhere")
    data, _, _ = run("CNetTrainingData", **of_folder("linked"))
    assert len(data.dataset.pairs) == 3


def test_controls_that_cannot_be_trained_are_refused(host, train, run):
    with pytest.raises(ValueError, match=r"Connect ControlNet From Model"):
        train(control_net=host.ReferenceControl())
    with pytest.raises(ValueError, match="made for"):
        train(control_net=run("CNetLoadControlNet", control_net_name="cnet_mini_pose.safetensors"))


def test_data_of_another_familys_encoders_is_refused(run, train):
    _, clip, vae = run("CNetLoadMiniSD")
    data, _, _ = run("CNetTrainingData", **given())
    other = run("CNetCacheTrainingData", data=data, vae=vae, clip=clip, folder="training/other")
    with pytest.raises(ValueError, match="another family"):
        train(cache=other)


def folder_of_pairs(root: Path, count: int = 3, hints: bool = True) -> Path:
    for i in range(count):
        for kind in ("images", "hints") if hints else ("images",):
            (root / kind).mkdir(parents=True, exist_ok=True)
            pixels = (pictures(1, 64, i)[0] * 255).byte().numpy()
            Image.fromarray(pixels).save(root / kind / f"{i}.png")
    return root


def of_folder(name: str, **changes: Any) -> dict[str, Any]:
    return {**given(), "source": {"source": "folder", "folder": name}, **changes}


def test_a_folder_is_checked_and_shown(folders, run):
    folder = folder_of_pairs(folders / "input" / "mine")
    data, report, sheet = run("CNetTrainingData", **of_folder("mine"))
    assert "3 sound pairs (3 of 64x64), 0 errors, 3 notes" in report
    assert sheet.shape == (1, 3 * 192, 2 * 192 + 320, 3)
    assert len(data.dataset.pairs) == 3
    (folder / "hints" / "1.png").write_bytes(b"broken")
    with pytest.raises(
        ValueError, match=r"(?s)1 problems.*hints/1\.png cannot be read as a picture.*skip_broken"
    ):
        run("CNetTrainingData", **of_folder("mine"))
    data, report, _ = run("CNetTrainingData", **of_folder("mine", skip_broken=True))
    assert len(data.dataset.pairs) == 2 and "hints/1.png" in report


def test_skeletons_that_cannot_be_mirrored_are_named_before_anything_is_encoded(folders, run):
    folder = folder_of_pairs(folders / "input" / "mine")
    Image.new("RGB", (64, 64)).save(folder / "hints" / "1.png")
    mirrored = {"hint_kind": "skeleton", "mirror": True}
    with pytest.raises(ValueError, match=r"(?s)2 problems.*0: the hint: .*2: the hint: .*skip_broken"):
        run("CNetTrainingData", **of_folder("mine", **mirrored))
    data, _, _ = run("CNetTrainingData", **of_folder("mine", **mirrored, skip_broken=True))
    assert [pair.name for pair in data.dataset.pairs] == ["1"]


def test_a_folder_is_looked_at_again_when_a_file_changed(folders, nodes):
    folder = folder_of_pairs(folders / "input" / "mine")
    node = nodes["CNetTrainingData"]
    before = node.fingerprint_inputs(**of_folder("mine"))
    assert node.fingerprint_inputs(**of_folder("mine")) == before
    (folder / "images" / "0.txt").write_text("a caption")
    assert node.fingerprint_inputs(**of_folder("mine")) != before


def test_files_outside_the_folder_are_not_read(folders, run):
    folder = folder_of_pairs(folders / "input" / "mine")
    Image.new("RGB", (64, 64)).save(folders / "secret.png")
    lines = [
        {"file_name": "../../secret.png", "conditioning_image": str(folders / "secret.png"), "text": "a"}
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(ValueError, match="outside the folder"):
        run("CNetTrainingData", **of_folder("mine"))


def test_an_annotator_makes_the_hints_also_of_what_is_mirrored(folders, run, model):
    folder_of_pairs(folders / "input" / "mine", hints=False)
    with pytest.raises(ValueError, match="has no hint"):
        run("CNetTrainingData", **of_folder("mine"))
    canny = {"hints": "canny", "low_threshold": 50, "high_threshold": 100, "thresholds": "fixed"}
    data, _, sheet = run("CNetTrainingData", **of_folder("mine", hints=canny, mirror=True))
    assert data.preparation.hint_kind == "lines"
    cache = run("CNetCacheTrainingData", data=data, vae=model[2], clip=model[1], folder="training/c")
    assert len(cache) == 6 and '"canny"' in cache.manifest.annotator
    hint = cache.hint(cache.manifest.examples[0])
    assert set(hint.unique().tolist()) == {0, 255}
    assert float(sheet[0, :192, 192:384].std()) > 0.1


def test_what_is_cached_is_not_encoded_again(run, model):
    data, _, _ = run("CNetTrainingData", **given())
    inputs = {"data": data, "vae": model[2], "clip": model[1], "folder": "training/cache"}
    first = run("CNetCacheTrainingData", **inputs)

    class Refusing(type(model[2])):
        def encode(self, image):
            raise AssertionError("encoded again")

    again = run("CNetCacheTrainingData", **{**inputs, "vae": Refusing()})
    assert again.manifest == first.manifest


class Counting:
    """The nodes of a graph that trains and saves, and which of them a run executed."""

    def __init__(self, nodes: dict[str, Any]):
        self.executor = Executor(nodes)
        data = {"source": "folder", "source.folder": "mine", "hints": "as given", "resolution": 64}
        memory = {"memory" if name == "memory" else f"memory.{name}": value for name, value in OWN.items()}
        self.prompt = {
            "model": {"class_type": "TinyLoad", "inputs": {"prediction": "v"}},
            "data": {"class_type": "CNetTrainingData", "inputs": data},
            "cache": {
                "class_type": "CNetCacheTrainingData",
                "inputs": {
                    **{"data": ["data", 0], "vae": ["model", 2], "clip": ["model", 1]},
                    "folder": "training/cache",
                },
            },
            "new": {"class_type": "CNetControlNetFromModel", "inputs": {"model": ["model", 0]}},
            "train": {
                "class_type": "CNetTrain",
                "inputs": {
                    **{"model": ["model", 0], "control_net": ["new", 0], "cache": ["cache", 0]},
                    **{**QUICK, **memory, "folder": "training/run", "steps": 1},
                },
            },
            "save": {
                "class_type": "CNetSaveControlNet",
                "inputs": {"control_net": ["train", 0], "filename_prefix": "mine"},
            },
        }

    def run(self, **train: Any) -> list[str]:
        self.prompt["train"]["inputs"].update(train)
        return self.executor.run(self.prompt).executed


def test_what_was_removed_from_the_output_folder_is_made_again(folders, nodes):
    folder_of_pairs(folders / "input" / "mine")
    graph, place = Counting(nodes), folders / "output" / "training"
    assert sorted(graph.run()) == ["cache", "data", "model", "new", "save", "train"]
    assert graph.run() == []
    shutil.rmtree(place / "cache")
    assert graph.run(steps=2) == ["cache", "train", "save"]
    assert graph.run() == []
    next((place / "cache").glob("texts-*")).unlink()
    assert graph.run() == ["cache", "train", "save"]
    results(folders)[-1].unlink()
    assert graph.run() == ["train", "save"]
    shutil.rmtree(place / "run")
    graph.prompt["save"]["inputs"]["filename_prefix"] = "other"
    assert graph.run() == ["train", "save"] and len(results(folders)) == 1
    assert graph.run() == []


def test_sockets_of_another_kind_are_refused_by_name(run, model, train, cache):
    with pytest.raises(ValueError, match="connect the output of Training Data"):
        run("CNetCacheTrainingData", data=cache, vae=model[2], clip=model[1], folder="training/cache")
    with pytest.raises(ValueError, match="connect the output of Cache Training Data"):
        train(cache=None)

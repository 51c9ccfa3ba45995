"""Training in the real host: a run, a Cancel and its resumption, and the base as it was after each."""

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors import safe_open

from .hosting import Host, Run, api_prompt, nodes_of
from .random_weights import give_weights
from .test_apply import difference
from .test_apply import prompt as wide_prompt
from .test_errors import assert_pack_error
from .test_workflows import with_hash


def training(folder: str, **changes: Any) -> dict[str, Any]:
    """The shipped workflow without what comes after the training, which is of three steps."""
    prompt = api_prompt("train_controlnet")
    (train,) = nodes_of(prompt, "CNetTrain")
    wanted = ("CNetLoadMiniSD", "CNetTrainingData", "CNetCacheTrainingData", "CNetControlNetFromModel")
    kept = {node: prompt[node] for kind in wanted for node in nodes_of(prompt, kind)}
    prompt = copy.deepcopy({**kept, "train": prompt[train]})
    prompt["train"]["inputs"].update(
        {"steps": 3, "memory.batch": 1, "probe_every": 0, "folder": f"training/{folder}", **changes}
    )
    return prompt


def with_picture(prompt: dict[str, Any], apply: str) -> dict[str, Any]:
    """Three steps of sampling with what was trained, by an apply node; the latent is saved."""
    prompt = copy.deepcopy(prompt)
    (model,) = nodes_of(prompt, "CNetLoadMiniSD")
    for name, text in (("yes", "a red dancer, mist"), ("no", "")):
        prompt[name] = {"class_type": "CLIPTextEncode", "inputs": {"clip": [model, 1], "text": text}}
    inputs = {"control_net": ["train", 0], "image": ["hint", 0], "strength": 1.0}
    inputs |= {"positive": ["yes", 0], "negative": ["no", 0], "start_percent": 0.0, "end_percent": 1.0}
    sampler = {
        "model": [model, 0], "positive": ["apply", 0], "negative": ["apply", 1], "latent_image": ["empty", 0],
        "seed": 1, "steps": 3, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
    }  # fmt: skip
    return prompt | {
        "hint": {"class_type": "CNetExampleImage", "inputs": {"name": "figure.png"}},
        "empty": {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": 128, "height": 128, "batch_size": 1},
        },
        "apply": {"class_type": apply, "inputs": inputs},
        "sampler": {"class_type": "KSampler", "inputs": sampler},
        "save": {
            "class_type": "SaveLatent",
            "inputs": {"samples": ["sampler", 0], "filename_prefix": "trained"},
        },
    }


@pytest.fixture
def base(host: Host) -> Callable[[], dict[str, Any]]:
    """The hash of the mini model's weights, and which object it is."""
    prompt = api_prompt("train_controlnet")
    (loader,) = nodes_of(prompt, "CNetLoadMiniSD")
    alone = with_hash({loader: prompt[loader]})
    return lambda: host.queue(alone).checked().ui("hash")


def results(host: Host, folder: str) -> list[str]:
    """Names of the files that a training wrote; they are made of the content."""
    return sorted(path.name for path in (host.base / "output" / "training" / folder).glob("controlnet-*"))


def test_one_graph_trains_and_draws_by_the_hosts_own_apply_node(host: Host, base: Callable) -> None:
    before = base()
    graph = with_hash(with_picture(training("run"), "ControlNetApplyAdvanced"))
    graph["graph"] = {
        "class_type": "LossGraphNode",
        "inputs": {"loss": ["train", 1], "filename_prefix": "loss"},
    }
    run = host.queue(graph).checked()
    assert run.ui("hash") == before and base() == before
    assert len(run.ui("graph")["images"]) == 1
    (curves,) = run.ui("train")["images"]
    assert host.file(curves).startswith(b"\x89PNG")
    said = run.ui("train")["text"][0]
    assert "own settings: batch 1" in said and "GB: base" in said
    log = host.log
    assert said.splitlines()[0] in log, "the estimate is said before the training begins"
    theirs = run.latent("save")
    ours = host.queue(with_picture(training("run"), "CNetApply")).checked().latent("save")
    assert difference(ours, theirs) <= 1e-5
    unlearnt = with_picture(training("run"), "CNetApply")
    (new,) = nodes_of(unlearnt, "CNetControlNetFromModel")
    unlearnt["apply"]["inputs"]["control_net"] = [new, 0]
    assert difference(host.queue(unlearnt).checked().latent("save"), theirs) > 1e-3


def wait_for(host: Host, path: Path) -> None:
    deadline = time.monotonic() + 300
    while not path.exists():
        assert time.monotonic() < deadline, host.log[-3000:]
        time.sleep(0.02)


def test_cancelled_it_keeps_what_it_learnt_and_goes_on_exactly(host: Host, base: Callable) -> None:
    before = base()
    prompt = training("cut", steps=100_000, save_every=2)
    running = host.submit(prompt)
    folder = host.base / "output" / "training" / "cut"
    wait_for(host, folder / "states" / "step-00000002.safetensors")
    host.interrupt()
    assert host.wait(running).interrupted
    assert base() == before
    newest = max(int(path.stem.removeprefix("step-")) for path in (folder / "states").glob("*.safetensors"))
    assert 2 <= newest < 100_000 and not results(host, "cut")
    steps = newest + 1
    resumed = host.queue(training("cut", steps=steps, save_every=2)).checked()
    host.queue(training("straight", steps=steps)).checked()
    assert resumed.ui("train")["text"]
    assert results(host, "cut") == results(host, "straight") and len(results(host, "cut")) == 1
    assert base() == before


def test_after_an_error_the_base_is_as_it_was(host: Host, base: Callable) -> None:
    before = base()
    host.queue(training("error")).checked()
    failed = host.queue(training("error", seed=5))
    assert_pack_error(failed, "train", "TrainingError", "seed was 0, is 5", "another folder")
    assert base() == before


def data_of(host: Host, name: str) -> Path:
    """A folder of two pairs among the host's inputs."""
    folder = host.base / "input" / name
    for kind in ("images", "hints"):
        (folder / kind).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (128, 128), (50 * i, 90, 120)).save(folder / kind / f"{i}.png")
    return folder


def run_with_data(host: Host, name: str) -> tuple[Run, str]:
    prompt = training("wrong")
    (data,) = nodes_of(prompt, "CNetTrainingData")
    prompt[data]["inputs"]["source.folder"] = name
    return host.queue(prompt), data


def test_wrong_data_is_named_at_its_node(host: Host) -> None:
    folder = data_of(host, "wrong")
    (folder / "hints" / "1.png").unlink()
    (folder / "images" / "2.png").write_bytes(b"no picture")
    (folder / "hints" / "2.png").write_bytes((folder / "hints" / "0.png").read_bytes())
    run, data = run_with_data(host, "wrong")
    assert_pack_error(run, data, "DataError", "images/1.png", "no hint", "images/2.png", "as a picture")
    for name in ("nowhere", "../models", "/etc", ""):
        run, data = run_with_data(host, name)
        assert_pack_error(run, data, "ValueError", "there is no folder", name)


def test_names_that_lead_out_of_the_output_folder_are_refused_at_the_node(host: Host) -> None:
    prompt = training("../../escaped")
    assert_pack_error(host.queue(prompt), "train", "ValueError", "names no folder inside")
    prompt = training("kept")
    (cache,) = nodes_of(prompt, "CNetCacheTrainingData")
    prompt[cache]["inputs"]["folder"] = "/escaped"
    assert_pack_error(host.queue(prompt), cache, "ValueError", "names no folder inside")
    prompt = training("kept")
    prompt["save"] = {
        "class_type": "CNetSaveControlNet",
        "inputs": {"control_net": ["train", 0], "filename_prefix": "../../escaped", "precision": "fp16"},
    }
    failed = host.queue(prompt)
    assert failed.error is not None and failed.error["node_id"] == "save"
    assert not list(host.base.parent.rglob("*escaped*"))


@pytest.mark.slow
def test_trained_for_sd15_it_loads_in_the_hosts_own_loader(host: Host, weights: Path) -> None:
    """With the host's own CLIP and VAE, at full width, with random weights: two steps at 64 pixels."""
    if not (host.base / "models" / "diffusion_models" / "sd15.safetensors").exists():
        give_weights(host, weights)
    graph = wide_prompt()
    model = {key: graph[key] for key in ("model", "hint")}
    prompt: dict[str, Any] = {
        **model,
        "encoders": {"class_type": "HostProbeRandomEncoders", "inputs": {}},
        "data": {
            "class_type": "CNetTrainingData",
            "inputs": {
                "source": "images", "source.images": ["hint", 0], "source.given_hints": ["hint", 0],
                "source.captions": "noise", "hints": "as given", "resolution": 64,
            },
        },
        "cache": {
            "class_type": "CNetCacheTrainingData",
            "inputs": {
                "data": ["data", 0], "vae": ["encoders", 1], "clip": ["encoders", 0],
                "folder": "training/wide/cache",
            },
        },
        "new": {"class_type": "CNetControlNetFromModel", "inputs": {"model": ["model", 0]}},
        "train": {
            "class_type": "CNetTrain",
            "inputs": {
                "model": ["model", 0], "control_net": ["new", 0], "cache": ["cache", 0],
                "memory": "own settings", "memory.batch": 1, "memory.accumulation": 1,
                "memory.precision": "fp32", "memory.recompute": "all", "memory.optimizer": "adamw",
                "steps": 2, "learning_rate": 0.003, "seed": 0, "folder": "training/wide/run", "warm_up": 0,
            },
        },
        "save": {
            "class_type": "CNetSaveControlNet",
            "inputs": {"control_net": ["train", 0], "filename_prefix": "wide", "precision": "fp16"},
        },
        "hash": {"class_type": "HostProbeHashModel", "inputs": {"model": ["model", 0]}},
    }  # fmt: skip
    before = host.queue({"model": graph["model"], "hash": prompt["hash"]}).checked().ui("hash")
    run = host.queue(prompt, timeout=900).checked()
    assert host.queue({"model": graph["model"], "hash": prompt["hash"]}).checked().ui("hash") == before
    # The autoencoder's standard deviations are cached too, and the text encoder's pooled text.
    (latents,), (texts,) = (
        list((host.base / "output" / "training" / "wide" / "cache").glob(f"{kind}-*"))
        for kind in ("latents", "texts")
    )
    with safe_open(latents, "pt") as file:
        parts = {name.rpartition(".")[2]: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert parts["mean"].shape == parts["std"].shape == (4, 8, 8) and parts["std"].min() > 0
    with safe_open(texts, "pt") as file:
        shapes = {tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert shapes == {(77, 768), (768,)}
    name = Path(run.ui("save")["text"][0]).name
    found = [
        host.queue(wide_prompt(*controls, file=name), timeout=600).checked().latent("save")
        for controls in ((), (("host", "host", 1.0, 0.0, 1.0),), (("cnet", "cnet", 1.0, 0.0, 1.0),))
    ]
    assert difference(found[0], found[1]) > 1e-3, "nothing was learnt, so the comparison says nothing"
    print(f"host's loader against ours: {difference(found[1], found[2]):.2e}")
    assert difference(found[1], found[2]) <= 1e-5
    # These weights are large, and no other test needs them.
    host.free()

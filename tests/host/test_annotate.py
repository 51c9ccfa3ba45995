"""The annotators' nodes in the host: each that needs no weights, networks with random ones, Annotate,
Fit Hint, Preview Hint, errors."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from annotators import weights
from annotators.run import annotate
from annotators.table import ANNOTATORS, find
from tests.annotators.neural.published import NETWORKS, quietly, write

from .hosting import REPO, Host, RejectedError, Run

WITHOUT_WEIGHTS = [one for one in ANNOTATORS.values() if one.build is None and not one.extra]
# Of each way in which networks are built, read and asked, the small ones.
NETWORKS_TRIED = (
    "hed", "pidinet_scribble", "anyline", "mlsd", "lineart", "lineart_anime", "openpose",
    "depth_anything_small", "bae", "upernet", "sam",
)  # fmt: skip
VALUES = {
    "openpose": {"hands": False, "face": False},
    "sam": {"points": 4, "quality": 0.0, "stability": 0.0},
}
SCENE = "scene.png"
# The size and mode of "hint of a latent" below.
SIZE = (48, 64)


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def beside_the_scene(**nodes: dict[str, Any]) -> dict[str, Any]:
    """A prompt of some nodes, each seen by Preview Hint, with the pack's example as "scene"."""
    prompt = {"scene": node("CNetExampleImage", name=SCENE), **nodes}
    for name in nodes:
        prompt[f"see {name}"] = node("CNetPreviewHint", image=["scene", 0], hint=[name, 0])
    return prompt


def shown(run: Run, name: str) -> np.ndarray:
    """The one picture that a node shows, 8 bits."""
    (item,) = run.ui(name)["images"]
    return np.asarray(Image.open(BytesIO(run.host.file(item))).convert("RGB"))


def scene() -> torch.Tensor:
    picture = np.asarray(Image.open(REPO / "workflows" / "inputs" / SCENE).convert("RGB"))
    return torch.from_numpy(picture.astype(np.float32) / 255)[None]


def as_shown(image: torch.Tensor) -> np.ndarray:
    return (image[0].clamp(0, 1) * 255).byte().numpy()


def share_that_differs(a: np.ndarray, b: np.ndarray) -> float:
    """The share of pixels that are further apart than rounding; hosts may have other versions of OpenCV."""
    assert a.shape == b.shape
    return float((np.abs(a.astype(int) - b).max(-1) > 2).mean())


def test_every_annotator_without_weights_runs_as_a_node_of_its_own_and_in_annotate(host: Host) -> None:
    own = {one.id: node(one.node, image=["scene", 0]) for one in WITHOUT_WEIGHTS}
    chosen = {
        f"chosen {one.id}": node("CNetAnnotate", image=["scene", 0], annotator=one.id)
        for one in WITHOUT_WEIGHTS
    }
    run = host.queue(beside_the_scene(**own, **chosen)).checked()
    for one in WITHOUT_WEIGHTS:
        made = shown(run, one.id)
        assert np.array_equal(made, shown(run, f"chosen {one.id}")), one.id
        assert share_that_differs(made, as_shown(annotate(one, scene()).image)) < 0.01, one.id
        assert shown(run, f"see {one.id}").shape == made.shape


def test_settings_follow_the_choice_and_sizes_the_latent(host: Host) -> None:
    sized = {"size": "of a latent", "size.latent": ["latent", 0], "size.resize_mode": "fill"}
    values = {"low_threshold": 20, "high_threshold": 60}
    prompt = beside_the_scene(
        own=node("CNetCanny", image=["scene", 0], **values, **sized),
        chosen=node(
            "CNetAnnotate", image=["scene", 0], annotator="canny",
            **{f"annotator.{name}": value for name, value in values.items()}, **sized,
        ),
        fitted=node("CNetFitHint", hint=["chosen", 0], size="width and height",
                    **{"size.width": 32, "size.height": 24}, kind="lines"),
    )  # fmt: skip
    prompt["latent"] = node("EmptyLatentImage", width=SIZE[1], height=SIZE[0], batch_size=1)
    run = host.queue(prompt).checked()
    expected = annotate(find("canny"), scene(), values, size=SIZE, resize="fill").image
    assert shown(run, "chosen").shape == (*SIZE, 3) and shown(run, "chosen").any()
    assert np.array_equal(shown(run, "own"), shown(run, "chosen"))
    assert share_that_differs(shown(run, "own"), as_shown(expected)) < 0.01
    assert shown(run, "fitted").shape == (24, 32, 3) and shown(run, "fitted").any()


def test_lines_are_json_for_the_hosts_own_nodes(host: Host) -> None:
    prompt = beside_the_scene(it=node("CNetAnnotate", image=["scene", 0], annotator="lsd_lines"))
    prompt["text"] = node("PreviewAny", source=["it", 4])
    (lines,) = json.loads(host.queue(prompt).checked().ui("text")["text"][0])
    assert lines and all(len(line) == 4 for line in lines)


@contextlib.contextmanager
def weights_of(name: str, folder: Path) -> Iterator[torch.nn.Module]:
    """Random weights of an annotator in a folder, as published, and its network of them."""
    with quietly():
        write(find(name), NETWORKS[name](), folder)
    try:
        net = weights.build(find(name), [folder])
        assert net is not None
        yield net
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("name", NETWORKS_TRIED)
def test_networks_run_in_the_host_as_they_do_without_it(host: Host, name: str) -> None:
    with weights_of(name, host.base / "models" / "controlnet_annotators") as net:
        own = node(find(name).node, image=["scene", 0], **VALUES.get(name, {}))
        run = host.queue(beside_the_scene(it=own)).checked()
    expected = annotate(find(name), scene(), VALUES.get(name), net=net).image
    assert len(expected.unique()) > 1
    assert share_that_differs(shown(run, "it"), as_shown(expected)) < 0.01


def test_weights_are_found_where_extra_model_paths_has_them_in_each_precision(host: Host) -> None:
    precisions = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    with weights_of("hed", host.elsewhere) as net:
        each = {
            name: node(
                "CNetAnnotate", image=["scene", 0], annotator="hed", **{"annotator.precision": name}
            )
            for name in precisions
        }  # fmt: skip
        run = host.queue(beside_the_scene(**each)).checked()
    made = {name: shown(run, name) for name in precisions}
    for name, dtype in precisions.items():
        expected = annotate(find("hed"), scene(), net=net.to(dtype)).image
        assert share_that_differs(made[name], as_shown(expected)) < 0.01, name
    # They differ by the digits that they lack.
    off = {name: np.abs(made[name].astype(int) - made["fp32"]).mean() for name in precisions}
    assert off["fp32"] < off["fp16"] < off["bf16"] < 4, off


def failed(run: Run, at: str) -> str:
    """What the host says of a run that failed at this node."""
    assert run.error is not None and run.error["node_id"] == at, run.entry["status"]
    return run.error["exception_message"]


@pytest.mark.parametrize("class_type", ["CNetHed", "CNetAnnotate"])
def test_weights_that_are_missing_are_named_with_the_command_that_fetches_them(
    host: Host, class_type: str
) -> None:
    choice = {"annotator": "hed"} if class_type == "CNetAnnotate" else {}
    run = host.queue(beside_the_scene(it=node(class_type, image=["scene", 0], **choice)))
    message = failed(run, "it")
    folder = host.base / "models" / "controlnet_annotators"
    for word in (
        "lllyasviel/Annotators", "ControlNetHED.pth", str(folder),
        f'python -m uv run python -m annotators fetch hed --to "{folder}"',
    ):  # fmt: skip
        assert word in message


def test_settings_that_contradict_each_other_are_refused_at_the_node(host: Host) -> None:
    run = host.queue(beside_the_scene(it=node("CNetCanny", image=["scene", 0], low_threshold=300)))
    assert "the low threshold 300 is above the high one 200; lower it" in failed(run, "it")


def test_an_output_that_the_choice_does_not_make_stops_what_needs_it_alone(host: Host) -> None:
    """Why, the host tells only the page that queued it, on its websocket."""
    prompt = beside_the_scene(it=node("CNetAnnotate", image=["scene", 0], annotator="canny"))
    prompt["depth"] = node("PreviewImage", images=["it", 1])
    run = host.queue(prompt).checked()
    assert shown(run, "it").any()
    assert "depth" not in run.entry["outputs"]


@pytest.mark.parametrize(
    ("inputs", "kind", "name"),
    [
        ({"annotator": "canny", "annotator.low_threshold": -1}, "value_smaller_than_min", "low_threshold"),
        ({"annotator": "soft_edges", "annotator.sigma": 99.0}, "value_bigger_than_max", "sigma"),
        ({"annotator": "canny", "resolution": 99999}, "value_bigger_than_max", "resolution"),
    ],
    ids=["low", "sigma", "resolution"],
)
def test_values_out_of_range_are_refused_before_anything_runs(
    host: Host, inputs: dict[str, Any], kind: str, name: str
) -> None:
    with pytest.raises(RejectedError) as caught:
        host.submit(beside_the_scene(it=node("CNetAnnotate", image=["scene", 0], **inputs)))
    found = [(error["type"], error["extra_info"]["input_name"]) for error in caught.value.errors("it")]
    assert any(kind == a and b.endswith(name) for a, b in found), caught.value

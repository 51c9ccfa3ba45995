"""The mini checkpoints: made by the script, small enough to ship, and faithful to their hints."""

import dataclasses
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cnet_core.checkpoints import read_state_dict
from cnet_core.control.merge import Rule
from demo.make import HERE, PLANS, Maker, latent_colours, load_autoencoder
from demo.report import closed, hint_of, main, report
from demo.sample import MiniSD
from demo.scenes import SIZE, draw_scene
from demo.train import Scenes, batches

WEIGHTS = HERE / "weights"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_all_shipped_weights_are_half_precision_safetensors_of_at_most_25_megabytes() -> None:
    files = sorted(path for path in WEIGHTS.rglob("*") if path.is_file())
    assert len(files) == 6 and {path.suffix for path in files} == {".safetensors"}
    assert sum(path.stat().st_size for path in files) <= 25_000_000
    for path in files:
        assert {tensor.dtype for tensor in read_state_dict(path).tensors.values()} == {torch.float16}


def test_drawings_follow_their_hints_and_not_those_of_others() -> None:
    figures, _ = report(MiniSD.load(WEIGHTS), [draw_scene(seed) for seed in range(6)])
    for kind in ("pose", "depth", "canny"):
        row = figures[kind]
        gap = row["ceiling"] - row["none"]
        assert row["control"] > row["none"] + 0.5 * gap
        assert row["shuffled"] < row["none"] + 0.25 * gap
    for kind in ("pose", "depth"):
        assert figures["pose+depth"][kind] > figures[kind]["none"] + 0.5 * (
            figures[kind]["ceiling"] - figures[kind]["none"]
        )


def test_closed_is_a_share_of_the_gap_between_no_control_and_the_ceiling() -> None:
    assert closed({"none": 0.2, "ceiling": 0.6, "truth": 1.0}, 0.5) == 0.75


def test_shuffled_hints_are_each_of_another_scene() -> None:
    scenes = [draw_scene(seed) for seed in range(3)]
    own = hint_of("depth", scenes)
    asked: list[Any] = []

    def draw(captions: list, hints: dict, *_given: Any, **_more: Any) -> torch.Tensor:
        asked.append(hints.get("depth"))
        return torch.rand(len(captions), SIZE, SIZE, 3)

    controls = dict.fromkeys(["depth"])
    mini: Any = SimpleNamespace(draw=draw, reconstruct=lambda images: images, controls=controls)
    report(mini, scenes)
    bare, control, shuffled = asked
    assert bare is None and torch.equal(control, own)
    same = [[torch.equal(hint, other) for other in own] for hint in shuffled]
    assert [sum(row) for row in same] == [sum(column) for column in zip(*same, strict=True)] == [1, 1, 1]
    assert not any(row[i] for i, row in enumerate(same))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["-n", "1"], "expected 2 or more"), (["--first-seed", "999990"], "those of the trainings")],
)
def test_scenes_that_tell_nothing_are_refused(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("sys.argv", ["report", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_a_mask_says_where_a_control_acts() -> None:
    mini, scenes = MiniSD.load(WEIGHTS), [draw_scene(0)]
    hints = {kind: hint_of(kind, scenes) for kind in ("pose", "depth")}
    full, empty = torch.ones(1, 128, 128), torch.zeros(1, 128, 128)

    def draw(hints, **more):
        return mini.draw([scenes[0].caption], hints, 128, seed=0, steps=2, **more)

    pose = draw({"pose": hints["pose"]})
    assert torch.equal(draw({"pose": hints["pose"]}, masks={"pose": full}), pose)
    for mode in ("sum", "regions"):
        only_pose = draw(hints, rule=Rule(mode), masks={"pose": full, "depth": empty})
        assert torch.equal(only_pose, pose)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    folder = tmp_path_factory.mktemp("made")
    plans = {name: dataclasses.replace(plan, steps=1, batch=2) for name, plan in PLANS.items()}
    maker = Maker(folder / "weights", folder / "states", plans)
    for stage in ("autoencoder", "base", "pose"):
        maker.run(stage)
    return maker


def test_a_made_set_has_the_tensors_of_the_shipped_one(made: Maker) -> None:
    for path in made.weights.rglob("*.safetensors"):
        shipped = read_state_dict(WEIGHTS / path.relative_to(made.weights))
        mine = read_state_dict(path)
        assert mine.metadata.keys() == shipped.metadata.keys()
        assert {k: t.shape for k, t in mine.tensors.items()} == {
            k: t.shape for k, t in shipped.tensors.items()
        }


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Pictures that trainings begin with, in -1..1."""
    return next(batches(Scenes(64, 0)))["images"]


@pytest.mark.parametrize("shipped", [True, False])
def test_latents_have_the_scale_and_the_colours_that_their_file_says(
    made: Maker, images: torch.Tensor, shipped: bool
) -> None:
    weights = WEIGHTS if shipped else made.weights
    net, scale = load_autoencoder(weights)
    latents = net.encode(images) * scale
    assert float(latents.std()) == pytest.approx(1, abs=0.02)
    colours = json.loads(read_state_dict(weights / "autoencoder.safetensors").metadata["cnet.latent_rgb"])
    found = torch.tensor(latent_colours(images, latents))
    assert torch.allclose(torch.tensor(colours), found, atol=0.02)


def test_colours_of_latents_are_found() -> None:
    colours, latents = torch.randn(4, 3), torch.randn(2, 4, 8, 8)
    images = torch.nn.functional.interpolate(torch.einsum("bchw,cd->bdhw", latents, colours), scale_factor=8)
    assert torch.allclose(torch.tensor(latent_colours(images, latents)), colours, atol=1e-4)


def test_a_stage_that_is_done_leaves_no_state_to_go_on_from(made: Maker) -> None:
    assert not list(made.states.iterdir())


def test_training_a_control_leaves_the_base_as_it_was(made: Maker) -> None:
    before = sha256(made.weights / "unet.safetensors")
    made.run("canny")
    assert sha256(made.weights / "unet.safetensors") == before


def test_a_stage_that_is_done_is_not_done_again(made: Maker, capsys: pytest.CaptureFixture) -> None:
    before = sha256(made.weights / "unet.safetensors")
    made.run("base")
    assert "is there" in capsys.readouterr().out
    assert sha256(made.weights / "unet.safetensors") == before

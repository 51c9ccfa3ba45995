"""The mini checkpoints: made by the script, small enough to ship, and faithful to their hints."""

import dataclasses
import hashlib
from pathlib import Path

import pytest
import torch

from cnet_core.checkpoints import read_state_dict
from cnet_core.control.merge import Rule
from demo.make import HERE, PLANS, Maker
from demo.report import hint_of, report
from demo.sample import MiniSD
from demo.scenes import draw_scene

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


def test_training_a_control_leaves_the_base_as_it_was(made: Maker) -> None:
    before = sha256(made.weights / "unet.safetensors")
    made.run("canny")
    assert sha256(made.weights / "unet.safetensors") == before


def test_a_stage_that_is_done_is_not_done_again(made: Maker, capsys: pytest.CaptureFixture) -> None:
    before = sha256(made.weights / "unet.safetensors")
    made.run("base")
    assert "is there" in capsys.readouterr().out
    assert sha256(made.weights / "unet.safetensors") == before

"""The pose nodes: files in and out, what connects with what, and the drawing for the mini model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from minihost import shims
from minihost.graph import Executor

REPO = Path(__file__).parents[2]
EXAMPLE = REPO / "workflows" / "inputs" / "two_dancers.json"


@pytest.fixture
def folders(tmp_path):
    """The host's input and output folder for one test."""
    before = dict(shims.folder_paths._directories)
    for kind in ("input", "output", "temp"):
        (tmp_path / kind).mkdir()
        shims.folder_paths.set_directory(kind, tmp_path / kind)
    yield tmp_path
    shims.folder_paths._directories.update(before)


@pytest.fixture
def poses(call) -> list[dict]:
    """Two dancers on a canvas of 512x512."""
    return call("CNetExamplePose", name="two_dancers.json")


def run(nodes, prompt: dict) -> dict:
    return Executor(nodes).run(prompt).ui


def test_a_saved_pose_is_loaded_again(call, poses, folders):
    assert call("CNetSavePose", keypoints=poses, filename_prefix="dance/pose") == poses
    assert call("CNetSavePose", keypoints=poses, filename_prefix="dance/pose") == poses
    saved = sorted((folders / "output" / "dance").iterdir())
    assert [path.name for path in saved] == ["pose_00001_.json", "pose_00002_.json"]
    (folders / "any").touch()
    assert saved[0].stat().st_mode == (folders / "any").stat().st_mode
    (folders / "input" / "mine.json").write_bytes(saved[0].read_bytes())
    assert call("CNetLoadPose", file="mine.json") == poses
    for name in ("pose [1].json", "DANCER.JSON"):
        (folders / "input" / "mine.json").rename(folders / "input" / name)
        assert call("CNetLoadPose", file=name) == poses
        (folders / "input" / name).rename(folders / "input" / "mine.json")
    assert call("CNetLoadPose", file="dance/pose_00002_.json [output]") == poses


def test_a_failed_save_leaves_nothing_behind(call, poses, folders, monkeypatch):
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        call("CNetSavePose", keypoints=poses, filename_prefix="pose")
    assert not list((folders / "output").iterdir())


@pytest.mark.parametrize(
    "name", ["../secret.json", "/etc/passwd", "pose.txt", "gone.json", "../output [temp]"]
)
def test_only_json_files_of_the_input_folder_are_loaded(nodes, call, folders, name):
    (folders / "secret.json").write_text("[]")
    (folders / "input" / "pose.txt").write_text("[]")
    assert "there is no file" in nodes["CNetLoadPose"].validate_inputs(name)
    with pytest.raises(ValueError, match="there is no file"):
        call("CNetLoadPose", file=name)


def test_examples_come_from_their_folder_alone(call):
    with pytest.raises(ValueError, match="none of the pack's example poses"):
        call("CNetExamplePose", name="../pose.json")


def test_the_choices_are_the_files_in_the_input_folder(nodes, folders):
    (folders / "input" / "b.json").write_text("[]")
    (folders / "input" / "a.json").write_text("[]")
    (folders / "input" / "picture.png").write_text("")
    file = nodes["CNetLoadPose"].INPUT_TYPES()["required"]["file"][1]
    assert file["options"] == ["a.json", "b.json"]


def test_a_changed_file_is_loaded_again(nodes, folders):
    path = folders / "input" / "pose.json"
    path.write_text(EXAMPLE.read_text())
    prompt = {
        "1": {"class_type": "CNetLoadPose", "inputs": {"file": "pose.json"}},
        "2": {"class_type": "CNetSavePose", "inputs": {"keypoints": ["1", 0], "filename_prefix": "pose"}},
    }
    executor = Executor(nodes)
    assert executor.run(prompt).executed == ["1", "2"]
    assert executor.run(prompt).executed == []
    path.write_text(EXAMPLE.read_text().replace("512", "640"))
    assert executor.run(prompt).executed == ["1", "2"]


def test_a_broken_file_is_named_with_the_place(call, folders):
    frame = json.loads(EXAMPLE.read_text())
    frame["people"][1]["pose_keypoints_2d"][7] = "far"
    (folders / "input" / "bad.json").write_text(json.dumps(frame))
    with pytest.raises(
        ValueError, match=r"bad\.json: frame 0, person 1, pose_keypoints_2d, point 2: y is a text"
    ):
        call("CNetLoadPose", file="bad.json")


def test_the_canvas_may_be_told(call, folders):
    frame = json.loads(EXAMPLE.read_text())
    del frame["canvas_width"], frame["canvas_height"]
    (folders / "input" / "openpose.json").write_text(json.dumps(frame))
    with pytest.raises(ValueError, match="canvas_width is missing"):
        call("CNetLoadPose", file="openpose.json")
    (found,) = call("CNetLoadPose", file="openpose.json", canvas_width=800, canvas_height=600)
    assert (found["canvas_width"], found["canvas_height"]) == (800, 600)


def test_nodes_take_json_text_and_single_frames(call, poses):
    expected = call("CNetRenderPose", keypoints=poses, **DRAWN)
    for given in (poses[0], json.dumps(poses), json.dumps(poses[0])):
        assert torch.equal(call("CNetRenderPose", keypoints=given, **DRAWN), expected)


DRAWN = {
    "width": 0, "height": 0, "style": "openpose", "body": True, "hands": True, "face": True,
    "score_threshold": 0.3,
}  # fmt: skip


def test_every_frame_is_drawn_in_the_size_that_is_asked_for(call, poses):
    assert call("CNetRenderPose", keypoints=poses, **DRAWN).shape == (1, 512, 512, 3)
    drawn = call("CNetRenderPose", keypoints=poses * 3, **{**DRAWN, "width": 96, "height": 64})
    assert drawn.shape == (3, 64, 96, 3) and drawn[0].max() > 0.7 and torch.equal(drawn[0], drawn[2])


def test_people_are_merged_filtered_and_moved(call, poses):
    two = call("CNetMergePoses", poses={"pose0": poses, "pose1": poses})
    assert len(two[0]["people"]) == 4
    plain = {"point_score": 0.0, "person_score": 0.0, "largest": 0}
    assert call("CNetFilterPoses", keypoints=poses, **plain) == poses
    (first,) = call("CNetFilterPoses", keypoints=poses, **plain, people="0")
    assert first["people"] == poses[0]["people"][:1]
    mask = torch.zeros(1, 8, 8)
    mask[..., 4:] = 1
    (right,) = call("CNetFilterPoses", keypoints=poses, **plain, region=mask)
    assert right["people"] == poses[0]["people"][1:]
    (headless,) = call("CNetFilterPoses", keypoints=poses, **plain, remove="nose, Left Eye")
    assert headless["people"][0]["pose_keypoints_2d"][:3] == [0, 0, 0]
    still = {"scale": 1.0, "rotate": 0.0, "move_x": 0.0, "move_y": 0.0, "flip": False}
    assert call("CNetTransformPoses", keypoints=poses, **still) == poses
    (raised,) = call("CNetTransformPoses", keypoints=poses, **{**still, "move_y": -9}, parts="left wrist")
    moved = np.subtract(raised["people"][1]["pose_keypoints_2d"], poses[0]["people"][1]["pose_keypoints_2d"])
    assert moved.nonzero()[0].tolist() == [7 * 3 + 1] and abs(moved[7 * 3 + 1] + 9) < 1e-9
    assert call("CNetSmoothPoses", keypoints=poses * 5, window=5, fill_gaps=2) == poses * 5


def test_parts_that_are_lists_travel_through_a_workflow(nodes, folders):
    """As older workflows have them; a list among the widgets' values is no link."""
    prompt = {
        "1": {"class_type": "CNetExamplePose", "inputs": {"name": "two_dancers.json"}},
        "2": {
            "class_type": "CNetFilterPoses",
            "inputs": {
                "keypoints": ["1", 0], "point_score": 0.0, "person_score": 0.0, "largest": 1,
                "remove": {"__value__": ["left wrist", "right wrist"]},
            },
        },
        "3": {"class_type": "CNetSavePose", "inputs": {"keypoints": ["2", 0], "filename_prefix": "one"}},
    }  # fmt: skip
    run(nodes, prompt)
    (frame,) = json.loads((folders / "output" / "one_00001_.json").read_text())
    (person,) = frame["people"]
    points = np.reshape(person["pose_keypoints_2d"], (-1, 3))
    assert (points[:, 2] == 0).nonzero()[0].tolist() == [4, 7]


def test_what_is_no_pose_is_refused_where_it_goes_in(call):
    with pytest.raises(ValueError, match="frame 0 is a text"):
        call("CNetRenderPose", keypoints=["x"], **DRAWN)
    with pytest.raises(ValueError, match="no number of a person"):
        call("CNetFilterPoses", keypoints=[], point_score=0.0, person_score=0.0, largest=0, people="me")
    with pytest.raises(ValueError, match=r"'tail' is no part of a body.*left wrist"):
        call(
            "CNetFilterPoses", keypoints=[], point_score=0.0, person_score=0.0, largest=0, remove="nose, tail"
        )


def test_a_muted_pose_is_left_out(call, poses):
    """The first one too; hosts give no dict where all are."""
    (alone,) = call("CNetMergePoses", poses={"pose1": poses})
    assert len(alone["people"]) == 2
    with pytest.raises(ValueError, match="no pose is connected, or all are muted"):
        call("CNetMergePoses")


def test_an_input_folder_without_poses(nodes):
    """The frontend then has no choice to send, and the host asks all the same."""
    assert nodes["CNetLoadPose"].validate_inputs() is True

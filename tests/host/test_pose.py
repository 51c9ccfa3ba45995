"""Poses between the host's own nodes and ours: SDPose's keypoints in ours, ours in SDPose's drawing."""

import json
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from .hosting import Host, Run, api_prompt

# The host's whole bodies: 17 points of COCO, 6 of the feet, 68 of the face, 21 of each hand.
POINTS = 133
SIDE = 512


@pytest.fixture(scope="module")
def sdpose(host: Host) -> dict[str, Any]:
    """The nodes of the host, by id; skips where it has none of SDPose."""
    nodes = host.object_info()
    if "SDPoseDrawKeypoints" not in nodes:
        pytest.skip("this ComfyUI has no SDPose nodes")
    return nodes


def drawn(source: list[Any], name: str, **parts: bool) -> dict[str, Any]:
    """Keypoints drawn by both, as previews; without feet, which the pack's styles lack."""
    body, hands, face = (parts.get(part, True) for part in ("body", "hands", "face"))
    theirs = {
        "keypoints": source, "draw_body": body, "draw_head": body, "draw_hands": hands, "draw_face": face,
        "draw_feet": False, "stick_width": 4, "face_point_size": 3, "score_threshold": 0.3,
    }  # fmt: skip
    ours = {
        "keypoints": source, "width": 0, "height": 0, "style": "openpose", "body": body, "hands": hands,
        "face": face, "score_threshold": 0.3,
    }  # fmt: skip
    return {
        f"{name} theirs": {"class_type": "SDPoseDrawKeypoints", "inputs": theirs},
        f"{name} ours": {"class_type": "CNetRenderPose", "inputs": ours},
        **{
            f"see {name} {who}": {"class_type": "PreviewImage", "inputs": {"images": [f"{name} {who}", 0]}}
            for who in ("theirs", "ours")
        },
    }


def pictures(run: Run, name: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What both drew: theirs, ours."""

    def of(node: str) -> list[np.ndarray]:
        return [np.asarray(Image.open(BytesIO(run.host.file(item)))) for item in run.ui(node)["images"]]

    return of(f"see {name} theirs"), of(f"see {name} ours")


def assert_same_places(run: Run, name: str, frames: int) -> None:
    """Lit in the same pixels. The colours where parts lie over each other are another matter: hosts draw the
    right hand first, and no pupils."""
    theirs, ours = pictures(run, name)
    assert len(theirs) == len(ours) == frames
    for host_picture, own in zip(theirs, ours, strict=True):
        assert host_picture.shape == own.shape == (SIDE, SIDE, 3)
        lit = host_picture.any(-1)
        print(f"{name}: {lit.mean():.4f} lit, {np.mean(lit != own.any(-1)):.6f} apart")
        assert np.array_equal(lit, own.any(-1))


def assert_same_bodies(run: Run, name: str, frames: int) -> None:
    """The same pixels in the same colours, but for limbs, which the host draws brighter."""
    assert_same_places(run, name, frames)
    for host_picture, own in zip(*pictures(run, name), strict=True):
        darker = np.abs(host_picture * 0.6 - own).max(-1) <= 1
        assert (darker | (host_picture == own).all(-1)).all()
        assert host_picture.any()


def wholebody(seed: int) -> list[list[float]]:
    """Points of a person in shares of the picture, well inside it; some are hardly seen."""
    rng = np.random.default_rng(seed)
    scores = np.where(rng.random(POINTS) < 0.1, 0.1, rng.uniform(0.5, 1.0, POINTS))
    return np.concatenate([rng.uniform(0.05, 0.95, (POINTS, 2)), scores[:, None]], 1).tolist()


def black(count: int) -> dict[str, Any]:
    inputs = {"width": SIDE, "height": SIDE, "batch_size": count, "color": 0}
    return {"class_type": "EmptyImage", "inputs": inputs}


def seen_by_host(points: list[list[float]]) -> dict[str, Any]:
    """The host's own extractor, given a model that knows the person."""
    knowing = {"model": ["mini", 0], "points": json.dumps(points)}
    return {
        "mini": {"class_type": "CNetLoadMiniSD", "inputs": {}},
        "model": {"class_type": "HostProbePoseModel", "inputs": knowing},
        "image": black(1),
        "keypoints": {
            "class_type": "SDPoseKeypointExtractor",
            "inputs": {"model": ["model", 0], "vae": ["mini", 2], "image": ["image", 0], "batch_size": 1},
        },
    }  # fmt: skip


def test_sdposes_keypoints_are_drawn_and_saved(host: Host, sdpose: dict[str, Any]) -> None:
    points = wholebody(0)
    save = {
        "class_type": "CNetSavePose",
        "inputs": {"keypoints": ["keypoints", 0], "filename_prefix": "seen"},
    }
    prompt = {
        **seen_by_host(points),
        **drawn(["keypoints", 0], "person"),
        **drawn(["keypoints", 0], "body", hands=False, face=False),
        "save": save,
    }
    run = host.queue(prompt).checked()
    assert_same_places(run, "person", 1)
    assert_same_bodies(run, "body", 1)
    (path,) = (host.base / "output").glob("seen_*.json")
    (frame,) = json.loads(path.read_text())
    assert (frame["canvas_width"], frame["canvas_height"]) == (SIDE, SIDE)
    nose = frame["people"][0]["pose_keypoints_2d"][:3]
    assert np.allclose(nose, [points[0][0] * SIDE, points[0][1] * SIDE, points[0][2]], atol=0.01)
    assert len(frame["people"][0]["foot_keypoints_2d"]) == 18


def test_sdposes_keypoints_pass_through_our_tools_back_into_the_host(
    host: Host, sdpose: dict[str, Any]
) -> None:
    turned = {
        "keypoints": ["keypoints", 0], "scale": 0.8, "rotate": 20.0, "move_x": 5.0, "move_y": 0.0,
        "flip": True,
    }  # fmt: skip
    kept = {"keypoints": ["turned", 0], "point_score": 0.2, "person_score": 0.0, "largest": 1}
    prompt = {
        **seen_by_host(wholebody(1)),
        "turned": {"class_type": "CNetTransformPoses", "inputs": turned},
        "kept": {"class_type": "CNetFilterPoses", "inputs": kept},
        **drawn(["kept", 0], "turned person"),
        **drawn(["kept", 0], "turned body", hands=False, face=False),
    }
    run = host.queue(prompt).checked()
    assert_same_places(run, "turned person", 1)
    assert_same_bodies(run, "turned body", 1)


def test_our_keypoints_are_drawn_by_the_host(host: Host, sdpose: dict[str, Any]) -> None:
    """Bodies alone, from the example, and whole people on three frames, from a file."""
    rng = np.random.default_rng(2)
    parts = {"pose": 18, "face": 70, "hand_left": 21, "hand_right": 21}
    frames = [
        {
            "canvas_width": SIDE,
            "canvas_height": SIDE,
            "people": [
                {
                    f"{part}_keypoints_2d": rng.uniform((30, 30, 0.1), (480, 480, 1), (count, 3))
                    .ravel()
                    .tolist()
                    for part, count in parts.items()
                }
                for _ in range(people)
            ],
        }
        for people in (1, 0, 2)
    ]
    (host.base / "input" / "frames.json").write_text(json.dumps(frames))
    prompt = {
        "bodies": {"class_type": "CNetExamplePose", "inputs": {"name": "two_dancers.json"}},
        "whole": {"class_type": "CNetLoadPose", "inputs": {"file": "frames.json"}},
        **drawn(["bodies", 0], "bodies"),
        **drawn(["whole", 0], "bodies of three", hands=False, face=False),
        **drawn(["whole", 0], "hands of three", body=False, face=False),
        "faces": {
            "class_type": "SDPoseFaceBBoxes",
            "inputs": {"keypoints": ["whole", 0], "scale": 1.5, "force_square": True},
        },
        "image": black(3),
        "crops": {
            "class_type": "CropByBBoxes",
            "inputs": {
                "image": ["image", 0], "bboxes": ["faces", 0], "output_width": 64, "output_height": 64,
                "padding": 0, "keep_aspect": "stretch",
            },
        },
        "see crops": {"class_type": "PreviewImage", "inputs": {"images": ["crops", 0]}},
    }  # fmt: skip
    run = host.queue(prompt).checked()
    assert_same_bodies(run, "bodies", 1)
    for name in ("bodies of three", "hands of three"):
        assert_same_places(run, name, 3)
        _, ours = pictures(run, name)
        assert ours[0].any() and not ours[1].any() and ours[2].any()
    assert len(run.ui("see crops")["images"]) == 2


def test_the_workflow_of_a_keypoint_file_runs(host: Host) -> None:
    run = host.queue(api_prompt("pose_file")).checked()
    items = [item for out in run.entry["outputs"].values() for item in out.get("images", [])]
    assert items and all(np.asarray(Image.open(BytesIO(host.file(item)))).std() > 5 for item in items)

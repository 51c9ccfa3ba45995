"""OpenPose as a whole: people in a picture, found by networks that know where they are."""

import json

import cv2
import numpy as np
import pytest
import torch
from published import NETWORKS, quietly, write
from test_neural import pictures

from annotators import run, weights
from annotators.errors import ParameterError, WeightsError
from annotators.networks import network_module
from annotators.neural.openpose import faces_in, hands_in
from annotators.pose.boxes import face_boxes, hand_boxes
from annotators.pose.keypoints import BODY, FACE, LEFT_HAND, RIGHT_HAND, Frame, parse
from annotators.pose.render import render
from annotators.table import ANNOTATORS
from tests.annotators.pose.answers import answer, crowd

OPENPOSE = ANNOTATORS["openpose"]
SIZE, SEEN = (512, 512), (184, 184)


class Answering(torch.nn.Module):
    """A network that says of every picture what it is told to; `given` is what it was asked last."""

    def __init__(self, reply):
        super().__init__()
        self.reply = reply
        self.anything = torch.nn.Parameter(torch.zeros(1))

    def forward(self, given):
        self.given = given
        return self.reply(given)


def spots(count: int, given: torch.Tensor) -> torch.Tensor:
    """Maps of a crop with a spot for each point, point i on a circle, and one for what is no point."""
    side = given.shape[-1] // 8
    y, x = np.indices((side, side))
    angles = np.arange(count) * 2 * np.pi / count
    at = (0.5 + 0.3 * np.stack([np.cos(angles), np.sin(angles)], 1)) * side - 0.5
    maps = [np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * (side / 16) ** 2)) for px, py in at]
    maps.append(1 - np.max(maps, 0))
    return torch.from_numpy(np.stack(maps)).float().expand(len(given), -1, -1, -1)


def knowing(people: list[np.ndarray], size=SIZE, seen=SEEN) -> torch.nn.Module:
    """Networks that know the people [P,18,3] of each picture of a batch."""

    def bodies(given):
        answers = [answer(one, size, seen) for one in people[: len(given)]]
        return tuple(torch.stack(maps) for maps in zip(*answers, strict=True))

    net = torch.nn.Module()
    net.body = Answering(bodies)
    net.hand = Answering(lambda given: spots(21, given))
    net.face = Answering(lambda given: [spots(70, given)])
    return net


def on_circle(box, count: int) -> np.ndarray:
    """Where the spots of a square are in the picture."""
    angles = np.arange(count) * 2 * np.pi / count
    return (0.5 + 0.3 * np.stack([np.cos(angles), np.sin(angles)], 1)) * box.side - 0.5 + (box.x, box.y)


def test_body_hands_and_face_are_where_they_are():
    known = crowd(0, 2, 512, 512)
    hints = run.annotate(OPENPOSE, pictures(1, *SIZE), net=knowing([known]))
    (frame,) = parse(json.dumps(hints.keypoints))
    assert (frame.width, frame.height) == (512, 512) and len(frame.people) == 2
    people = frame.people[np.argsort(frame.people[:, 0, 0])]
    for person, truth in zip(people, known, strict=True):
        assert np.linalg.norm(person[BODY, :2] - truth[:, :2], axis=1).max() < 4
        left, right = hand_boxes(person, SIZE)
        for part, box in ((LEFT_HAND, left), (RIGHT_HAND, right), (FACE, face_boxes(person, SIZE)[0])):
            count = part.stop - part.start
            assert np.abs(person[part, :2] - on_circle(box, count)).max() < 0.02 * box.side
            assert person[part, 2].min() > 0.8
        # Its left hand is at its left wrist.
        assert np.linalg.norm(person[LEFT_HAND, :2].mean(0) - person[7, :2]) < left.side
    assert torch.equal(hints.image, render([frame], threshold=0.0))


def test_each_part_may_be_left_out():
    net = knowing([crowd(0, 1, 512, 512)])
    whole = parse(run.annotate(OPENPOSE, pictures(1, *SIZE), net=net).keypoints)[0].people[0]
    for name, parts in (("body", [BODY]), ("hands", [LEFT_HAND, RIGHT_HAND]), ("face", [FACE])):
        hints = run.annotate(OPENPOSE, pictures(1, *SIZE), {name: False}, net=net)
        expected = whole.copy()
        for part in parts:
            expected[part] = 0.0
        frame = Frame(512, 512, expected[None])
        assert parse(hints.keypoints) == [frame]
        assert torch.equal(hints.image, render([frame], threshold=0.0))
    with pytest.raises(ParameterError, match="all off"):
        run.annotate(OPENPOSE, pictures(1, *SIZE), {"body": False, "hands": False, "face": False}, net=net)


def test_a_batch_has_a_frame_for_each_picture_and_nobody_is_black():
    people = [crowd(1, 1, 512, 512), np.zeros((0, 18, 3)), crowd(2, 3, 512, 512)]
    hints = run.annotate(
        OPENPOSE, pictures(3, *SIZE), {"hands": False, "face": False}, net=knowing(people), chunk=3
    )
    assert [len(frame["people"]) for frame in hints.keypoints] == [1, 0, 3]
    assert not hints.image[1].any() and hints.image[0].any()


def test_keypoints_and_hint_fit_the_size_asked_for():
    known = crowd(0, 1, 1024, 512)
    net = knowing([known], (512, 1024), (184, 368))
    options = {"values": {"hands": False, "face": False}, "net": net, "size": (256, 256), "resize": "fill"}
    hints = run.annotate(OPENPOSE, pictures(1, 512, 1024), **options)
    (frame,) = parse(hints.keypoints)
    assert hints.image.shape == (1, 256, 256, 3) and (frame.width, frame.height) == (256, 256)
    expected = (known[0, :, :2] + 0.5) / 4 - 0.5 + (0, 64)
    assert np.linalg.norm(frame.people[0, BODY, :2] - expected, axis=1).max() < 1.5


def test_a_large_picture_is_searched_at_512_and_found_in_its_own_pixels():
    known = crowd(0, 1, 1536, 1536)
    net = knowing([known], (1536, 1536), SEEN)
    hints = run.annotate(OPENPOSE, pictures(1, 1536, 1536), {"hands": False, "face": False}, net=net)
    (frame,) = parse(hints.keypoints)
    assert np.linalg.norm(frame.people[0, BODY, :2] - known[0, :, :2], axis=1).max() < 10


@pytest.mark.parametrize("size", [(8, 4096), (4096, 8), (1, 1), (300, 17)])
def test_the_network_sees_a_picture_of_any_shape_at_a_size_that_fits(size):
    net = knowing([np.zeros((0, 18, 3))], size, (8, 8))
    hints = run.annotate(OPENPOSE, torch.full((1, *size, 3), 0.5), {"face": False}, net=net)
    height, width = net.body.given.shape[-2:]
    assert height % 8 == width % 8 == 0 and height <= 184 and width <= 8 * 184
    assert hints.image.shape == (1, *size, 3) and not hints.image.any()


def test_the_network_sees_blue_green_red_and_nothing_as_padding():
    net = knowing([np.zeros((0, 18, 3))], (184, 180), (184, 180))
    picture = torch.tensor([1.0, 0.5, 0.0]).expand(1, 184, 180, 3)
    run.annotate(OPENPOSE, picture, net=net)
    expected = torch.tensor([0, 128, 255]) / 256 - 0.5
    assert torch.equal(net.body.given[0, :, 50, 50], expected)
    assert not net.body.given[..., 180:].any()


@pytest.fixture(scope="module")
def original():
    with quietly():
        return network_module("open_pose")


@pytest.mark.parametrize("side", [57, 130, 400])
def test_hands_equal_controlnet_auxs(original, side):
    """Within the pixel that it cuts off to, of its map of 128 pixels."""
    with quietly(side):
        reply = torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Conv2d(3, 22, 5, padding=2))
        torch.nn.init.normal_(reply[1].weight)
    reply[1].bias.data[::5] -= 100.0
    net = Answering(reply).requires_grad_(False)
    crop = pictures(1, side, side, seed=side)[0].mul(255).byte().numpy()
    crop = cv2.GaussianBlur(crop, (0, 0), side / 16)
    peer = object.__new__(original.Hand)
    peer.model = net
    theirs = peer(crop)
    (ours,) = hands_in([crop], net)
    seen = ours[:, 2] > 0
    assert not seen[::5].any() and not theirs[::5].any()
    # Theirs says (0, 0) of what is not seen, and of what is seen there.
    assert seen[theirs.any(1)].all() and theirs.any(1).sum() > 10
    way = (ours[:, :2] - theirs)[seen]
    assert way.min() > -0.51 and way.max() < 0.51 + side / 128


def test_faces_equal_controlnet_auxs(original):
    """Within a cell of the network's map, between which it knows no places; and it takes what is no point of
    the face for one more."""
    crop = pictures(1, 150, 150)[0].mul(255).byte().numpy()
    peer = object.__new__(original.Face)
    peer.model = Answering(lambda given: [spots(70, given)])
    theirs = peer.compute_peaks_from_heatmaps(peer(crop))
    (ours,) = faces_in([crop], peer.model)
    assert len(theirs) == 71
    assert np.abs(ours[:, :2] - theirs[:70]).max() < 150 / 48


def test_skeletons_equal_controlnet_auxs(original):
    """Drawn from whole pixels, as it finds them, the picture is the same to the last pixel."""
    net = knowing([crowd(4, 3, 512, 512)])
    image = pictures(1, *SIZE)
    body = object.__new__(original.Body)
    body.model = net.body
    with quietly():
        theirs = original.OpenposeDetector(body)(image[0].mul(255).byte().numpy(), output_type="np")
    hints = run.annotate(OPENPOSE, image, {"hands": False, "face": False}, net=net)
    (frame,) = parse(hints.keypoints)
    frame.people[..., :2] = np.rint(frame.people[..., :2])
    assert np.array_equal((render([frame])[0] * 255).round().byte().numpy(), theirs)
    # And nowhere is it far from it as it is.
    thick = cv2.dilate(theirs, np.ones((5, 5), np.uint8))
    assert not (hints.image[0].numpy().any(-1) & ~thick.any(-1)).any()


def test_a_file_of_another_network_is_refused(tmp_path):
    net = torch.nn.ModuleDict({name: torch.nn.Conv2d(1, 1, 1) for name in ("body", "hand", "face")})
    for weight in OPENPOSE.weights:
        (tmp_path / weight.repository).mkdir(exist_ok=True, parents=True)
        torch.save(net["face"].state_dict(), tmp_path / weight.repository / weight.file)
    with pytest.raises(WeightsError, match=r"body_pose_model\.pth does not hold the weights"):
        weights.build(OPENPOSE, [tmp_path])


def test_the_published_files_make_networks_that_find_somebody(tmp_path):
    with quietly():
        write(OPENPOSE, NETWORKS["openpose"](), tmp_path)
    net = weights.build(OPENPOSE, [tmp_path])
    hints = run.annotate(OPENPOSE, pictures(1, 64, 32), {"hands": False, "face": False}, net=net)
    assert hints.keypoints[0]["people"] and hints.image.any()


@pytest.mark.slow
def test_everything_equals_controlnet_auxs_with_its_own_networks(original, tmp_path):
    """By random weights in files as they are published."""
    image = pictures(1, 128, 192)
    scene = image[0].mul(255).byte().numpy()
    with quietly():
        net = NETWORKS["openpose"]()
        write(OPENPOSE, net, tmp_path)
        peers = [object.__new__(getattr(original, name)) for name in ("Body", "Hand", "Face")]
        for peer, name in zip(peers, net, strict=True):
            peer.model = net[name]
        found = original.OpenposeDetector(peers[0]).detect_poses(scene)
    ours = weights.build(OPENPOSE, [tmp_path])
    hints = run.annotate(OPENPOSE, image, {"hands": False, "face": False}, net=ours)
    people = parse(hints.keypoints)[0].people
    assert len(people) == len(found) > 0
    for person, other in zip(people, found, strict=True):
        for (x, y, score), point in zip(person[BODY], other.body.keypoints, strict=True):
            assert (score > 0) == (point is not None)
            if point:
                assert abs(x - point.x * 192) <= 0.51 and abs(y - point.y * 128) <= 0.51
    crop = np.ascontiguousarray(scene[:64, :64, ::-1])
    with torch.no_grad():
        (points,), theirs = hands_in([crop], ours.hand), peers[1](crop)
        (face,) = faces_in([crop], ours.face)
        their_face = peers[2].compute_peaks_from_heatmaps(peers[2](crop))
    seen = points[:, 2] > 0
    assert np.array_equal(seen, theirs.any(1))
    assert np.abs(points[:, :2] - theirs)[seen].max() <= 1.01
    assert abs((face[:, 2] > 0).sum() - len(their_face)) <= 2

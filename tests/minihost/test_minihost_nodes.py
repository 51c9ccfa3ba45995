"""The host's nodes for pictures, masks, latents and values (compared with those of ComfyUI 0.28 and 0.33)."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from minihost.graph import Executor
from minihost.loader import object_info
from minihost.shims.api_input import CurveInput
from minihost.workflow import to_prompt

Y, X = torch.meshgrid(torch.arange(4.0), torch.arange(6.0), indexing="ij")


@pytest.fixture
def call(nodes):
    """Execute a node and give its outputs, or its only one."""

    def call(node, **inputs):
        outputs = nodes[node].execute(**inputs).args
        return outputs[0] if len(outputs) == 1 else outputs

    return call


def test_two_regions_share_the_canvas(call):
    """A half of ones on black, its inverse, and both feathered at the seam."""
    canvas = call("SolidMask", value=0.0, width=6, height=4)
    half = call("SolidMask", value=1.0, width=3, height=4)
    left = call("MaskComposite", destination=canvas, source=half, x=0, y=0, operation="add")
    assert torch.equal(left[0], (X < 3).float())
    assert torch.equal(call("InvertMask", mask=left)[0], (X >= 3).float())
    assert not canvas.any()


def test_masks_are_laid_where_told_and_cut_off_outside(call):
    below, above = torch.full((2, 4, 6), 0.75), torch.full((1, 3, 3), 0.5)
    there = (X >= 4) & (Y >= 2)
    expected = {"multiply": 0.375, "add": 1.0, "subtract": 0.25, "and": 0.0, "or": 1.0, "xor": 1.0}
    for operation, value in expected.items():
        laid = call("MaskComposite", destination=below, source=above, x=4, y=2, operation=operation)
        assert laid.shape == (2, 4, 6)
        assert torch.equal(laid[1], torch.where(there, value, 0.75))
    outside = call("MaskComposite", destination=below, source=above, x=9, y=0, operation="add")
    assert torch.equal(outside, below)


def test_feathers_rise_from_the_edge(call):
    mask = torch.ones(1, 4, 6)
    made = call("FeatherMask", mask=mask, left=3, top=0, right=2, bottom=0)
    assert torch.allclose(made[0, 0], torch.tensor([1 / 3, 2 / 3, 1, 1, 1, 0.5]))
    made = call("FeatherMask", mask=mask, left=0, top=100, right=0, bottom=1)
    assert torch.equal(made[0, :, 0], torch.tensor([0.25, 0.5, 0.75, 1.0]))
    assert torch.equal(mask, torch.ones(1, 4, 6))


def test_masks_and_pictures_turn_into_each_other(call, folders):
    mask = torch.rand(2, 4, 6)
    picture = call("MaskToImage", mask=mask)
    assert picture.shape == (2, 4, 6, 3)
    assert torch.equal(call("ImageToMask", image=picture, channel="green"), mask)
    Image.new("RGBA", (6, 5), (255, 0, 51, 204)).save(folders / "input" / "a.png")
    for channel, value in {"red": 1.0, "green": 0.0, "blue": 0.2, "alpha": 0.2}.items():
        loaded = call("LoadImageMask", image="a.png", channel=channel)
        assert torch.allclose(loaded, torch.full((1, 5, 6), value))


def test_pictures_of_phones_stand_upright(call, folders):
    picture = Image.new("RGB", (6, 4), "red")
    exif = picture.getexif()
    exif[ExifTags.Base.Orientation] = 6
    picture.save(folders / "input" / "phone.jpg", exif=exif)
    assert call("LoadImage", image="phone.jpg")[0].shape == (1, 6, 4, 3)


def test_a_preview_beside_a_picture_is_no_frame(nodes, call, folders):
    """As in the files of some phones, whose names end as those of any picture."""
    picture, preview = Image.new("RGB", (6, 4), "red"), Image.new("RGB", (3, 2), "lime")
    picture.save(folders / "input" / "phone.mpo", save_all=True, append_images=[preview])
    (folders / "input" / "phone.mpo").rename(folders / "input" / "phone.JPG")
    assert call("LoadImage", image="phone.JPG")[0].shape == (1, 4, 6, 3)
    assert nodes["LoadImage"].define_schema().inputs[0].options == ["phone.JPG"]


def test_batches_take_the_size_of_their_first(call):
    first, second = torch.rand(1, 4, 6, 3), torch.rand(2, 8, 8, 4)
    batch = call("BatchImagesNode", images={"image0": first, "image1": second})
    assert batch.shape == (3, 4, 6, 4)
    assert torch.equal(batch[:1, ..., :3], first) and (batch[0, ..., 3] == 1).all()
    masks = call("BatchMasksNode", masks={"mask0": first[..., 0], "mask1": second[..., 0]})
    assert masks.shape == (3, 4, 6) and torch.equal(masks[:1], first[..., 0])


@pytest.mark.parametrize(
    ("index", "length", "part"),
    [(1, 2, [1, 2]), (-1, 4, [4]), (3, 64, [3, 4]), (-9, 1, [0]), (9, 1, [4])],
)
def test_parts_of_batches(call, index, length, part):
    images, latents = torch.rand(5, 2, 2, 3), torch.rand(5, 4, 2, 2)
    assert torch.equal(call("ImageFromBatch", image=images, batch_index=index, length=length), images[part])
    found = call("LatentFromBatch", samples={"samples": latents}, batch_index=index, length=length)
    assert torch.equal(found["samples"], latents[part]) and found["batch_index"] == part


def test_a_part_of_a_part_keeps_its_places(call):
    latent = {"samples": torch.zeros(6, 4, 1, 1)}
    for _ in range(2):
        latent = call("LatentFromBatch", samples=latent, batch_index=2, length=4)
    assert latent["batch_index"] == [4, 5]


def test_batches_are_repeated_as_a_whole(call):
    images, latents = torch.rand(2, 2, 2, 3), torch.rand(2, 4, 2, 2)
    assert torch.equal(call("RepeatImageBatch", image=images, amount=2), images[[0, 1, 0, 1]])
    repeated = call("RepeatLatentBatch", samples={"samples": latents, "batch_index": [1, 3]}, amount=3)
    assert torch.equal(repeated["samples"], latents[[0, 1] * 3])
    assert repeated["batch_index"] == [1, 3, 4, 6, 7, 9]
    batch = call("BatchLatentsNode", latents={"latent0": {"samples": latents}, "latent1": repeated})
    assert batch["samples"].shape == (8, 4, 2, 2)
    assert batch["batch_index"] == [0, 1, 1, 3, 4, 6, 7, 9]


def test_pictures_change_their_size(call):
    image = torch.rand(2, 4, 6, 3)
    given = {"image": image, "upscale_method": "bilinear", "crop": "disabled"}
    assert call("ImageScale", width=0, height=0, **given) is image
    assert call("ImageScale", width=0, height=8, **given).shape == (2, 8, 12, 3)
    assert call("ImageScale", width=3, height=0, **given).shape == (2, 2, 3, 3)
    assert call("ImageScaleBy", image=image, upscale_method="area", scale_by=0.5).shape == (2, 2, 3, 3)
    # 2.6 and 3.9 pixels are 3 and 4.
    assert call("ImageScaleBy", image=image, upscale_method="area", scale_by=0.65).shape == (2, 3, 4, 3)


@pytest.fixture
def ramp():
    """A picture [1,4,8,3] that is told apart by its columns."""
    return (torch.arange(8.0) / 8).view(1, 1, 8, 1).expand(1, 4, 8, 3)


@pytest.mark.parametrize(("crop", "columns"), [("center", [2, 3, 4, 5]), ("disabled", [1, 3, 5, 7])])
def test_pictures_are_cut_to_a_new_shape_or_squeezed_into_it(call, ramp, crop, columns):
    given = {"image": ramp, "upscale_method": "nearest-exact", "width": 4, "height": 4}
    assert torch.equal(call("ImageScale", crop=crop, **given), ramp[:, :, columns])


def test_what_joins_a_batch_of_another_shape_is_cut_to_it(call, ramp):
    square = ramp[:, :, :4]
    batch = call("BatchImagesNode", images={"image0": square, "image1": ramp})
    assert torch.equal(batch[1:], ramp[:, :, 2:6])
    latents = [{"samples": one.movedim(-1, 1)} for one in (square, ramp)]
    batch = call("BatchLatentsNode", latents={"latent0": latents[0], "latent1": latents[1]})
    assert torch.equal(batch["samples"][1:], latents[1]["samples"][..., 2:6])


def test_a_latent_keeps_its_noise_when_it_leaves_its_batch(nodes, tiny, folders, picture_prompt):
    """The third picture of a batch, drawn alone, is the third picture."""
    prompt = picture_prompt(latent_image=["8", 0])
    prompt["4"]["inputs"]["batch_size"] = 3
    prompt["8"] = {
        "class_type": "LatentFromBatch",
        "inputs": {"samples": ["4", 0], "batch_index": 0, "length": 3},
    }
    pixels = []
    for index, length in ((0, 3), (2, 1)):
        prompt["8"]["inputs"].update(batch_index=index, length=length)
        last = Executor(nodes).run(prompt).ui["7"]["images"][-1]
        with Image.open(folders / "output" / last["subfolder"] / last["filename"]) as picture:
            pixels.append(picture.tobytes())
    assert pixels[0] == pixels[1]


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=7, unique_by=lambda p: p[0])
)
def test_curves_pass_through_their_points_and_never_overshoot(points):
    points.sort()
    for interpolation in ("monotone_cubic", "linear"):
        curve = CurveInput.from_raw({"points": points, "interpolation": interpolation})
        assert [curve.interp(x) for x, _ in points] == pytest.approx([y for _, y in points], abs=1e-9)
        assert (curve.interp(-1.0), curve.interp(2.0)) == (points[0][1], points[-1][1])
        for (x0, y0), (x1, y1) in pairwise(points):
            values = [curve.interp(x0 + (x1 - x0) * i / 8) for i in range(9)]
            steps = [(b - a) * (1 if y1 >= y0 else -1) for a, b in pairwise(values)]
            assert min(steps) >= -1e-9


def test_smooth_curves_have_the_slopes_of_fritsch_and_carlson():
    """Points on a line stay a line; a plateau stays flat; three points by hand."""
    line = CurveInput.from_raw([(0, 0), (0.3, 0.3), (1, 1)])
    assert line.to_lut(11).tolist() == pytest.approx([i / 10 for i in range(11)])
    plateau = CurveInput.from_raw([(0, 0), (0.4, 1), (0.6, 1), (1, 0)])
    assert plateau.interp(0.5) == 1.0
    # Secants 0.4 and 1.6, the middle slope 1: halfway up the first piece 0.1 + 0.5 * (0.4 - 1) / 8.
    assert CurveInput.from_raw([(0, 0), (0.5, 0.2), (1, 1)]).interp(0.25) == pytest.approx(0.0625)


def test_a_curve_travels_from_the_editor_through_a_workflow(nodes):
    value = {"points": [[0, 1], [1, 0]], "interpolation": "linear"}
    workflow = {
        "nodes": [
            {"id": 1, "type": "CurveEditor", "widgets_values": [value], "inputs": [], "outputs": []},
            {"id": 2, "type": "PreviewAny", "inputs": [{"name": "source", "link": 5}]},
        ],
        "links": [[5, 1, 0, 2, 0, "CURVE"]],
    }
    prompt = to_prompt(workflow, object_info(nodes))
    assert prompt["1"]["inputs"] == {"curve": value}
    shown = {"text": ["LinearCurve(points=[(0.0, 1.0), (1.0, 0.0)])"]}
    assert Executor(nodes).run(prompt).ui["2"] == shown
    # What older editors saved: a bare list of points.
    prompt["1"]["inputs"]["curve"] = {"__type__": "CURVE", "__value__": [[0, 1], [1, 0]]}
    assert Executor(nodes).run(prompt).ui["2"]["text"][0].startswith("MonotoneCubicCurve")


@pytest.mark.parametrize(
    ("source", "text"),
    [("a", "a"), (True, "True"), (2.5, "2.5"), (None, "None"), ([1, "ä"], '[\n    1,\n    "ä"\n]')],
)
def test_values_are_shown_as_text(nodes, source, text):
    shown = nodes["PreviewAny"].execute(source)
    assert shown.args == (text,) and shown.ui.as_dict() == {"text": (text,)}

"""Equal to controlnet-aux's own annotators where those are right: pictures whose sides are multiples of 64.

Its hints are bytes, cut off and not rounded, so equal is within one step of 255. Not compared, for it is
wrong there: LeReS (gives the network blue for red, in 0..255, and never puts it in eval mode), AnyLine
(its bytes wrap), sides that are no multiples (it changes the picture's shape).
"""

import numpy as np
import pytest
import torch
from published import NETWORKS, quietly, write
from test_neural import pictures

from annotators import run, weights
from annotators.networks import network_module
from annotators.table import ANNOTATORS

HEIGHT, WIDTH = 64, 128
SMALL = {"detect_resolution": HEIGHT, "image_resolution": HEIGHT}
ANIME = {"detect_resolution": 256, "image_resolution": 256}

# By annotator: controlnet-aux's module and class, its options, and ours.
PEERS = {
    "hed": ("hed", "HEDdetector", SMALL, {}),
    "hed safe": ("hed", "HEDdetector", {**SMALL, "safe": True}, {"safe": 2}),
    "hed_scribble": ("hed", "HEDdetector", {**SMALL, "scribble": True}, {}),
    "pidinet": ("pidi", "PidiNetDetector", SMALL, {}),
    "pidinet safe": ("pidi", "PidiNetDetector", {**SMALL, "safe": True}, {"safe": 2}),
    "pidinet filter": ("pidi", "PidiNetDetector", {**SMALL, "apply_filter": True}, {"filter": True}),
    "teed": ("teed", "TEEDdetector", {"detect_resolution": HEIGHT, "safe_steps": 0}, {"safe": 0}),
    "lineart": ("lineart", "LineartDetector", SMALL, {}),
    "lineart_anime": ("lineart_anime", "LineartAnimeDetector", ANIME, {}),
    "mlsd": ("mlsd", "MLSDdetector", SMALL, {}),
    "midas": ("midas", "MidasDetector", SMALL, {}),
    "midas_normals": ("midas", "MidasDetector", {**SMALL, "depth_and_normal": True}, {}),
    "bae": ("normalbae", "NormalBaeDetector", SMALL, {}),
}
# So large a part of the pixels may differ by more: thresholds and steps fall on either side.
MAY_DIFFER = {"hed safe": 0.01, "pidinet safe": 0.01, "hed_scribble": 0.03, "mlsd": 0.01}


@pytest.mark.parametrize("name", PEERS)
def test_hints_equal_controlnet_auxs(tmp_path, name):
    module, kind, options, values = PEERS[name]
    annotator = ANNOTATORS[name.split()[0]]
    size = (256, 256) if annotator.id == "lineart_anime" else (HEIGHT, WIDTH)
    images = pictures(1, *size)
    with quietly():
        net = NETWORKS[annotator.id]()
        write(annotator, net, tmp_path)
        networks = [net, net] if module == "lineart" else [net]
        peer = getattr(network_module(module), kind)(*networks)
        theirs = peer((images[0] * 255).round().byte().numpy(), output_type="np", **options)
    theirs = theirs[1] if isinstance(theirs, tuple) else theirs
    theirs = theirs if theirs.ndim == 3 else theirs[..., None].repeat(3, -1)
    ours = run.annotate(annotator, images, values, net=weights.build(annotator, [tmp_path])).image[0]
    apart = (ours * 255 - torch.from_numpy(np.ascontiguousarray(theirs)).float()).abs()
    assert apart.gt(1.05).float().mean() <= MAY_DIFFER.get(name, 0.0)
    # The comparison would be empty if there were nothing to see.
    assert theirs.std() > 0


def test_regions_equal_controlnet_auxs(tmp_path):
    images = pictures(1, HEIGHT, WIDTH)
    settings = {"points": 4, "quality": 0.0, "stability": 0.0}
    with quietly():
        net = NETWORKS["sam"]()
        write(ANNOTATORS["sam"], net, tmp_path)
        generator = network_module("segment_anything.automatic_mask_generator").SamAutomaticMaskGenerator(
            net, points_per_side=4, pred_iou_thresh=0.0, stability_score_thresh=0.0
        )
        theirs = generator.generate((images[0] * 255).round().byte().numpy())
    labels = run.annotate(
        ANNOTATORS["sam"], images, settings, net=weights.build(ANNOTATORS["sam"], [tmp_path])
    ).labels
    painted = np.zeros((HEIGHT, WIDTH), bool)
    for region in theirs:
        painted |= region["segmentation"]
    assert len(theirs) and abs(int(labels.max()) - len(theirs)) <= 1
    assert np.mean((labels[0] > 0).numpy() != painted) < 0.02


def test_zoe_equals_its_own_way_of_asking():
    """At a tenth of its size, for its time: the network looks at 64 x 96 instead of 384 x 512."""
    from annotators.neural import zoe

    with quietly():
        net = zoe.network().eval().requires_grad_(False)
        midas = network_module("zoe.zoedepth.models.base_models.midas")
        net.core.prep = midas.PrepForMidas(keep_aspect_ratio=True, img_size=[64, 96])
        pixels = pictures(2, 64, 96).movedim(-1, 1)
        theirs = net.infer(pixels)[:, 0]
    hints = run.annotate(ANNOTATORS["zoe"], pixels.movedim(1, -1), net=zoe.Zoe(net))
    assert torch.allclose(-hints.depth, theirs, atol=1e-4)
    for picture, depth in zip(hints.image, theirs.numpy(), strict=True):
        low, high = np.percentile(depth, [2, 85])
        assert np.allclose(picture[..., 0], (1 - (depth - low) / (high - low)).clip(0, 1), atol=0.02)


def test_zoe_takes_any_shape():
    from annotators.neural import zoe

    with quietly():
        net = zoe.network().eval().requires_grad_(False)
    midas = network_module("zoe.zoedepth.models.base_models.midas")
    net.core.prep = midas.PrepForMidas(keep_aspect_ratio=True, img_size=[64, 96])
    whole = zoe.Zoe(net)
    for size in ((1, 1), (1, 7), (300, 4)):
        hints = run.annotate(ANNOTATORS["zoe"], pictures(1, *size), net=whole)
        assert hints.image.shape == (1, *size, 3) and hints.image.isfinite().all()


def test_plain_convolutions_equal_pixel_differences():
    from annotators.neural.pidinet import plain_kernel

    model = network_module("pidi.model")
    kernel, picture = torch.randn(4, 3, 3, 3), torch.randn(2, 3, 9, 11)
    for kind in ("cd", "ad", "rd", "cv"):
        expected = model.createConvFunc(kind)(picture, kernel, padding=1)
        plain = plain_kernel(kernel, kind)
        made = torch.nn.functional.conv2d(picture, plain, padding=plain.shape[-1] // 2)
        assert torch.allclose(made, expected, atol=1e-4)


@pytest.mark.parametrize(("size", "millions"), [("Small", 24.8), ("Base", 97.5), ("Large", 335.3)])
def test_depth_anything_has_the_published_sizes(size, millions):
    import transformers

    from annotators.neural import depth_anything

    with torch.device("meta"), quietly():
        config = depth_anything.configuration(depth_anything.SIZES[size])
        net = transformers.DepthAnythingForDepthEstimation(config)
    assert abs(sum(p.numel() for p in net.parameters()) / 1e6 - millions) < 0.1

"""SAM: the regions of a picture by Segment Anything (A. Kirillov et al. 2023), each of its own colour."""

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import weights
from ..networks import network_module
from ..parameters import Float, Int
from ..registry import Annotation, Annotator, WeightFile
from .shared import sound

# Points that are asked about at once (on a CPU one: what is computed for it then stays in the caches), and
# how alike two regions' boxes may be (intersection over union).
_POINTS_AT_ONCE, _POINTS_AT_ONCE_ON_A_CPU = 64, 1
_ALIKE = 0.7

_MEAN = (123.675, 116.28, 103.53)
_DEVIATION = (58.395, 57.12, 57.375)


class Sam(torch.nn.Module):
    """The three networks under their published names, of the sizes of these weights."""

    def __init__(self, held: Mapping[str, Tensor]):
        super().__init__()
        modules = "segment_anything.modeling"
        encoder = "image_encoder."
        side, width = held[f"{encoder}pos_embed"].shape[-2:]
        patch = held[f"{encoder}patch_embed.proj.weight"].shape[-1]
        channels = held[f"{encoder}neck.0.weight"].shape[0]
        blocks = [name for name in held if re.fullmatch(r"image_encoder\.blocks\.\d+\.attn\.rel_pos_h", name)]
        reach = {int(name.split(".")[2]): (held[name].shape[0] + 1) // 2 for name in blocks}
        self.image_side = side * patch
        self.image_encoder = network_module(f"{modules}.image_encoder").ImageEncoderViT(
            depth=len(blocks),
            embed_dim=width,
            img_size=self.image_side,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            num_heads=width // held[blocks[0]].shape[1],
            patch_size=patch,
            use_rel_pos=True,
            global_attn_indexes=tuple(i for i, length in reach.items() if length == side),
            window_size=min(reach.values()),
            out_chans=channels,
        )
        self.prompt_encoder = network_module(f"{modules}.prompt_encoder").PromptEncoder(
            embed_dim=channels,
            image_embedding_size=(side, side),
            input_image_size=(self.image_side, self.image_side),
            mask_in_chans=16,
        )
        transformer = network_module(f"{modules}.transformer").TwoWayTransformer(
            depth=2, embedding_dim=channels, mlp_dim=2048, num_heads=8
        )
        self.mask_decoder = network_module(f"{modules}.mask_decoder").MaskDecoder(
            num_multimask_outputs=3, transformer=transformer, transformer_dim=channels
        )


@dataclass
class Regions:
    """Regions of one picture: logits [N,h,w] at the network's size, scores and boxes [N,4] in pixels."""

    logits: Tensor
    scores: Tensor
    boxes: Tensor

    def picked(self, which: Tensor) -> "Regions":
        return Regions(self.logits[which], self.scores[which], self.boxes[which])


def build(paths: Mapping[str, Path]) -> torch.nn.Module:
    (path,) = paths.values()
    held = weights.read(path)
    try:
        net = Sam(held)
    # Sizes are read from the tensors, so of whichever kind: they are another network's.
    except Exception as error:
        raise weights.WeightsError(
            f"{path} holds no Segment Anything network (ViT-B, ViT-L or ViT-H): {error!r}. "
            "Put the file there that the annotator names, or fetch it."
        ) from error
    return weights.load(net, held, path)


def sam(
    pictures: Tensor,
    net: Sam,
    seeds: list[int],
    points: int = 32,
    quality: float = 0.88,
    stability: float = 0.95,
) -> Annotation:
    """The regions in colours, smaller ones over larger ones, and their numbers from 1 as labels."""
    height, width = pictures.shape[-2:]
    labels = torch.zeros(len(pictures), height, width, dtype=torch.int64)
    hints = torch.zeros(len(pictures), 3, height, width)
    for i, seed in enumerate(seeds):
        for number, region in enumerate(_by_size(pictures[i], net, points, quality, stability), 1):
            labels[i][region] = number
        drawn = torch.Generator().manual_seed(seed)
        # One colour more than regions: what is none of them is black.
        colours = torch.rand(int(labels[i].max()) + 1, 3, generator=drawn)
        colours[0] = 0.0
        hints[i] = colours[labels[i]].movedim(-1, 0)
    return Annotation(hints, labels=labels)


def _by_size(picture: Tensor, net: Sam, points: int, quality: float, stability: float) -> Iterator[Tensor]:
    """The regions of a picture [3,H,W] as masks [H,W], largest first."""
    from torchvision.ops import nms

    height, width = picture.shape[-2:]
    found = _found(picture, net, points, quality, stability)
    if len(found.scores):
        found = found.picked(nms(found.boxes, found.scores, _ALIKE))
    areas = [int(_enlarged(one, net, height, width).gt(0).sum()) for one in found.logits[:, None]]
    for i in sorted(range(len(areas)), key=areas.__getitem__, reverse=True):
        yield _enlarged(found.logits[i : i + 1], net, height, width)[0].gt(0).cpu()


def _found(picture: Tensor, net: Sam, points: int, quality: float, stability: float) -> Regions:
    """What the network sees at the points of a grid: regions of this quality and stability."""
    height, width = picture.shape[-2:]
    dtype = next(net.parameters()).dtype
    longest = net.image_side / max(height, width)
    inside = (max(1, round(height * longest)), max(1, round(width * longest)))
    embedding = net.image_encoder(_framed(picture, inside, net.image_side).to(dtype))
    # Small, and written for float32 alone.
    prompts = copy.deepcopy(net.prompt_encoder).float()
    places = prompts.get_dense_pe().to(dtype)
    grid = (torch.arange(points, device=picture.device) + 0.5) / points
    asked = torch.cartesian_prod(grid, grid).flip(1) * grid.new_tensor([inside[1], inside[0]])
    parts = []
    for some in asked.split(_POINTS_AT_ONCE_ON_A_CPU if asked.device.type == "cpu" else _POINTS_AT_ONCE):
        ones = torch.ones(len(some), 1, device=some.device, dtype=torch.int)
        sparse, dense = prompts(points=(some[:, None], ones), boxes=None, masks=None)
        answer = net.mask_decoder(
            image_embeddings=embedding,
            image_pe=places,
            sparse_prompt_embeddings=sparse.to(dtype),
            dense_prompt_embeddings=dense.to(dtype),
            multimask_output=True,
        )
        logits, scores = (one.flatten(0, 1) for one in sound(answer))
        likely = scores > quality
        parts.append(_stable(logits[likely], scores[likely], net, (height, width), stability))
    return Regions(
        *(torch.cat([getattr(part, name) for part in parts]) for name in ("logits", "scores", "boxes"))
    )


def _stable(logits: Tensor, scores: Tensor, net: Sam, size: tuple[int, int], stability: float) -> Regions:
    """Regions that change little when their threshold does, with their boxes."""
    kept, boxes = [], []
    for i, one in enumerate(logits):
        whole = _enlarged(one[None], net, *size)[0]
        sure, possible = int((whole > 1).sum()), int((whole > -1).sum())
        rows, columns = ((whole > 0).any(axis).nonzero() for axis in (1, 0))
        if len(rows) and sure >= stability * possible:
            kept.append(i)
            boxes.append([columns[0], rows[0], columns[-1], rows[-1]])
    corners = torch.tensor(boxes, dtype=torch.float32, device=logits.device).reshape(-1, 4)
    return Regions(logits[kept], scores[kept], corners)


def _framed(picture: Tensor, inside: tuple[int, int], side: int) -> Tensor:
    """A picture [3,H,W] as the network takes it: [1,3,side,side], at the size `inside`, zeros around it."""
    scaled = F.interpolate(picture[None], inside, mode="bilinear", align_corners=False, antialias=True)
    mean, deviation = scaled.new_tensor([_MEAN, _DEVIATION])[..., None, None]
    return F.pad((scaled * 255.0 - mean) / deviation, (0, side - inside[1], 0, side - inside[0]))


def _enlarged(logits: Tensor, net: Sam, height: int, width: int) -> Tensor:
    """Logits [N,h,w] of the network at the picture's size [N,H,W]."""
    longest = net.image_side / max(height, width)
    rows, columns = max(1, round(height * longest)), max(1, round(width * longest))
    whole = F.interpolate(logits[:, None], [net.image_side] * 2, mode="bilinear", align_corners=False)
    cut = whole[..., :rows, :columns]
    return F.interpolate(cut, (height, width), mode="bilinear", align_corners=False)[:, 0]


def _entry(id: str, size: str, file: str, sha256: str | None = None) -> Annotator:
    return Annotator(
        id=id,
        title=f"SAM Regions {size}",
        condition="segmentation",
        kind="areas",
        description="Everything that Segment Anything tells apart, each region in a colour of its own.",
        convention="a random colour for each region, black where there is none",
        annotate=sam,
        parameters=(
            Int("points", 32, 1, 64, "The picture is asked about at so many points in each direction."),
            Float("quality", 0.88, 0.0, 1.0, "Regions that the network thinks worse of are left out."),
            Float("stability", 0.95, 0.0, 1.0, "Regions with less certain outlines are left out."),
        ),
        build=build,
        weights=(WeightFile("ybelkada/segment-anything", f"checkpoints/{file}", "Apache-2.0", sha256),),
        batchable=False,
        seedable=True,
        makes=("labels",),
        regions=True,
        suits=("mfidabel/controlnet-segment-anything",),
        aliases=("segment anything", "sam"),
    )


ANNOTATORS = (
    _entry(
        "sam",
        "(ViT-B)",
        "sam_vit_b_01ec64.pth",
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    _entry("sam_large", "(ViT-H)", "sam_vit_h_4b8939.pth"),
)

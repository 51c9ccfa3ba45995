"""What a ControlNet is trained on: pictures, hints and captions, checked, and encoded once."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from comfy_api.latest import io, ui

from ..annotators.registry import Annotator
from ..annotators.run import annotate
from ..annotators.table import ANNOTATORS, find
from ..cnet_core.errors import DataError
from ..cnet_core.training.buckets import bucket_of, buckets
from ..cnet_core.training.cache import HintMaker, Preparation, build
from ..cnet_core.training.data import Dataset, Pair, from_batch, read_folder
from ..cnet_core.training.pictures import HintKind, fitted
from ..cnet_core.training.validate import contact_sheet, spread_over, validate
from . import host
from .annotate import own_inputs
from .inputs import chosen

DatasetType = io.Custom("CNET_DATASET")
CacheType = io.Custom("CNET_CACHE")

FOLDER, IMAGES = "folder", "images"
AS_GIVEN = "as given"
AUTO = "auto"
# 8 x 2 to the halvings in the UNet, of all models that ControlNets are trained for.
_MULTIPLE = 64
_SHEET_ROWS = 6
_CACHES = host.Written()


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """What a CNET_DATASET carries: sound pairs, and how they are to be prepared."""

    dataset: Dataset
    preparation: Preparation
    maker: HintMaker | None


class TrainingData(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetTrainingData",
            display_name="Training Data (CNet)",
            category="cnet/train",
            description=(
                "Pictures, hints and captions to train a ControlNet on, from a folder or from the graph. "
                "Everything that is wrong with them is named before anything is computed, and some are "
                "shown side by side."
            ),
            search_aliases=["dataset", "train controlnet", "load training images", "captions"],
            has_intermediate_output=True,
            inputs=[
                io.DynamicCombo.Input(
                    "source",
                    options=[
                        io.DynamicCombo.Option(FOLDER, [_folder_input()]),
                        io.DynamicCombo.Option(IMAGES, _image_inputs()),
                    ],
                    tooltip=f"{FOLDER}: a folder in ComfyUI's input folder. {IMAGES}: from the graph.",
                ),
                io.DynamicCombo.Input(
                    "hints",
                    options=[
                        io.DynamicCombo.Option(AS_GIVEN, []),
                        *(
                            io.DynamicCombo.Option(one.id, own_inputs(one))
                            for one in ANNOTATORS.values()
                            # A mask drawn for one picture is none for the others.
                            if not one.masked
                        ),
                    ],
                    tooltip=f"{AS_GIVEN}: from the folder, or connected. Else the annotator that makes them.",
                ),
                io.Int.Input(
                    "resolution",
                    default=512,
                    min=_MULTIPLE,
                    max=4096,
                    step=_MULTIPLE,
                    tooltip=(
                        "Side of a square picture: 512 for SD1.5, 768 for SD2.x, 1024 for SDXL, 128 for the "
                        "mini model. Others are cropped to the nearest shape of the same area."
                    ),
                ),
                io.Combo.Input(
                    "hint_kind",
                    options=[AUTO, *get_args(HintKind)],
                    default=AUTO,
                    optional=True,
                    tooltip=(
                        "What the hints show, which decides how they may be scaled and mirrored. auto: as "
                        "the annotator says. areas: flat colours, which must not mix. normals: x in red, as "
                        "BAE's. midas_normals: x in blue, as those of the first release. skeleton: "
                        "OpenPose's colours, exactly."
                    ),
                ),
                io.Boolean.Input(
                    "mirror",
                    default=False,
                    optional=True,
                    tooltip=(
                        "Train on each pair mirrored too: skeletons keep their left and right. Not for "
                        "pictures with writing. Needs the hints' kind."
                    ),
                ),
                io.Boolean.Input(
                    "skip_broken",
                    default=False,
                    optional=True,
                    tooltip="Leave out pairs that cannot be trained on. Off: they are an error.",
                ),
            ],
            outputs=[
                DatasetType.Output(display_name="data", tooltip="For Cache Training Data."),
                io.String.Output(display_name="report", tooltip="What was found, and what is wrong with it."),
                io.Image.Output(
                    display_name="sheet", tooltip="Picture, hint and caption of some pairs, as shown."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, source: dict, **settings) -> str:
        """Look again when a file of the folder was changed."""
        return _state_of(source["folder"]) if source["source"] == FOLDER else ""

    @classmethod
    def execute(
        cls,
        source: dict,
        hints: dict,
        resolution: int,
        hint_kind: Any = AUTO,
        mirror: bool = False,
        skip_broken: bool = False,
    ) -> io.NodeOutput:
        own = chosen(hints)
        annotator = None if own["hints"] == AS_GIVEN else find(own["hints"])
        maker = None if annotator is None else _maker(annotator, own)
        preparation = Preparation(resolution, _MULTIPLE, _kind(hint_kind, annotator), mirror)
        sound, report = validate(
            _dataset(source, maker is not None), preparation, maker is not None, host.annotation_progress()
        )
        if not skip_broken or not report.sound:
            report.raise_if_unfit()
        text, sheet = report.to_text(), _sheet(sound, maker, preparation)
        shown = {**ui.PreviewImage(sheet).as_dict(), **ui.PreviewText(text).as_dict()}
        return io.NodeOutput(TrainingSet(sound, preparation, maker), text, sheet, ui=shown)


class CacheTrainingData(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetCacheTrainingData",
            display_name="Cache Training Data (CNet)",
            category="cnet/train",
            description=(
                "Encode training data once, with the VAE and CLIP of the model that is trained for, so that "
                "no step of training encodes anything. What is there already is not made again; cancelled, "
                "it goes on where it was."
            ),
            search_aliases=["cache latents", "encode dataset", "train controlnet", "text embeddings"],
            has_intermediate_output=True,
            inputs=[
                DatasetType.Input("data", tooltip="From Training Data."),
                io.Vae.Input("vae", tooltip="The VAE of the model that the ControlNet is trained for."),
                io.Clip.Input("clip", tooltip="The CLIP of that model."),
                io.String.Input(
                    "folder",
                    default="training/cache",
                    tooltip=(
                        "Where the cache is kept: a folder in ComfyUI's output folder. One for each set of "
                        "training data."
                    ),
                ),
            ],
            outputs=[CacheType.Output(display_name="cache", tooltip="For Train ControlNet.")],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str, **inputs) -> int:
        """Cache again what was removed or changed."""
        return _CACHES.fingerprint(folder)

    @classmethod
    def execute(cls, data: Any, vae: Any, clip: Any, folder: str) -> io.NodeOutput:
        if not isinstance(data, TrainingSet):
            raise DataError("data is no training data; connect the output of Training Data.")
        said: list[str] = []
        cache = build(
            data.dataset,
            host.HostEncoders(vae, clip),
            host.output_folder(folder),
            data.preparation,
            data.maker,
            host.annotation_progress(),
            said.append,
        )
        _CACHES.note(cache.folder, cache.folder.glob("*.*"))
        said.append(f"{len(cache)} examples in {cache.folder}, data {cache.manifest.data_hash}")
        return io.NodeOutput(cache, ui=ui.PreviewText("\n".join(said)))


def _folder_input() -> io.Input:
    return io.String.Input(
        "folder",
        tooltip=(
            "The name of a folder in ComfyUI's input folder. It holds images/NAME.png, hints/NAME.png and "
            "captions/NAME.txt, or NAME.png, NAME_hint.png and NAME.txt, or a metadata.jsonl or prompt.json; "
            "see the help page. dancers comes with the pack."
        ),
    )


def _image_inputs() -> list[io.Input]:
    return [
        io.Image.Input("images", tooltip="The pictures, as a batch."),
        io.Image.Input(
            "given_hints", optional=True, tooltip="A hint for each picture, where no annotator makes them."
        ),
        io.String.Input(
            "captions",
            multiline=True,
            optional=True,
            tooltip="A line for each picture, or one line for all of them.",
        ),
    ]


def _dataset(source: dict[str, Any], hints_made: bool) -> Dataset:
    if source["source"] == FOLDER:
        return read_folder(host.data_folder(source["folder"]), hints_made)
    captions = [line.rstrip("\r") for line in (source.get("captions") or "").removesuffix("\n").split("\n")]
    return from_batch(source["images"], source.get("given_hints"), captions)


def _state_of(name: str | None) -> str:
    """Changes when a file in a folder of training data does. Of a linked name nothing is known yet."""
    if name is None:
        return ""
    folder = host.data_folder(name)
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            status = path.stat()
            line = f"{path.relative_to(folder)} {status.st_size} {status.st_mtime_ns}\n"
            # Names need not be Unicode.
            digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _kind(chosen: str, annotator: Annotator | None) -> Any:
    if chosen != AUTO:
        return chosen
    return annotator.kind if annotator is not None and annotator.kind in get_args(HintKind) else None


def _maker(annotator: Annotator, own: dict[str, Any]) -> HintMaker:
    """The annotator as it is set on the node; its network is read when the first hint is made."""
    seed, precision = own.get("seed", 0), own.get("precision", "fp32")
    names = [parameter.name for parameter in annotator.parameters if parameter.name in own]
    values = annotator.checked({name: own[name] for name in names})
    if own.get("download"):
        host.fetch_annotator(annotator)
    weights = [(one.repository, one.file, one.sha256) for one in annotator.weights]

    def make(pictures: torch.Tensor) -> torch.Tensor:
        network = host.annotator_network(annotator, precision)
        net = None if network is None else network.ready()
        return annotate(annotator, pictures, values, net=net, seed=seed).image

    return HintMaker(json.dumps([annotator.id, values, seed, precision, weights], sort_keys=True), make)


def _sheet(dataset: Dataset, maker: HintMaker | None, preparation: Preparation) -> torch.Tensor:
    """The contact sheet [1,H,W,3] of some of the pairs; made hints are those that are trained on."""
    sizes = buckets(preparation.resolution, preparation.multiple)

    def row(pair: Pair) -> tuple[np.ndarray, np.ndarray | None, str]:
        picture = pair.picture()
        if maker is None:
            return picture, pair.control(), pair.caption
        picture = fitted(picture, *bucket_of(picture.shape[1], picture.shape[0], sizes))
        made = maker.make(torch.from_numpy(picture).float().div(255.0)[None])[0]
        return picture, (made.clamp(0, 1) * 255).round().byte().cpu().numpy(), pair.caption

    rows = [row(pair) for pair in spread_over(dataset.pairs, _SHEET_ROWS)]
    return torch.from_numpy(np.array(contact_sheet(rows))).float().div(255.0)[None]

"""Make hints from pictures: a node of each annotator of the registry, and one of all of them."""

import json
from typing import Any

import torch
from comfy_api.latest import io, ui

from ..annotators.parameters import Bool, Choice, Int, Parameter
from ..annotators.registry import RAW, Annotator
from ..annotators.run import Hints, annotate
from ..annotators.table import ANNOTATORS, find
from . import host
from .hints import SHOWN
from .inputs import chosen
from .sizes import size_input, size_of

PoseType = io.Custom("POSE_KEYPOINT")


def _parameter_input(parameter: Parameter) -> io.Input:
    name = parameter.name
    common: dict[str, Any] = {
        "optional": True, "tooltip": parameter.tooltip, "default": parameter.default,
        "advanced": parameter.advanced or None,
    }  # fmt: skip
    if isinstance(parameter, Bool):
        return io.Boolean.Input(name, **common)
    if isinstance(parameter, Choice):
        return io.Combo.Input(name, options=list(parameter.options), **common)
    common |= {"min": parameter.minimum, "max": parameter.maximum}
    if isinstance(parameter, Int):
        return io.Int.Input(name, **common)
    return io.Float.Input(name, step=parameter.step, **common)


def own_inputs(annotator: Annotator) -> list[io.Input]:
    """What an annotator asks for beside the picture."""
    inputs = [_parameter_input(parameter) for parameter in annotator.parameters]
    if annotator.masked:
        inputs.append(
            io.Mask.Input(
                "mask",
                optional=True,
                tooltip="Where the picture shall be painted anew: white. Without it what is transparent.",
            )
        )
    if annotator.seedable:
        inputs.append(
            io.Int.Input(
                "seed",
                default=0,
                min=0,
                max=2**64 - 1,
                # Else the frontend draws another one after each run.
                control_after_generate=False,
                optional=True,
                tooltip="The same seed gives the same hint; the next picture of a batch gets the next seed.",
            )
        )
    if annotator.build is not None:
        inputs += _network_inputs(annotator)
    return inputs


def _network_inputs(annotator: Annotator) -> list[io.Input]:
    files = ", ".join(f"{weight.repository}/{weight.file}" for weight in annotator.weights)
    return [
        io.Boolean.Input(
            "download",
            default=False,
            optional=True,
            tooltip=(
                f"Download the weights from the model hub, once, if they are not there yet: {files}. Off: "
                "they must be there; the help page says where."
            ),
        ),
        io.Combo.Input(
            "precision",
            options=list(host.ANNOTATOR_DTYPES),
            default="fp32",
            optional=True,
            advanced=True,
            tooltip="How the network computes: fp16 and bf16 need half the memory and are quicker on GPUs.",
        ),
    ]


def _common_inputs() -> list[io.Input]:
    return [
        size_input(keeps=True, optional=True),
        io.Int.Input(
            "resolution",
            default=0,
            min=0,
            max=16384,
            optional=True,
            advanced=True,
            tooltip=(
                "The short side in pixels at which the annotator looks at the picture: less for coarser "
                "hints. 0: so that a pixel it sees is one of the hint (pixel perfect). The hint's size stays."
            ),
        ),
    ]


def _image_input() -> io.Input:
    return io.Image.Input("image", tooltip="Pictures; all frames of a batch are done.")


_OUTPUTS = {
    "depth": lambda: io.Image.Output(
        display_name="depth",
        tooltip="The depth as the network gives it, larger is nearer, not within 0..1: to compute with.",
    ),
    "labels": lambda: io.Image.Output(
        display_name="labels",
        tooltip=(
            "As grey, the class of each pixel: its number / 255, 1 is none; of SAM its region: the number "
            "from 1, / 65535, 0 is none."
        ),
    ),
    "mask": lambda: io.Mask.Output(display_name="mask", tooltip="The mask, of the hint's size."),
    "lines": lambda: io.String.Output(
        display_name="lines",
        tooltip="The lines of each picture as JSON: [[x0, y0, x1, y1], ...] in pixels of the hint.",
    ),
    "keypoints": lambda: PoseType.Output(
        display_name="keypoints",
        tooltip="The poses in OpenPose's format, in pixels of the hint, with scores.",
    ),
}


def _raw(annotator: Annotator, hints: Hints, name: str) -> Any:
    """What an output of _OUTPUTS holds."""
    value = getattr(hints, name)
    if name == "labels":
        # Regions may be more than 255. What is of no class is 255, as in the files of most data sets.
        value = value / 65535 if annotator.regions else torch.where(value < 0, 255, value) / 255
    if name in ("depth", "labels"):
        return value.float()[..., None].expand(-1, -1, -1, 3)
    if name == "lines":
        return json.dumps([[[round(x, 2) for x in line] for line in one.tolist()] for one in value])
    return value


def _hints(
    annotator: Annotator,
    image: Any,
    size: dict[str, Any] | None = None,
    resolution: int = 0,
    seed: int = 0,
    mask: Any = None,
    download: bool = False,
    precision: str = "fp32",
    **values: Any,
) -> Hints:
    # A wrong value is told before any network is read.
    checked = annotator.checked(values)
    wanted, mode = size_of(size)
    if download:
        host.fetch_annotator(annotator)
    network = host.annotator_network(annotator, precision)
    return annotate(
        annotator,
        image,
        checked,
        net=None if network is None else network.ready(),
        seed=seed,
        masks=mask,
        size=wanted,
        resize=mode,
        resolution=resolution or None,
        progress=host.annotation_progress(),
    )


def _shown(hints: Hints) -> ui.PreviewImage:
    return ui.PreviewImage(hints.image[:SHOWN])


class Annotate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetAnnotate",
            display_name="Annotate (CNet)",
            category="cnet/annotate",
            description=(
                "Make hints from pictures with any annotator; its settings follow the choice. Each annotator "
                "has a node of its own too."
            ),
            search_aliases=["preprocessor", "aio aux preprocessor", "hint", "control image", "annotator"],
            # The preview comes back when the node was cached.
            has_intermediate_output=True,
            inputs=[
                _image_input(),
                io.DynamicCombo.Input(
                    "annotator",
                    options=[io.DynamicCombo.Option(one.id, own_inputs(one)) for one in ANNOTATORS.values()],
                    tooltip=(
                        "What makes the hint. Choose what the ControlNet was trained on; README lists them "
                        "all."
                    ),
                ),
                *_common_inputs(),
            ],
            outputs=[
                io.Image.Output(display_name="hint", tooltip="The hint, for Apply ControlNet."),
                *(_OUTPUTS[name]() for name in RAW),
            ],
        )

    @classmethod
    def execute(cls, image, annotator: dict, size=None, resolution=0) -> io.NodeOutput:
        own = chosen(annotator)
        one = find(own.pop("annotator"))
        hints = _hints(one, image, size, resolution, **own)
        raw = [
            _raw(one, hints, name)
            if name in one.makes
            else host.blocked(f"{one.id} makes no {name}; choose an annotator that does, or disconnect it.")
            for name in RAW
        ]
        return io.NodeOutput(hints.image, *raw, ui=_shown(hints))


def _node_of(annotator: Annotator) -> type[io.ComfyNode]:
    """The node of one annotator."""

    def define_schema(cls: type[io.ComfyNode]) -> io.Schema:
        return io.Schema(
            node_id=annotator.node,
            display_name=f"{annotator.title} (CNet)",
            category=f"cnet/annotate/{annotator.condition}",
            description=annotator.description,
            search_aliases=[*annotator.aliases, annotator.condition, f"{annotator.condition} preprocessor"],
            has_intermediate_output=True,
            inputs=[_image_input(), *own_inputs(annotator), *_common_inputs()],
            outputs=[
                io.Image.Output(display_name="hint", tooltip=f"The hint: {annotator.convention}."),
                *(_OUTPUTS[one]() for one in annotator.makes),
            ],
        )

    def execute(cls: type[io.ComfyNode], image: Any, **given: Any) -> io.NodeOutput:
        hints = _hints(annotator, image, **given)
        raw = [_raw(annotator, hints, one) for one in annotator.makes]
        return io.NodeOutput(hints.image, *raw, ui=_shown(hints))

    members = {"define_schema": classmethod(define_schema), "execute": classmethod(execute)}
    return type(annotator.node, (io.ComfyNode,), {"__module__": __name__, **members})


# In the order of the registry.
ANNOTATOR_NODES = [_node_of(annotator) for annotator in ANNOTATORS.values()]

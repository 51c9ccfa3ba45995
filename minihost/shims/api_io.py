"""`comfy_api.latest.io`, part 1: the types of sockets and widgets, and their inputs and outputs.

An input is a table row: its constructor's parameters in the host's order, and the option that each becomes
in the node's description (/object_info). Options left at None are not listed there.
"""

from __future__ import annotations

from enum import Enum
from typing import Any


class FolderType(str, Enum):
    """Which of the host's folders a file lies in."""

    input = "input"
    output = "output"
    temp = "temp"


class UploadType(str, Enum):
    """What the upload button of a combo takes."""

    image = "image_upload"
    audio = "audio_upload"
    video = "video_upload"
    model = "file_upload"


class NumberDisplay(str, Enum):
    """How a number's widget looks."""

    number = "number"
    slider = "slider"
    gradient_slider = "gradientslider"


class ControlAfterGenerate(str, Enum):
    """What a widget's value does after each run."""

    fixed = "fixed"
    increment = "increment"
    decrement = "decrement"
    randomize = "randomize"


OPTION_NAMES = {
    "raw_link": "rawLink",
    "widget_type": "widgetType",
    "force_input": "forceInput",
    "dynamic_prompts": "dynamicPrompts",
    "display_mode": "display",
}
NOT_OPTIONS = {"id", "optional", "extra_dict", "upload"}
HEAD = ("id", "display_name", "optional", "tooltip", "lazy")
TAIL = ("extra_dict", "raw_link", "advanced")


def pruned(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were set."""
    return {name: value for name, value in options.items() if value is not None}


def bind(cls: type, parameters: tuple[str, ...], args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name, as a function with these parameters would take them."""
    where = f"{cls.__qualname__}()"
    if len(args) > len(parameters):
        raise TypeError(f"{where} takes at most {len(parameters)} arguments, got {len(args)}")
    values = dict(zip(parameters, args, strict=False))
    for name, value in kwargs.items():
        if name not in parameters:
            raise TypeError(f"{where} has no argument '{name}'; it takes {', '.join(parameters)}")
        if name in values:
            raise TypeError(f"{where} got '{name}' twice")
        values[name] = value
    return values


class Input:
    """An input socket. `optional`: the node runs without it; `advanced`: folded away until asked for."""

    parameters: tuple[str, ...] = (*HEAD, *TAIL)
    defaults: dict[str, Any] = {}
    io_type = "*"
    Parent: Any = None

    id: str
    optional: bool
    display_name: str | None
    tooltip: str | None
    extra_dict: dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any):
        values = bind(type(self), self.parameters, args, kwargs)
        if "id" not in values:
            raise TypeError(f"{type(self).__qualname__}() needs an id")
        for name in self.parameters:
            setattr(self, name, values.get(name, self.defaults.get(name)))
        self.optional = bool(self.optional)
        self.extra_dict = values.get("extra_dict") or {}

    def get_io_type(self) -> str:
        return self.io_type

    def get_all(self) -> list[Input]:
        """This input and those that it may bring with it."""
        return [self]

    def validate(self) -> None:
        """Raise when the input makes no sense; nothing to check for plain ones."""

    def as_dict(self) -> dict[str, Any]:
        """The options, as /object_info lists them."""
        options = {OPTION_NAMES.get(n, n): getattr(self, n) for n in self.parameters if n not in NOT_OPTIONS}
        return pruned({**options, **self.extra_dict})


class WidgetInput(Input):
    """An input whose value can be set on the node itself."""

    parameters: tuple[str, ...] = (*HEAD, "default", "socketless", "widget_type", "force_input", *TAIL)
    default: Any
    widget_type: str | None = None
    force_input: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """The options; an Autogrow makes a socket of its widget, even of one that takes no such argument."""
        return pruned({**super().as_dict(), "forceInput": self.force_input})

    def get_io_type(self) -> str:
        return self.widget_type if self.widget_type is not None else self.io_type


class Output:
    """An output socket. `is_output_list`: its value is a list, handed on item by item."""

    parameters: tuple[str, ...] = ("id", "display_name", "tooltip", "is_output_list")
    io_type = "*"
    Parent: Any = None

    id: str | None
    display_name: str | None
    tooltip: str | None
    is_output_list: bool

    def __init__(self, *args: Any, **kwargs: Any):
        values = bind(type(self), self.parameters, args, kwargs)
        for name in self.parameters:
            setattr(self, name, values.get(name))
        self.display_name = self.display_name or self.id
        self.is_output_list = bool(self.is_output_list)

    def get_io_type(self) -> str:
        return self.io_type

    def validate(self) -> None:
        """Raise when the output makes no sense; nothing to check for plain ones."""


class ComfyType:
    """A type of value: `Input` and `Output` make sockets of it, `io_type` is its name in the graph."""

    io_type = "*"
    Type: Any = Any
    Input: Any = Input
    Output: Any = Output


def declare(name: str, io_type: str, input_class: type = Input, output_class: type = Output) -> Any:
    """A type with its own Input and Output classes."""
    made = type(name, (ComfyType,), {"io_type": io_type})
    own = {"io_type": io_type, "Parent": made, "__qualname__": f"{name}.Input"}
    made.Input = type("Input", (input_class,), own)  # type: ignore[attr-defined]
    own = {"io_type": io_type, "Parent": made, "__qualname__": f"{name}.Output"}
    made.Output = type("Output", (output_class,), own)  # type: ignore[attr-defined]
    return made


def Custom(io_type: str) -> Any:
    """A type of one's own, known by its name."""
    return declare(io_type, io_type)


class BooleanInput(WidgetInput):
    parameters = (*HEAD, "default", "label_on", "label_off", "socketless", "force_input", *TAIL)


class IntInput(WidgetInput):
    parameters = (
        *(*HEAD, "default", "min", "max", "step", "control_after_generate", "display_mode"),
        *("socketless", "force_input", *TAIL),
    )


class FloatInput(WidgetInput):
    parameters = (
        *(*HEAD, "default", "min", "max", "step", "round", "display_mode", "gradient_stops"),
        *("socketless", "force_input", *TAIL),
    )


class StringInput(WidgetInput):
    parameters = (
        *(*HEAD, "multiline", "placeholder", "default", "dynamic_prompts"),
        *("socketless", "force_input", *TAIL),
    )
    defaults = {"multiline": False}


class ComboInput(WidgetInput):
    """A choice. `options`: the values, or an Enum; `upload`: which kind of file the upload button takes."""

    parameters: tuple[str, ...] = (
        *("id", "options", "display_name", "optional", "tooltip", "lazy", "default"),
        *("control_after_generate", "upload", "image_folder", "remote", "socketless", *TAIL),
    )
    options: Any
    upload: UploadType | None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if isinstance(self.options, type) and issubclass(self.options, Enum):
            self.options = [choice.value for choice in self.options]
        if isinstance(self.default, Enum):
            self.default = self.default.value

    def as_dict(self) -> dict[str, Any]:
        upload = {self.upload.value: True} if self.upload is not None else {}
        return {**super().as_dict(), "multiselect": False, **upload}


class MultiComboInput(ComboInput):
    """A choice of several; its value is a list."""

    parameters = (
        *("id", "options", "display_name", "optional", "tooltip", "lazy", "default", "placeholder", "chip"),
        *("control_after_generate", "socketless", *TAIL),
    )
    upload = None

    def as_dict(self) -> dict[str, Any]:
        options = super().as_dict()
        shown = {name: options.pop(name) for name in ("placeholder", "chip") if name in options}
        return {**options, "multiselect": True, "multi_select": shown}


class CurveInput(WidgetInput):
    """A curve drawn on the node; its value is a dict of points and interpolation. `default`: points."""

    parameters = ("id", "display_name", "optional", "tooltip", "socketless", "default", "advanced")
    defaults = {"socketless": True, "default": [(0.0, 0.0), (1.0, 1.0)]}

    def as_dict(self) -> dict[str, Any]:
        points = [list(point) for point in self.default]
        return {**super().as_dict(), "default": {"points": points, "interpolation": "monotone_cubic"}}


class ComboOutput(Output):
    parameters = ("id", "display_name", "options", "tooltip", "is_output_list")


Boolean = declare("Boolean", "BOOLEAN", BooleanInput)
Int = declare("Int", "INT", IntInput)
Float = declare("Float", "FLOAT", FloatInput)
String = declare("String", "STRING", StringInput)
Combo = declare("Combo", "COMBO", ComboInput, ComboOutput)
MultiCombo = declare("MultiCombo", "COMBO", MultiComboInput)
Curve = declare("Curve", "CURVE", CurveInput)
Histogram = declare("Histogram", "HISTOGRAM")

AnyType = declare("AnyType", "*")
Image = declare("Image", "IMAGE")
Mask = declare("Mask", "MASK")
Latent = declare("Latent", "LATENT")
Conditioning = declare("Conditioning", "CONDITIONING")
ControlNet = declare("ControlNet", "CONTROL_NET")
Model = declare("Model", "MODEL")
Clip = declare("Clip", "CLIP")
Vae = declare("Vae", "VAE")
Sampler = declare("Sampler", "SAMPLER")
Sigmas = declare("Sigmas", "SIGMAS")
Noise = declare("Noise", "NOISE")
Guider = declare("Guider", "GUIDER")
ClipVision = declare("ClipVision", "CLIP_VISION")
ClipVisionOutput = declare("ClipVisionOutput", "CLIP_VISION_OUTPUT")
StyleModel = declare("StyleModel", "STYLE_MODEL")
ModelPatch = declare("ModelPatch", "MODEL_PATCH")
LoraModel = declare("LoraModel", "LORA_MODEL")
LossMap = declare("LossMap", "LOSS_MAP")

"""`comfy_api.latest.io`, part 2: inputs that change the node's shape, and inputs of several types."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from .api_io import HEAD, TAIL, AnyType, ComfyType, Input, Output, WidgetInput, declare, pruned


def input_table(inputs: Iterable[Input]) -> dict[str, dict[str, Any]]:
    """Inputs as /object_info lists them: {"required": {id: (type, options)}, "optional": {..}}."""
    table: dict[str, dict[str, Any]] = {"required": {}}
    for one in inputs:
        table.setdefault("optional" if one.optional else "required", {})[one.id] = (
            one.get_io_type(),
            one.as_dict(),
        )
    return table


class DynamicInput(Input):
    """An input that stands for others."""

    parameters: tuple[str, ...] = (*HEAD, "extra_dict")


class AutogrowTemplate:
    """What each slot of an Autogrow input is; a widget becomes a socket there."""

    names: list[str]
    min: int

    def __init__(self, input: Input, min: int):
        if isinstance(input, DynamicInput):
            raise TypeError(f"the slots of an Autogrow input are plain inputs, got {type(input).__name__}")
        if min < 0:
            raise ValueError(f"an Autogrow input needs at least 0 slots, got min={min}")
        self.input = copy.copy(input)
        self.min = min
        if isinstance(self.input, WidgetInput):
            self.input.force_input = True

    def slots(self) -> list[Input]:
        made = []
        for name in self.names:
            slot = copy.copy(self.input)
            slot.id = name
            made.append(slot)
        return made

    def as_dict(self) -> dict[str, Any]:
        return {"input": input_table([self.input])}


MAX_SLOTS = 100


class TemplatePrefix(AutogrowTemplate):
    """Slots named by a prefix and a number from 0, between `min` and `max` of them."""

    def __init__(self, input: Input, prefix: str, min: int = 1, max: int = 10):
        super().__init__(input, min)
        if not 1 <= max <= MAX_SLOTS:
            raise ValueError(f"an Autogrow input takes 1 to {MAX_SLOTS} slots, got max={max}")
        self.prefix, self.max = prefix, max
        self.names = [f"{prefix}{i}" for i in range(max)]

    def as_dict(self) -> dict[str, Any]:
        return {**super().as_dict(), "prefix": self.prefix, "min": self.min, "max": self.max}


class TemplateNames(AutogrowTemplate):
    """Slots with given names, in their order."""

    def __init__(self, input: Input, names: list[str], min: int = 1):
        super().__init__(input, min)
        self.names = names[:MAX_SLOTS]

    def as_dict(self) -> dict[str, Any]:
        return {**super().as_dict(), "names": self.names, "min": self.min}


class AutogrowInput(DynamicInput):
    """A list of inputs that grows a slot as one connects; execute() gets {slot name: value}."""

    parameters = ("id", "template", "display_name", "optional", "tooltip", "lazy", "extra_dict")
    template: AutogrowTemplate

    def as_dict(self) -> dict[str, Any]:
        return {**super().as_dict(), "template": self.template.as_dict()}

    def get_all(self) -> list[Input]:
        return [self, *self.template.slots()]

    def validate(self) -> None:
        self.template.input.validate()


class Option:
    """One choice of a DynamicCombo and the inputs that it brings."""

    def __init__(self, key: str, inputs: list[Input]):
        self.key, self.inputs = key, inputs

    def as_dict(self) -> dict[str, Any]:
        return {"key": self.key, "inputs": input_table(self.inputs)}


class DynamicComboInput(DynamicInput):
    """A choice that brings its own inputs; execute() gets {id: choice, input: value, ...}."""

    parameters = ("id", "options", "display_name", "optional", "tooltip", "lazy", "extra_dict")
    options: list[Option]

    def as_dict(self) -> dict[str, Any]:
        return {**super().as_dict(), "options": [option.as_dict() for option in self.options]}

    def get_all(self) -> list[Input]:
        return [self, *(one for option in self.options for one in option.inputs)]

    def validate(self) -> None:
        for option in self.options:
            for one in option.inputs:
                one.validate()


class MultiTypeInput(Input):
    """An input of any of several types; with an Input for `id`, that one's widget is kept."""

    parameters = ("id", "types", "display_name", "optional", "tooltip", "lazy", *TAIL)
    types: list[Any]

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.widget: Input | None = None
        given: Any = self.id
        if isinstance(given, Input):
            self.widget = copy.copy(given)
            for name in ("optional", "tooltip", "display_name", "lazy"):
                setattr(self, name, getattr(self.widget, name) or getattr(self, name))
            self.id = self.widget.id
            if isinstance(self.widget, WidgetInput):
                self.widget.widget_type = self.widget.get_io_type()

    def get_io_type(self) -> str:
        names = [self.widget.get_io_type()] if self.widget is not None else []
        return ",".join(dict.fromkeys([*names, *(one.io_type for one in self.types)]))

    def as_dict(self) -> dict[str, Any]:
        options = super().as_dict()
        options.pop("types")
        if self.widget is None:
            return options
        widget_type = {"widgetType": self.widget.widget_type} if isinstance(self.widget, WidgetInput) else {}
        return pruned({**self.widget.as_dict(), **widget_type, **options})


class MatchTemplate:
    """Sockets with one template take one type, decided by the first connection."""

    def __init__(self, template_id: str, allowed_types: Any = AnyType):
        self.template_id = template_id
        self.allowed_types = list(allowed_types) if isinstance(allowed_types, Iterable) else [allowed_types]

    def as_dict(self) -> dict[str, str]:
        return {
            "template_id": self.template_id,
            "allowed_types": ",".join(t.io_type for t in self.allowed_types),
        }


class MatchTypeInput(Input):
    parameters = ("id", "template", "display_name", "optional", "tooltip", "lazy", *TAIL)
    template: MatchTemplate

    def as_dict(self) -> dict[str, Any]:
        return {**super().as_dict(), "template": self.template.as_dict()}


class MatchTypeOutput(Output):
    parameters = ("template", "id", "display_name", "tooltip", "is_output_list")
    template: MatchTemplate

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.display_name = self.display_name or "MATCHTYPE"


def _with(made: Any, **members: Any) -> Any:
    """Hang helper classes onto a type, where the host has them."""
    for name, member in members.items():
        setattr(made, name, member)
    return made


Autogrow: Any = _with(
    declare("Autogrow", "COMFY_AUTOGROW_V3", AutogrowInput),
    TemplatePrefix=TemplatePrefix,
    TemplateNames=TemplateNames,
)
DynamicCombo: Any = _with(declare("DynamicCombo", "COMFY_DYNAMICCOMBO_V3", DynamicComboInput), Option=Option)
MultiType: Any = declare("MultiType", "COMFY_MULTITYPED_V3", MultiTypeInput)
MatchType: Any = _with(
    declare("MatchType", "COMFY_MATCHTYPE_V3", MatchTypeInput, MatchTypeOutput), Template=MatchTemplate
)
__all__ = ["Autogrow", "ComfyType", "DynamicCombo", "DynamicInput", "MatchType", "MultiType", "input_table"]

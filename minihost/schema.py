"""A node's inputs as its description (/object_info) lists them, dynamic ones unfolded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .shims.api_dynamic import Autogrow, DynamicCombo

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
InputTable = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Spec:
    """One input: its full name ("units.unit0" within an Autogrow), its type, its options."""

    name: str
    io_type: str
    options: Mapping[str, Any]
    required: bool

    @property
    def is_widget(self) -> bool:
        """Whether the node itself holds a value for it."""
        if self.options.get("forceInput"):
            return False
        kind = self.options.get("widgetType", self.io_type)
        return kind in WIDGET_TYPES or kind == DynamicCombo.io_type or "socketless" in self.options

    @property
    def has_control(self) -> bool:
        """Whether a second widget follows, "control after generate", that is no input."""
        return bool(self.options.get("control_after_generate"))

    @property
    def choices(self) -> list[Any] | None:
        """The values that a combo takes; None for what is no combo."""
        if self.io_type == "COMBO":
            return list(self.options.get("options") or [])
        if self.io_type == DynamicCombo.io_type:
            return [option["key"] for option in self.options["options"]]
        return None

    @property
    def default(self) -> Any:
        """What a fresh node holds."""
        if "default" in self.options:
            return self.options["default"]
        if self.choices is not None:
            return self.choices[0] if self.choices else None
        return {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}.get(self.io_type)


def rows(table: InputTable, prefix: str = "") -> Iterator[Spec]:
    """The inputs of a table in the order of the node: required ones, then optional ones."""
    for group in ("required", "optional"):
        for name, (io_type, options) in table.get(group, {}).items():
            yield Spec(prefix + name, io_type, options, group == "required")


def unfold(spec: Spec, value: Any = None) -> list[Spec]:
    """The inputs that this one brings: an Autogrow's slots, those of a DynamicCombo's choice `value`."""
    if spec.io_type == Autogrow.io_type:
        template = spec.options["template"]
        names = template.get("names") or [f"{template['prefix']}{i}" for i in range(template["max"])]
        slot = next(rows(template["input"]))
        return [
            Spec(f"{spec.name}.{name}", slot.io_type, slot.options, slot.required and i < template["min"])
            for i, name in enumerate(names)
        ]
    if spec.io_type == DynamicCombo.io_type:
        for option in spec.options["options"]:
            if option["key"] == value:
                return list(rows(option["inputs"], f"{spec.name}."))
    return []


def all_inputs(table: InputTable, values: Mapping[str, Any], prefix: str = "") -> list[Spec]:
    """Every input that a node with these values has, unfolded; an Autogrow itself is none."""
    found: list[Spec] = []
    pending = list(rows(table, prefix))
    while pending:
        spec = pending.pop(0)
        if spec.io_type != Autogrow.io_type:
            found.append(spec)
        pending = unfold(spec, values.get(spec.name)) + pending
    return found


def nest(table: InputTable, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by full name as execute() takes them: an Autogrow's or a DynamicCombo's in one dict.

    As in the host, an input of a DynamicCombo's choice that is left out is None there.
    """
    nested: dict[str, Any] = {}

    def place(spec: Spec, into: dict[str, Any], chosen: bool = False) -> None:
        own = spec.name.rpartition(".")[2]
        if spec.io_type == Autogrow.io_type:
            inner = into.setdefault(own, {})
        elif spec.io_type == DynamicCombo.io_type and spec.name in values:
            inner = into.setdefault(own, {own: values[spec.name]})
        else:
            if chosen or spec.name in values:
                into[own] = values.get(spec.name)
            return
        for part in unfold(spec, values.get(spec.name)):
            place(part, inner, spec.io_type == DynamicCombo.io_type)

    for spec in rows(table):
        place(spec, nested)
    return nested

"""`comfy_api.latest.io`, part 3: what a node is (Schema, ComfyNode) and what it gives back (NodeOutput)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from .api_dynamic import DynamicInput, MatchTypeOutput, input_table
from .api_io import Input, Output


class Hidden(str, Enum):
    """What a node may ask to know of its run."""

    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"
    dynprompt = "DYNPROMPT"


class HiddenHolder:
    """The hidden values of one run, by attribute; None where the node asked for none."""

    def __init__(self, values: dict[str, Any] | None = None):
        self.__dict__.update(values or {})

    def __getattr__(self, name: str) -> None:
        return None


@dataclass
class Schema:
    """The description of a node: its names, sockets and flags."""

    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: list[Input] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    hidden: list[Hidden] = field(default_factory=list)
    description: str = ""
    search_aliases: list[str] = field(default_factory=list)
    is_input_list: bool = False
    is_output_node: bool = False
    is_deprecated: bool = False
    is_experimental: bool = False
    is_dev_only: bool = False
    is_api_node: bool = False
    price_badge: Any = None
    not_idempotent: bool = False
    enable_expand: bool = False
    accept_all_inputs: bool = False
    essentials_category: str | None = None
    has_intermediate_output: bool = False

    def validate(self) -> None:
        """Raise ValueError when two inputs or two outputs share an id."""
        plain = [one.id for one in self.inputs if not isinstance(one, DynamicInput)]
        for what, ids in (("input", plain), ("output", [out.id for out in self.outputs])):
            twice = [name for name, count in Counter(ids).items() if count > 1]
            if twice:
                raise ValueError(f"node {self.node_id}: {what} ids must be unique, but {twice} are not")
        for one in self.inputs:
            one.validate()
        for output in self.outputs:
            output.validate()

    def finalize(self) -> None:
        """Fill in what follows from the rest: an output node sees the prompt, each output has an id."""
        self.inputs, self.outputs = self.inputs or [], self.outputs or []
        self.hidden = list(self.hidden or [])
        if self.is_output_node:
            wanted = (Hidden.prompt, Hidden.extra_pnginfo)
            self.hidden += [hidden for hidden in wanted if hidden not in self.hidden]
        for number, output in enumerate(self.outputs):
            output.id = output.id or f"_{number}_{output.io_type}_"

    def input_types(self) -> dict[str, dict[str, Any]]:
        """The inputs as /object_info lists them, hidden ones included."""
        table = input_table(self.inputs)
        for hidden in self.hidden:
            table.setdefault("hidden", {})[hidden.name] = (hidden.value,)
        return table

    def node_info(self, module: str) -> dict[str, Any]:
        """The node's entry in /object_info."""
        inputs = self.input_types()
        matching = [o.template.template_id if isinstance(o, MatchTypeOutput) else None for o in self.outputs]
        return {
            "input": inputs,
            "input_order": {group: list(members) for group, members in inputs.items()},
            "is_input_list": self.is_input_list,
            "output": [out.io_type for out in self.outputs],
            "output_is_list": [out.is_output_list for out in self.outputs],
            "output_name": [out.display_name or out.io_type for out in self.outputs],
            "output_tooltips": [out.tooltip or None for out in self.outputs],
            "output_matchtypes": matching if any(matching) else None,
            "name": self.node_id,
            "display_name": self.display_name,
            "description": self.description,
            "python_module": module,
            "category": self.category,
            "output_node": self.is_output_node,
            "deprecated": self.is_deprecated,
            "experimental": self.is_experimental,
            "dev_only": self.is_dev_only,
            "api_node": self.is_api_node,
            "price_badge": None,
            "search_aliases": self.search_aliases or None,
            "essentials_category": self.essentials_category,
            "has_intermediate_output": self.has_intermediate_output,
        }


class ComfyNode:
    """Base of all nodes: a class that describes itself and executes; it has no instances."""

    RELATIVE_PYTHON_MODULE: str | None = None
    SCHEMA: Schema | None = None
    hidden: HiddenHolder = HiddenHolder()

    @classmethod
    def define_schema(cls) -> Schema:
        """Describe the node."""
        raise NotImplementedError(f"node class {cls.__name__} has no define_schema")

    @classmethod
    def execute(cls, **kwargs: Any) -> Any:
        """Do the node's work; inputs come by name."""
        raise NotImplementedError(f"node class {cls.__name__} has no execute")

    @classmethod
    def validate_inputs(cls, **kwargs: Any) -> bool | str:
        """True, or what is wrong with the values, before anything runs. Checked only where overridden."""
        raise NotImplementedError

    @classmethod
    def fingerprint_inputs(cls, **kwargs: Any) -> Any:
        """A value that changes when the same inputs mean something new. Asked only where overridden."""
        raise NotImplementedError

    @classmethod
    def FINALIZE_SCHEMA(cls) -> Schema:
        """The description as it is now: lists of files are read anew."""
        schema = cls.define_schema()
        schema.finalize()
        return schema

    @classmethod
    def GET_SCHEMA(cls) -> Schema:
        """The checked description, remembered as SCHEMA."""
        schema = cls.FINALIZE_SCHEMA()
        schema.validate()
        cls.SCHEMA = schema
        return schema

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Any]]:
        return cls.FINALIZE_SCHEMA().input_types()

    @classmethod
    def GET_NODE_INFO_V1(cls) -> dict[str, Any]:
        """The node's entry in /object_info."""
        return cls.GET_SCHEMA().node_info(cls.RELATIVE_PYTHON_MODULE or "nodes")


class NodeOutput:
    """What execute() returns: one value per output, and what the interface shows (`ui`)."""

    def __init__(
        self, *args: Any, ui: Any = None, expand: dict | None = None, block_execution: str | None = None
    ):
        self.args = args
        self.ui = ui
        self.expand = expand
        self.block_execution = block_execution

    @property
    def result(self) -> tuple | None:
        return self.args or None

    def __getitem__(self, index: int) -> Any:
        return self.args[index]

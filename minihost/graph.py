"""Running a checked workflow: nodes in order, each once for the same inputs, results remembered."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from .errors import NodeError
from .loader import Nodes
from .schema import all_inputs, nest
from .shims import model_management
from .shims.api_node import ComfyNode, Hidden, HiddenHolder, NodeOutput
from .shims.execution import ExecutionBlocker
from .validate import call, is_link, label, overridden, validate
from .workflow import Prompt

Slots = list[list[Any]]


@dataclass
class Result:
    """What a run gave: what output nodes show, by node id; which nodes ran, in order; and of those that
    another node kept from running the first ones, with the reason."""

    ui: dict[str, dict[str, Any]] = field(default_factory=dict)
    executed: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)


@dataclass
class Done:
    """A node's outputs, each a list of values, and what it shows."""

    slots: Slots
    ui: dict[str, Any] | None
    # Why it did not run, where that was said.
    blocked: list[str] = field(default_factory=list)


class Executor:
    """Runs workflows of these nodes. A node whose inputs are as in the last run is not run again."""

    def __init__(self, nodes: Nodes, on_node: Callable[[str], None] = lambda label: None):
        self.nodes = nodes
        self.on_node = on_node
        self.cache: dict[int, Done] = {}
        # Numbers that stand for keys: a key that held those of its inputs would double from node to node.
        self.numbers: dict[Any, int] = {}
        self.count = itertools.count()

    def run(self, prompt: Prompt, workflow: Mapping[str, Any] | None = None) -> Result:
        """Check and run an API-format workflow; `workflow`: its UI format, to be embedded in pictures.

        Raises WorkflowError before anything runs, NodeError when a node fails, InterruptProcessingException
        when cancelled. What was finished by then is remembered.
        """
        prompt = {
            node_id: {**node, "inputs": dict(node.get("inputs") or {})} for node_id, node in prompt.items()
        }
        order = validate(prompt, self.nodes)
        result = Result()
        keys: dict[str, int] = {}
        done: dict[str, Done] = {}
        with torch.inference_mode():
            for node_id in order:
                whole = self._key(prompt, node_id, keys)
                keys[node_id] = key = self.numbers.setdefault(whole, next(self.count))
                if key not in self.cache:
                    model_management.throw_exception_if_processing_interrupted()
                    self.on_node(label(prompt, node_id))
                    self.cache[key] = self._execute(prompt, node_id, done, workflow)
                    result.executed.append(node_id)
                done[node_id] = self.cache[key]
                result.blocked += done[node_id].blocked
                if done[node_id].ui is not None:
                    result.ui[node_id] = done[node_id].ui or {}
        used = set(keys.values())
        self.cache = {key: kept for key, kept in self.cache.items() if key in used}
        self.numbers = {whole: key for whole, key in self.numbers.items() if key in used}
        return result

    def _key(self, prompt: Prompt, node_id: str, keys: Mapping[str, int]) -> Any:
        """Equal for nodes that give the same: type, values, origins of links, and the fingerprint."""
        node = self.nodes[prompt[node_id]["class_type"]]
        schema = node.GET_SCHEMA()
        parts = []
        for key, value in sorted(prompt[node_id]["inputs"].items()):
            parts.append((key, (keys[str(value[0])], value[1]) if is_link(value) else json.dumps(value)))
        own = node_id if schema.not_idempotent or Hidden.unique_id in schema.hidden else None
        return (schema.node_id, own, tuple(parts), self._fingerprint(prompt, node_id, node))

    def _fingerprint(self, prompt: Prompt, node_id: str, node: type[ComfyNode]) -> Any:
        if not overridden(node, "fingerprint_inputs"):
            return None
        values = {k: None if is_link(v) else v for k, v in prompt[node_id]["inputs"].items()}
        try:
            found = call(node.fingerprint_inputs, **nest(node.INPUT_TYPES(), values))
        except Exception as error:
            raise self._failed(prompt, node_id, error) from error
        if isinstance(found, float) and found != found:
            return object()  # not a number equals nothing, itself included: such a node runs each time
        return repr(found)

    def _execute(
        self, prompt: Prompt, node_id: str, done: Mapping[str, Done], workflow: Mapping[str, Any] | None
    ) -> Done:
        node = self.nodes[prompt[node_id]["class_type"]]
        hidden = {
            "unique_id": node_id,
            "prompt": prompt,
            "extra_pnginfo": {"workflow": workflow} if workflow is not None else None,
            "dynprompt": None,
        }
        schema = node.GET_SCHEMA()
        asked = {one.name: hidden[one.name] for one in schema.hidden}
        ready = locked(node, HiddenHolder(asked))
        table = node.INPUT_TYPES()
        inputs = prompt[node_id]["inputs"]
        values: dict[str, list[Any]] = {}
        for spec in all_inputs(table, inputs):
            if spec.name in inputs:
                value = inputs[spec.name]
                values[spec.name] = done[str(value[0])].slots[value[1]] if is_link(value) else [value]
        outputs, blocked = [], []
        try:
            for given in calls(values, schema.is_input_list):
                if (blocker := blocker_in(given, schema.is_input_list)) is None:
                    outputs.append(as_output(call(ready.execute, **nest(table, given)), schema))
                    continue
                if blocker.message is not None:
                    blocked.append(f"{label(prompt, node_id)}: Execution Blocked: {blocker.message}")
                # The nodes behind do not run either, and need not say it again.
                outputs.append(NodeOutput(*(silent(one) for one in schema.outputs)))
        except Exception as error:
            raise self._failed(prompt, node_id, error) from error
        return collect(outputs, schema, blocked)

    def _failed(self, prompt: Prompt, node_id: str, error: Exception) -> NodeError:
        return NodeError(f"{label(prompt, node_id)}: {type(error).__name__}: {error}")


class Locked(type):
    """A class whose attributes cannot be set: nodes keep no state between runs."""

    def __setattr__(cls, name: str, value: Any) -> None:
        raise AttributeError(f"a node class cannot be changed while it runs (setting {cls.__name__}.{name})")


def locked(node: type[ComfyNode], hidden: HiddenHolder) -> type[ComfyNode]:
    """The class as it executes: with this run's hidden values, and not to be changed."""
    return Locked(node.__name__, (node,), {"hidden": hidden})  # type: ignore[return-value]


def calls(values: dict[str, list[Any]], as_lists: bool) -> list[dict[str, Any]]:
    """The calls that inputs ask for: one with all lists, or one per item, the last of a short list again."""
    if as_lists or not values:
        return [dict(values)]
    count = max(len(one) for one in values.values())
    return [{key: one[min(i, len(one) - 1)] for key, one in values.items()} for i in range(count)]


def blocker_in(given: Mapping[str, Any], as_lists: bool) -> ExecutionBlocker | None:
    """The first value of a call that keeps it from running."""
    values = [one for items in given.values() for one in items] if as_lists else given.values()
    return next((one for one in values if isinstance(one, ExecutionBlocker)), None)


def silent(output: Any) -> Any:
    """What an output of a node holds that did not run."""
    return [ExecutionBlocker(None)] if output.is_output_list else ExecutionBlocker(None)


def as_output(returned: Any, schema: Any) -> NodeOutput:
    """What execute() may return: a NodeOutput, a tuple of outputs, or nothing."""
    if returned is None:
        returned = NodeOutput()
    elif isinstance(returned, tuple):
        returned = NodeOutput(*returned)
    if not isinstance(returned, NodeOutput):
        raise TypeError(f"execute() returned {type(returned).__name__}; it returns io.NodeOutput")
    if returned.expand is not None or returned.block_execution is not None:
        raise TypeError("minihost runs no nodes that expand into graphs or block execution")
    if returned.args and len(returned.args) != len(schema.outputs):
        raise TypeError(f"execute() returned {len(returned.args)} values for {len(schema.outputs)} outputs")
    return returned


def collect(outputs: list[NodeOutput], schema: Any, blocked: list[str]) -> Done:
    """The values of all calls by output, and what they show, joined."""
    slots: Slots = [[] for _ in schema.outputs]
    shown: dict[str, list[Any]] = {}
    has_ui = False
    for output in outputs:
        for slot, value, described in zip(slots, output.args, schema.outputs, strict=False):
            slot.extend(value if described.is_output_list else [value])
        if output.ui is not None:
            has_ui = True
            for key, items in (output.ui if isinstance(output.ui, dict) else output.ui.as_dict()).items():
                shown.setdefault(key, []).extend(items)
    return Done(slots, shown if has_ui else None, blocked)

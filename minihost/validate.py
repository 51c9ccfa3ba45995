"""Checking a whole workflow before any of it runs. Every problem names its node and input."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from typing import Any

from .errors import WorkflowError
from .loader import Nodes
from .schema import Spec, all_inputs, nest
from .shims.api_node import ComfyNode
from .workflow import Prompt, unknown_type

CONVERT = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}
MANY = 20


def is_link(value: Any) -> bool:
    """Whether a checked input is a link, [node id, output number], and no value that is a list."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and type(value[1]) is int


def label(prompt: Prompt, node_id: str) -> str:
    """How messages call a node: its number, its title, its type."""
    node = prompt[node_id]
    kind = node.get("class_type")
    title = (node.get("_meta") or {}).get("title")
    return f"node {node_id} {f'{title!r} ' if title and title != kind else ''}({kind})"


def overridden(node: type[ComfyNode], method: str) -> bool:
    """Whether a node class has its own version of an optional method."""
    return getattr(node, method).__func__ is not getattr(ComfyNode, method).__func__


def call(method: Any, /, **values: Any) -> Any:
    """Call a node's method, which may be a coroutine."""
    result = method(**values)
    return asyncio.run(result) if inspect.iscoroutine(result) else result


def types_fit(given: str, wanted: str) -> bool:
    """Whether an output of one type may go into an input of another; "*" fits all, "A,B" is either."""
    first, second = ({one.strip() for one in kind.split(",")} for kind in (given, wanted))
    return bool(first & second) or "*" in first | second or "COMFY_MATCHTYPE_V3" in first | second


def output_nodes(prompt: Prompt, nodes: Nodes) -> list[str]:
    """Ids of the nodes that a run is for, in the prompt's order."""
    return [
        node_id for node_id, node in prompt.items() if nodes[node["class_type"]].GET_SCHEMA().is_output_node
    ]


def links(prompt: Prompt, node_id: str) -> dict[str, list]:
    """A node's linked inputs: before they are checked every list is meant as a link."""
    return {key: value for key, value in prompt[node_id].get("inputs", {}).items() if isinstance(value, list)}


def execution_order(prompt: Prompt, outputs: list[str]) -> list[str]:
    """The nodes that the outputs need, each after its sources. WorkflowError names the nodes of a cycle."""
    order: list[str] = []
    path: list[str] = []

    def visit(node_id: str) -> None:
        if node_id in order:
            return
        if node_id in path:
            circle = [*path[path.index(node_id) :], node_id]
            named = " -> ".join(label(prompt, one) for one in circle)
            raise WorkflowError(f"{label(prompt, node_id)}: its inputs depend on its own output ({named})")
        path.append(node_id)
        for value in links(prompt, node_id).values():
            if value and str(value[0]) in prompt:
                visit(str(value[0]))
        path.pop()
        order.append(node_id)

    for node_id in outputs:
        visit(node_id)
    return order


def validate(prompt: Prompt, nodes: Nodes) -> list[str]:
    """Check everything that the outputs need; give the execution order. Values get their input's type.

    Raises WorkflowError with one line per problem, all at once.
    """
    unknown = [
        unknown_type(label(prompt, node_id), str(node.get("class_type")), nodes)
        for node_id, node in prompt.items()
        if node.get("class_type") not in nodes
    ]
    if unknown:
        raise WorkflowError(unknown)
    outputs = output_nodes(prompt, nodes)
    if not outputs:
        raise WorkflowError(
            "the workflow has no output; add a node that shows or saves something, such as Save Image"
        )
    order = execution_order(prompt, outputs)
    problems = [problem for node_id in order for problem in check_node(prompt, node_id, nodes)]
    if problems:
        raise WorkflowError(problems)
    return order


def check_node(prompt: Prompt, node_id: str, nodes: Nodes) -> list[str]:
    """What is wrong with one node's inputs."""
    node = nodes[prompt[node_id]["class_type"]]
    inputs = prompt[node_id].setdefault("inputs", {})
    where = label(prompt, node_id)
    table = node.INPUT_TYPES()
    own_check = (
        inspect.signature(node.validate_inputs).parameters if overridden(node, "validate_inputs") else {}
    )
    takes_all = any(p.kind is p.VAR_KEYWORD for p in own_check.values())
    problems, received = [], {}
    for spec in all_inputs(table, inputs):
        at = f"{where}, input '{spec.name}'"
        if spec.name not in inputs:
            if spec.required:
                problems.append(
                    f"{at}: missing; connect a {spec.io_type}"
                    + (" or give a value" if spec.is_widget else "")
                )
            continue
        value = inputs[spec.name]
        if isinstance(value, list):
            problem, received[spec.name] = check_link(prompt, value, spec, nodes, "input_types" in own_check)
            inputs[spec.name] = [str(value[0]), *value[1:]] if value else value
        else:
            if isinstance(value, dict) and "__value__" in value:
                value = inputs[spec.name] = value["__value__"]
            checked_by_node = takes_all or spec.name in own_check
            problem, inputs[spec.name] = check_value(value, spec, checked_by_node)
        if problem:
            problems.append(f"{at}: {problem}")
    if own_check and not problems:
        problem = own_validation(node, table, inputs, own_check, takes_all, received)
        if problem:
            problems.append(f"{where}: {problem}")
    return problems


def check_link(
    prompt: Prompt, link: list, spec: Spec, nodes: Nodes, types_checked: bool
) -> tuple[str | None, str]:
    """What is wrong with a link, and the type that it brings."""
    if len(link) != 2 or not isinstance(link[1], int) or isinstance(link[1], bool):
        return f"{link} is no link; a link is [node id, output number]", "*"
    origin, slot = str(link[0]), link[1]
    if origin not in prompt:
        return f"linked to node {origin}, which is not in the workflow", "*"
    outputs = nodes[prompt[origin]["class_type"]].GET_SCHEMA().outputs
    if not 0 <= slot < len(outputs):
        return f"linked to output {slot} of {label(prompt, origin)}, which has {len(outputs)}", "*"
    given = outputs[slot].io_type
    if not types_checked and not types_fit(given, spec.io_type):
        return f"needs {spec.io_type}, but {label(prompt, origin)} gives {given} there", given
    return None, given


def check_value(value: Any, spec: Spec, checked_by_node: bool) -> tuple[str | None, Any]:
    """What is wrong with a value, and the value in its input's type."""
    try:
        value = CONVERT.get(spec.io_type, lambda same: same)(value)
    except (TypeError, ValueError, OverflowError):
        return f"{value!r} is no {spec.io_type}", value
    if not spec.is_widget and spec.choices is None and spec.io_type not in CONVERT:
        return f"{value!r} was given, but a {spec.io_type} must come over a link", value
    if checked_by_node:
        return None, value
    low, high = spec.options.get("min"), spec.options.get("max")
    if low is not None and value < low:
        return f"{value} is below the least value {low}", value
    if high is not None and value > high:
        return f"{value} is above the greatest value {high}", value
    if spec.choices is not None:
        several = isinstance(value, list) and spec.options.get("multiselect")
        wrong = [one for one in (value if several else [value]) if one not in spec.choices]
        if wrong:
            listed = (
                f"one of {spec.choices}"
                if len(spec.choices) <= MANY
                else f"one of {len(spec.choices)} values"
            )
            return (
                f"{wrong[0]!r} is not {listed}"
                if spec.choices
                else f"{wrong[0]!r}: there is nothing to choose from",
                value,
            )
    return None, value


def own_validation(
    node: type[ComfyNode],
    table: Mapping[str, Any],
    inputs: Mapping[str, Any],
    wanted: Mapping[str, Any],
    takes_all: bool,
    received: dict[str, str],
) -> str | None:
    """What the node's own validate_inputs has against its values; linked inputs come as None."""
    values = nest(table, {key: None if is_link(value) else value for key, value in inputs.items()})
    given = {key: value for key, value in values.items() if takes_all or key in wanted}
    if "input_types" in wanted:
        given["input_types"] = received
    try:
        verdict = call(node.validate_inputs, **given)
    except Exception as error:  # Nodes are not ready for every value that a file may hold.
        return f"its inputs cannot be checked: {type(error).__name__}: {error}"
    if verdict is True:
        return None
    return verdict if isinstance(verdict, str) else f"its inputs {', '.join(given)} do not go together"

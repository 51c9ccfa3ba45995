"""Workflow files: reading them, and turning what the editor saves (UI format) into what runs (API format).

UI format: nodes with positions, sockets, and widget values in the order of the widgets; links by number.
API format ("prompt"): {node id: {"class_type", "_meta", "inputs": {name: value, or [node id, output]}}}.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from .errors import WorkflowError
from .schema import Spec, rows, unfold
from .shims.api_dynamic import Autogrow

Prompt = dict[str, dict[str, Any]]
MUTED, BYPASSED = 2, 4
NOTES = {"Note", "MarkdownNote"}
VIRTUAL = NOTES | {"Reroute", "PrimitiveNode"}
Kinds = type | tuple[type, ...]
ID = (int, str)
# The fields of a link that are read, in the order of the list that stands for it.
LINK: dict[str, Kinds] = {"id": ID, "origin_id": ID, "origin_slot": int}
COMMENTS = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
# Editors save less than ten levels; what reads a file recurses.
DEPTH = 100


def read_workflow(path: Path | str) -> dict[str, Any]:
    """The workflow in a JSON file, or the one that a host has put into a PNG picture.

    Raises WorkflowError for a file that cannot be read, and for nodes or links of a wrong shape.
    """
    path = Path(path)
    if path.suffix.lower() in (".webp", ".jpg", ".jpeg"):
        raise WorkflowError(f"{path}: of pictures only PNG is read; save the workflow as JSON instead")
    try:
        if path.suffix.lower() != ".png":
            # As bytes: shells of Windows write UTF-16, which JSON's reader tells from UTF-8.
            return _parsed(path, path.read_bytes())
        texts = _embedded(path)
    except FileNotFoundError:
        raise WorkflowError(f"there is no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise WorkflowError(f"cannot read {path}: {error}") from None
    found = _parsed(path, texts[0])
    # What the host has run holds what is in the subgraphs.
    return _parsed(path, texts[1]) if is_ui(found) and subgraphs(found) and len(texts) > 1 else found


def _parsed(path: Path, text: str | bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except RecursionError:
        raise WorkflowError(f"{path} is no workflow: it is nested too deeply") from None
    except ValueError as error:
        raise WorkflowError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict) or not (is_ui(found) or is_prompt(found)):
        raise WorkflowError(
            f"{path} is no workflow: neither in UI format (nodes, links) nor in API format (class_type)"
        )
    if deeper(found, DEPTH):
        raise WorkflowError(f"{path} is no workflow: it is nested more than {DEPTH} levels deep")
    if problems := list(misshapen(found)):
        mend = "save it again from the editor, or mend the file by hand"
        raise WorkflowError([f"{path}, {problem}; {mend}" for problem in problems])
    return found


def _embedded(path: Path) -> list[str]:
    """The texts of a picture that hold its workflow: in UI format, in API format, or both in this order."""
    try:
        with Image.open(path) as picture:
            text = getattr(picture, "text", {})
    except UnidentifiedImageError:
        raise WorkflowError(f"{path} is no PNG picture") from None
    except (Image.DecompressionBombError, ValueError, SyntaxError) as error:
        raise WorkflowError(
            f"cannot read the text in {path}: {error}; save the workflow as JSON instead"
        ) from None
    if texts := [text[key] for key in ("workflow", "prompt") if key in text]:
        return texts
    raise WorkflowError(
        f"{path} holds no workflow; pictures that a host saved do, unless the text was stripped"
    )


def is_ui(workflow: Mapping[str, Any]) -> bool:
    return isinstance(workflow.get("nodes"), list)


def is_prompt(workflow: Mapping[str, Any]) -> bool:
    return bool(workflow) and all(isinstance(n, dict) and "class_type" in n for n in workflow.values())


def deeper(value: Any, limit: int) -> bool:
    """Whether lists and objects are nested more than `limit` levels deep."""
    level = [value]
    for _ in range(limit + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(level)


def misshapen(workflow: Mapping[str, Any]) -> Iterator[str]:
    """What in a workflow has not the shape of its format, each with its node or link."""
    if not is_ui(workflow):
        for node_id, node in workflow.items():
            yield from _wrong(f"node {node_id}", node, {"class_type": str}, {"inputs": dict, "_meta": dict})
        return
    for place, node in enumerate(workflow["nodes"], 1):
        known = isinstance(node, dict) and "id" in node
        where = f"node {node['id']}" if known else f"node number {place}"
        may: dict[str, Kinds] = {
            "inputs": list,
            "outputs": list,
            "widgets_values": (list, dict),
            "order": (int, float),
        }
        if known and node.get("type") == "PrimitiveNode":
            may["widgets_values"] = list
        yield from _wrong(where, node, {"id": ID, "type": str}, may)
        for socket in _listed(node, "inputs"):
            yield from _wrong(f"{where}, one of its inputs", socket, {"name": str}, {"link": ID})
        for socket in _listed(node, "outputs"):
            yield from _wrong(f"{where}, one of its outputs", socket, {}, {})
    yield from _wrong("workflow", workflow, {}, {"links": list, "definitions": dict})
    for place, link in enumerate(_listed(workflow, "links"), 1):
        named = dict(zip(LINK, link, strict=False)) if isinstance(link, list) else link
        yield from _wrong(f"link number {place}", named, LINK, {})
    definitions = workflow.get("definitions")
    if isinstance(definitions, dict):
        yield from _wrong("definitions", definitions, {}, {"subgraphs": list})
    for place, one in enumerate(_listed(definitions, "subgraphs"), 1):
        yield from _wrong(f"subgraph number {place}", one, {"id": ID}, {})


def _listed(holder: Any, field: str) -> list[Any]:
    """A field that is a list; else none of it."""
    found = holder.get(field) if isinstance(holder, dict) else None
    return found if isinstance(found, list) else []


def _wrong(where: str, found: Any, must: Mapping[str, Kinds], may: Mapping[str, Kinds]) -> Iterator[str]:
    """What is wrong with an object that must have some fields of these kinds, and may have others."""
    if not isinstance(found, dict):
        yield f"{where}: it is {shown(found)}, no object"
        return
    for field, kinds in {**may, **must}.items():
        value = found.get(field)
        if value is None and field not in must:
            continue
        if value is None:
            yield f"{where}: it has no '{field}'"
        elif not isinstance(value, kinds) or isinstance(value, bool):
            yield f"{where}: its '{field}' is {shown(value)}"


def shown(value: Any) -> str:
    """A value as its file has it, cut."""
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def subgraphs(workflow: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The nodes of a UI-format workflow that stand for graphs of their own, and would run."""
    known = {one["id"] for one in (workflow.get("definitions") or {}).get("subgraphs") or []}
    return [
        node
        for node in workflow["nodes"]
        if node["type"] in known and node.get("mode") not in (MUTED, BYPASSED)
    ]


class Editor:
    """A UI-format workflow with its nodes and links by number."""

    def __init__(self, workflow: Mapping[str, Any]):
        self.nodes: dict[Any, dict[str, Any]] = {node["id"]: node for node in workflow["nodes"]}
        self.links: dict[Any, tuple[Any, int]] = {}
        for link in workflow.get("links") or []:
            if isinstance(link, dict):
                self.links[link["id"]] = (link["origin_id"], link["origin_slot"])
            else:
                self.links[link[0]] = (link[1], link[2])
        if inside := subgraphs(workflow):
            named = ", ".join(name(node) for node in inside)
            raise WorkflowError(
                f"minihost does not run subgraphs: unpack {named} in the editor and save again"
            )

    def source(self, link_id: Any, seen: tuple = ()) -> tuple[str, Any] | None:
        """What a link brings: ("link", [node id, output]), ("value", v) of a primitive, or None if it ends.

        Reroutes are followed, muted nodes end the link, bypassed nodes hand on the input that matches.
        """
        if link_id not in self.links:
            return None
        node_id, slot = self.links[link_id]
        node = self.nodes.get(node_id)
        if node is None or node.get("mode") == MUTED:
            return None
        if (node_id, slot) in seen:
            raise WorkflowError(f"{name(node)} is linked in a circle of reroutes or bypassed nodes")
        seen = (*seen, (node_id, slot))
        inputs = node.get("inputs") or []
        if node["type"] == "PrimitiveNode":
            return ("value", values[0]) if (values := node.get("widgets_values")) else None
        if node["type"] == "Reroute":
            return self.source(inputs[0].get("link"), seen) if inputs else None
        if node.get("mode") == BYPASSED:
            passed = self._bypass(node, slot)
            return self.source(passed.get("link"), seen) if passed is not None else None
        return "link", [str(node_id), slot]

    @staticmethod
    def _bypass(node: dict[str, Any], slot: int) -> dict[str, Any] | None:
        """The input that stands in for a bypassed node's output: the one beside it, or the first to fit."""
        inputs, outputs = node.get("inputs") or [], node.get("outputs") or []
        if not 0 <= slot < len(outputs):
            raise WorkflowError(f"{name(node)} is linked by output {slot}, but has {len(outputs)} outputs")
        wanted = outputs[slot].get("type")
        beside = inputs[slot : slot + 1]
        for test in (lambda kind: kind == wanted, lambda kind: kind == "*" or wanted == "*"):
            for one in (*beside, *inputs):
                if test(one.get("type")):
                    return one
        return None


def name(node: Mapping[str, Any]) -> str:
    """How errors call a node of a UI-format workflow."""
    title = node.get("title")
    return f"node {node['id']} {f'{title!r} ' if title and title != node['type'] else ''}({node['type']})"


def widgets(table: Mapping[str, Any], values: list[Any]) -> Iterator[tuple[Spec, Any]]:
    """Each widget of a node with its value, from the list of values in the order of the widgets.

    A combo that brings inputs of its own is followed by theirs; "control after generate" and the upload
    button hold places in the list but are no inputs. Where the list ends early the default stands.
    """
    pending, place = list(rows(table)), 0
    while pending:
        spec = pending.pop(0)
        if spec.io_type == Autogrow.io_type:
            continue
        value = None
        if spec.is_widget:
            value = values[place] if place < len(values) else spec.default
            place += 2 if spec.has_control else 1
            yield spec, value
        pending = unfold(spec, value) + pending
        uploads = any(key.endswith("_upload") for key in spec.options)
        place += 1 if uploads and not any(other.required for other in pending) else 0


def to_prompt(workflow: Mapping[str, Any], info: Mapping[str, Any]) -> Prompt:
    """The API format of a workflow in either format; `info`: the nodes' descriptions as of /object_info.

    Raises WorkflowError naming every node whose type is unknown: its widgets cannot be told apart.
    """
    if is_prompt(workflow):
        return {str(node_id): dict(node) for node_id, node in workflow.items()}
    editor = Editor(workflow)
    running = [
        node
        for node in editor.nodes.values()
        if node["type"] not in VIRTUAL and node.get("mode") not in (MUTED, BYPASSED)
    ]
    unknown = [unknown_type(name(node), node["type"], info) for node in running if node["type"] not in info]
    if unknown:
        raise WorkflowError(unknown)
    order = sorted(running, key=lambda node: node.get("order") or 0)
    prompt = {str(node["id"]): _convert(node, editor, info[node["type"]]) for node in order}
    for made in prompt.values():
        if made["class_type"] == "SaveImage" and isinstance(made["inputs"].get("filename_prefix"), str):
            made["inputs"]["filename_prefix"] = _filled(made["inputs"]["filename_prefix"], running, prompt)
    return prompt


def _filled(prefix: str, nodes: Sequence[Mapping[str, Any]], prompt: Prompt) -> str:
    """A prefix of file names as the editor queues it: with %date:yyyy-MM-dd% and %Node.widget% filled in.

    A node is called by its name for search and replace, else by its title. What is unknown stays.
    """

    def value(match: re.Match[str]) -> str:
        node_name, dot, widget = match[1].partition(".")
        if match[1].startswith("date:"):
            return _date(match[1].removeprefix("date:"))
        for name_of in (
            lambda node: (node.get("properties") or {}).get("Node name for S&R"),
            lambda node: node.get("title"),
        ):
            for node in nodes:
                inputs = prompt[str(node["id"])]["inputs"]
                if dot and name_of(node) == node_name and not isinstance(inputs.get(widget, []), list | dict):
                    return re.sub(r'[/?<>\\:*|"\x00-\x1f\x7f]', "_", str(inputs[widget]))
        return match[0]

    return re.sub(r"%([^%]+)%", value, prefix)


def _date(pattern: str) -> str:
    """Now, by a pattern of yyyy or yy, M, d, h, m and s; MM and so on have two digits."""
    now = time.localtime()
    parts = {"d": now.tm_mday, "M": now.tm_mon, "h": now.tm_hour, "m": now.tm_min, "s": now.tm_sec}

    def value(match: re.Match[str]) -> str:
        found = match[0]
        if found[0] == "y":
            return {2: f"{now.tm_year % 100:02}", 4: str(now.tm_year)}.get(len(found), found)
        return str(parts[found[0]]).rjust(len(found), "0")

    return re.sub(r"dd?|MM?|hh?|mm?|ss?|yyy?y?", value, pattern)


def _queued(spec: Spec, value: Any) -> Any:
    """A widget's value as the editor hands it to the host."""
    if isinstance(value, list):
        return {"__value__": value}
    return chosen(value) if isinstance(value, str) and spec.options.get("dynamicPrompts") else value


def chosen(text: str) -> str:
    """A prompt as the editor queues it: without comments, with one {of|several} choices, drawn by chance."""
    # The options so far of each brace that is open; what is outside of all of them is one option.
    opened = [[""]]
    for part in re.split(r"(\\.|[{}|])", COMMENTS.sub("", text), flags=re.DOTALL):
        if part == "{":
            opened.append([""])
        elif part == "|" and len(opened) > 1:
            opened[-1].append("")
        elif part == "}" and len(opened) > 1:
            options = opened.pop()
            opened[-1][-1] += random.choice(options)
        else:
            opened[-1][-1] += part
    while len(opened) > 1:
        options = opened.pop()
        opened[-1][-1] += random.choice(options)
    return re.sub(r"\\([{}|])", r"\1", opened[0][0])


def unknown_type(where: str, node_type: str, info: Mapping[str, Any]) -> str:
    """The message for a node type that minihost has not."""
    if node_type.startswith(("workflow>", "workflow/")):
        return f"{where}: minihost does not run group nodes: ungroup it in the editor and save again"
    same = [known for known in info if known.lower() == node_type.lower()]
    hint = (
        f"did you mean {same[0]}?"
        if same
        else "minihost runs the pack's nodes and "
        + ", ".join(known for known in info if not known.startswith("CNet"))
    )
    return f"{where}: unknown node type '{node_type}'; {hint}"


def _convert(node: Mapping[str, Any], editor: Editor, info: Mapping[str, Any]) -> dict[str, Any]:
    saved = node.get("widgets_values") or []
    table = info["input"]
    if isinstance(saved, dict):
        found = [(spec, saved.get(spec.name, spec.default)) for spec, _ in widgets(table, [])]
    else:
        found = list(widgets(table, saved))
    inputs = {spec.name: _queued(spec, value) for spec, value in found}
    specs = {spec.name: spec for spec, _ in found}
    for socket in node.get("inputs") or []:
        if socket.get("link") is None:
            continue
        source = editor.source(socket["link"])
        if source is None:
            continue
        kind, brought = source
        # The editor writes a primitive's value into the widget, and queues the widget.
        spec = specs.get(socket["name"]) if kind == "value" else None
        inputs[socket["name"]] = brought if spec is None else _queued(spec, brought)
    title = node.get("title") or info["display_name"] or node["type"]
    return {"inputs": inputs, "class_type": node["type"], "_meta": {"title": title}}

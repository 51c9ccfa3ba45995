"""The shipped workflows in the host's real frontend, in a headless Chromium.

Needs playwright (pip install playwright) and a Chromium: $CHROMIUM, one on the PATH, or playwright's own.
Screenshots go to $CNET_SCREENSHOTS if it is set.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from .hosting import WORKFLOWS, Host, api_prompt, host_label, minihost, workflow_file

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright to test the frontend")
# Those of playwright, which type checkers need not have.
Browser = Any
Page = Any

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
READY = """() => window.app?.graph && window.LiteGraph
    && Object.keys(window.LiteGraph.registered_node_types).some(name => name.startsWith('CNet'))"""
LOAD = "async workflow => { await window.app.loadGraphData(workflow, true, true); }"
# Chooses another option of the widget of a node: [node type, widget, choice].
CHOOSE = """([type, name, choice]) => {
    const node = window.app.graph.nodes.find(node => node.type === type);
    const widget = node.widgets.find(widget => widget.name === name);
    widget.value = choice;
    widget.callback?.(choice);
    return null;
}"""
# One node in place of all others, that inspects this file.
ONLY_INSPECT = """file => {
    window.app.graph.clear();
    const node = window.LiteGraph.createNode('CNetInspect');
    node.size = [500, 500];
    node.widgets.find(widget => widget.name === 'file_name').value = file;
    window.app.graph.add(node);
}"""
UNKNOWN_NODES = """() => window.app.graph.nodes
    .filter(node => node.has_errors || !(node.type in window.LiteGraph.registered_node_types))
    .map(node => node.type)"""
# Every picture on the canvas with its size: [node type, width, height].
PICTURES = """() => window.app.graph.nodes.flatMap(node => (node.imgs ?? [])
    .map(image => [node.type, image.naturalWidth, image.naturalHeight]))"""
# Pairs of nodes that lie over each other, with their titles.
OVERLAPS = """() => {
    const title = window.LiteGraph.NODE_TITLE_HEIGHT, nodes = window.app.graph.nodes;
    const apart = (a, b) => a.pos[0] + a.size[0] <= b.pos[0] || a.pos[1] + a.size[1] <= b.pos[1] - title;
    return nodes.flatMap((a, i) => nodes.slice(i + 1)
        .filter(b => !apart(a, b) && !apart(b, a)).map(b => [a.title, b.title]));
}"""
NODES_2 = "on => window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)"
# The same of Nodes 2.0, whose nodes are elements of the page, of whose frames a pixel may touch.
OVERLAPS_2 = """() => {
    const frames = [...document.querySelectorAll('[data-node-id]')].map(element => {
        const node = window.app.graph.getNodeById(element.dataset.nodeId);
        return [node?.title, element.getBoundingClientRect()];
    }).filter(([title]) => title !== undefined);
    const apart = (a, b) => a.right <= b.left + 1 || a.bottom <= b.top + 1;
    return frames.flatMap(([title, a], i) => frames.slice(i + 1)
        .filter(([, b]) => !apart(a, b) && !apart(b, a)).map(([other]) => [title, other]));
}"""
WATCH_RUN = """() => {
    window.cnetRun = null;
    for (const kind of ['execution_success', 'execution_error', 'execution_interrupted'])
        window.app.api.addEventListener(kind, event => { window.cnetRun ??= [kind, event.detail]; });
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome")
    own = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    with sync_api.sync_playwright() as playwright:
        try:
            running = playwright.chromium.launch(executable_path=own, args=FLAGS)
        except sync_api.Error as problem:
            pytest.skip(f"no Chromium to test the frontend with: {str(problem).splitlines()[0]}")
        yield running
        running.close()


@pytest.fixture
def complaints() -> list[str]:
    """Errors of the console and of the page that come from this pack, filled while the test runs."""
    return []


@pytest.fixture
def page(browser: Browser, host: Host, complaints: list[str]) -> Iterator[Page]:
    """The frontend, loaded and idle."""
    opened = browser.new_page(viewport={"width": 1920, "height": 1080})

    def note(text: str, source: str) -> None:
        if "cnet" in f"{text} {source}".lower():
            complaints.append(f"{source}: {text}")

    opened.on(
        "console", lambda m: note(m.text, m.location["url"]) if m.type in ("error", "warning") else None
    )
    opened.on("pageerror", lambda error: note(str(error), error.stack or ""))
    opened.on("requestfailed", lambda request: note(request.failure or "failed", request.url))
    opened.goto(host.url)
    opened.wait_for_function(READY, timeout=120_000)
    opened.wait_for_load_state("networkidle")
    yield opened
    opened.close()


def open_workflow(page: Page, name: str) -> dict[str, Any]:
    """Load a shipped workflow into the frontend, whole in view; returns it."""
    workflow = json.loads(workflow_file(name).read_text())
    page.evaluate(LOAD, workflow)
    page.wait_for_function("n => window.app.graph.nodes.length === n", arg=len(workflow["nodes"]))
    page.evaluate("() => window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.wait_for_timeout(1500)
    return workflow


def screenshot(page: Page, host: Host, name: str) -> None:
    folder = os.environ.get("CNET_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}-{host_label(host.root)}.png")


def run_to_the_end(page: Page, timeout: float) -> tuple[str, dict[str, Any]]:
    """Press Run; how it ended and what the frontend was told of it, after at most so many milliseconds."""
    page.evaluate(WATCH_RUN)
    page.get_by_role("button", name="Run", exact=True).first.click()
    page.wait_for_function("() => window.cnetRun", timeout=timeout)
    kind, detail = page.evaluate("() => window.cnetRun")
    return kind, detail


def run_until_shown(page: Page, node_type: str) -> None:
    """Press Run, and wait until a node of this type shows pictures."""
    kind, detail = run_to_the_end(page, 180_000)
    assert kind == "execution_success", detail
    page.wait_for_function(
        "type => window.app.graph.nodes.some(n => n.type === type && n.imgs?.length)",
        arg=node_type,
        timeout=30_000,
    )


def bare(prompt: dict[str, Any]) -> dict[str, Any]:
    """An API prompt without what differs between frontends: core nodes' titles, from translations (`_meta`),
    and the types that newer ones (1.5x) say of curves."""

    def untyped(value: Any) -> Any:
        return value["__value__"] if isinstance(value, dict) and "__type__" in value else value

    return {
        node: {
            "class_type": body["class_type"],
            "inputs": {name: untyped(value) for name, value in body["inputs"].items()},
        }
        for node, body in prompt.items()
    }


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflow_opens_converts_and_runs(
    page: Page,
    host: Host,
    complaints: list[str],
    minihost_pictures: Callable[[str], list[Path]],
    name: str,
) -> None:
    open_workflow(page, name)
    assert page.evaluate(UNKNOWN_NODES) == []
    assert page.evaluate(OVERLAPS) == []
    assert page.get_by_text(re.compile("missing node", re.IGNORECASE)).filter(visible=True).count() == 0
    screenshot(page, host, name)

    theirs = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    assert bare(theirs) == bare(api_prompt(name))

    run_until_shown(page, "SaveImage")
    page.wait_for_timeout(500)
    screenshot(page, host, f"{name}-run")
    assert page.evaluate(OVERLAPS) == []
    shown = [tuple(shape) for node, *shape in page.evaluate(PICTURES) if node == "SaveImage"]
    assert shown == [Image.open(path).size for path in minihost_pictures(name)]
    assert complaints == []


@pytest.mark.parametrize("name", WORKFLOWS)
def test_no_node_lies_over_another_in_nodes_2(page: Page, host: Host, name: str) -> None:
    page.evaluate(NODES_2, True)
    try:
        workflow = open_workflow(page, name)
        page.wait_for_function(
            "count => document.querySelectorAll('[data-node-id]').length >= count", arg=len(workflow["nodes"])
        )
        screenshot(page, host, f"{name}-nodes2")
        assert page.evaluate(OVERLAPS_2) == []
        kind, detail = run_to_the_end(page, 180_000)
        assert kind == "execution_success", detail
        page.wait_for_timeout(2500)
        screenshot(page, host, f"{name}-nodes2-run")
        assert page.evaluate(OVERLAPS_2) == []
    finally:
        page.evaluate(NODES_2, False)


def test_a_muted_unit_is_off(page: Page) -> None:
    """The first one too."""
    open_workflow(page, "pose_depth")
    page.evaluate("() => { window.app.graph.nodes.find(node => node.title === 'Pose unit').mode = 2; }")
    kind, detail = run_to_the_end(page, 180_000)
    assert kind == "execution_success", detail


def test_saved_from_the_frontend_the_workflow_still_converts_alike(page: Page, tmp_path: Path) -> None:
    """What the frontend saves, with its own additions, is what minihost reads too."""
    open_workflow(page, "pose_depth")
    both = page.evaluate("async () => await window.app.graphToPrompt()")
    saved = tmp_path / "saved.json"
    saved.write_text(json.dumps(both["workflow"]))
    assert bare(json.loads(minihost("convert", saved))) == bare(both["output"])


def test_the_settings_of_annotate_follow_its_choice(page: Page, host: Host, complaints: list[str]) -> None:
    workflow = open_workflow(page, "photo_canny")
    (annotate,) = [str(node["id"]) for node in workflow["nodes"] if node["type"] == "CNetAnnotate"]

    def inputs() -> dict[str, Any]:
        prompt = page.evaluate("async () => (await window.app.graphToPrompt()).output")
        return prompt[annotate]["inputs"]

    before = inputs()
    assert before["annotator.thresholds"] == "automatic"
    for choice, names in (
        ("soft_edges", {"sigma", "contrast"}),
        ("hed", {"safe", "download", "precision"}),
        ("invert", set()),
        ("canny", {"low_threshold", "high_threshold", "thresholds"}),
    ):
        page.evaluate(CHOOSE, ["CNetAnnotate", "annotator", choice])
        found = inputs()
        assert found["annotator"] == choice
        assert {name.partition(".")[2] for name in found if name.startswith("annotator.")} == names
        # What is not the choice's own stays: the size, with its connection.
        assert found["size.latent"] == before["size.latent"] and found["image"] == before["image"]
    page.evaluate(CHOOSE, ["CNetAnnotate", "annotator", "soft_edges"])
    page.evaluate(CHOOSE, ["CNetAnnotate", "size", "as the image"])
    assert "size.latent" not in inputs()
    screenshot(page, host, "annotate-soft-edges")
    run_until_shown(page, "CNetAnnotate")
    assert [384, 384] in [shape for node, *shape in page.evaluate(PICTURES) if node == "CNetAnnotate"]
    assert complaints == []


@pytest.mark.parametrize("nodes_2", [False, True])
def test_a_strangers_text_is_shown_as_it_stands(page: Page, host: Host, nodes_2: bool) -> None:
    said = {"title": "<lora:foo:1> & <b>bold</b>", "link": "[[click|https://example.org]]"}
    save_file({"w": torch.zeros(1)}, host.base / "models" / "controlnet" / "frontend_words.safetensors", said)
    page.reload()
    page.wait_for_function(READY, timeout=120_000)
    page.evaluate(NODES_2, nodes_2)
    try:
        page.evaluate(LOAD, json.loads(workflow_file("pose").read_text()))
        page.evaluate(ONLY_INSPECT, "frontend_words.safetensors")
        page.wait_for_timeout(500)
        page.evaluate("() => window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        page.wait_for_timeout(1500)
        kind, detail = run_to_the_end(page, 60_000)
        assert kind == "execution_success", detail
        # Newer frontends clear what was said in a run at its end.
        page.wait_for_timeout(2000)
        screenshot(page, host, f"words-{nodes_2}")
        for text in said.values():
            assert page.get_by_text(text).filter(visible=True).count() == 1
        assert page.locator("a[href*='example.org']").count() == 0
        prompt = page.evaluate("async () => (await window.app.graphToPrompt()).output")
        assert [list(node["inputs"]) for node in prompt.values()] == [["file_name"]]
        # There and back, which makes the nodes anew.
        for command in ("Comfy.NewBlankWorkflow", "Workspace.PreviousOpenedWorkflow"):
            page.evaluate("command => window.app.extensionManager.command.execute(command)", command)
            page.wait_for_timeout(1500)
        page.get_by_text(said["title"]).filter(visible=True).wait_for(timeout=20_000)
    finally:
        page.evaluate(NODES_2, False)


def test_an_error_is_shown_in_the_frontends_dialog(page: Page, host: Host) -> None:
    (host.base / "models" / "controlnet" / "frontend_wrong.safetensors").write_text(
        "<html>not a model</html>"
    )
    page.reload()
    page.wait_for_function(READY, timeout=120_000)
    workflow = json.loads(workflow_file("pose").read_text())
    (loader,) = [node for node in workflow["nodes"] if node["type"] == "CNetLoadControlNet"]
    loader["widgets_values"][0] = "frontend_wrong.safetensors"
    page.evaluate(LOAD, workflow)
    page.wait_for_timeout(1500)
    kind, detail = run_to_the_end(page, 60_000)
    assert kind == "execution_error"
    assert "frontend_wrong.safetensors" in detail["exception_message"]
    # Newer frontends name the node first and the reason behind a button.
    shown = page.get_by_text(re.compile("View details|frontend_wrong.safetensors is not"))
    shown.filter(visible=True).first.wait_for(timeout=20_000)
    details = page.get_by_text("View details").filter(visible=True)
    if details.count():
        details.first.click()
    message = page.get_by_text("frontend_wrong.safetensors is not").filter(visible=True)
    message.first.wait_for(timeout=20_000)
    screenshot(page, host, "error")

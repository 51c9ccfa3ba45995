"""The pack as the host sees it: it loads silently, and its nodes are described as minihost describes them."""

import json
import re
import urllib.request
from typing import Any

from .hosting import REPO, WORKFLOWS, Host, minihost

LOADED = re.compile(r"[\d.]+ seconds: .*CNet\s*$")


def startup_log(host: Host) -> str:
    """The log until the host was up; later lines are the doing of other tests."""
    return host.log.partition("To see the GUI go to")[0]


def test_the_pack_loads_without_a_warning(host: Host) -> None:
    log = startup_log(host)
    mentions = [line for line in log.splitlines() if "CNet" in line]
    assert any(LOADED.search(line) for line in mentions), log[-3000:]
    assert [line for line in mentions if re.search(r"warn|error|fail|deprecat", line, re.IGNORECASE)] == []
    assert "Traceback" not in log


def as_in_minihost(info: dict[str, Any], host: Host, minihosts: dict[str, Any]) -> dict[str, Any]:
    """A node's description without what is this host's own.

    That is the pack's folder name, files of other tests, and samplers and schedulers that minihost lacks.
    """
    assert info["python_module"] == "custom_nodes.CNet"
    info = {**info, "python_module": f"custom_nodes.{REPO.name}"}
    own_files = {path.name for path in (host.base / "models" / "controlnet").iterdir()}
    for group in ("required", "optional"):
        for name, (kind, options) in info["input"].get(group, {}).items():
            if kind != "COMBO":
                continue
            known = minihosts["input"][group][name][1]["options"]
            if name in ("sampler_name", "scheduler"):
                options["options"] = [choice for choice in known if choice in options["options"]]
            else:
                options["options"] = [choice for choice in options["options"] if choice not in own_files]
    return info


def test_object_info_equals_minihosts(host: Host) -> None:
    seen = {name: info for name, info in host.object_info().items() if name.startswith("CNet")}
    minihosts = json.loads(minihost("object-info"))
    assert seen.keys() == {name for name in minihosts if name.startswith("CNet")}
    assert len(seen) >= 6
    for name, info in seen.items():
        assert as_in_minihost(info, host, minihosts[name]) == minihosts[name], name


def test_every_input_and_node_explains_itself(host: Host) -> None:
    for name, info in host.object_info().items():
        if not name.startswith("CNet"):
            continue
        assert info["description"], name
        assert info["search_aliases"], name
        assert info["category"].split("/")[0] == "cnet", name
        for group in ("required", "optional"):
            for key, (_, options) in info["input"].get(group, {}).items():
                assert options.get("tooltip"), f"{name}.{key} has no tooltip"


def test_the_template_browser_lists_the_workflows_with_pictures(host: Host) -> None:
    assert sorted(host.get("/workflow_templates")["CNet"]) == WORKFLOWS
    for name in WORKFLOWS:
        with urllib.request.urlopen(
            f"{host.url}/api/workflow_templates/CNet/{name}.jpg", timeout=30
        ) as answer:
            assert answer.headers["Content-Type"] == "image/jpeg"

"""What a user reads about the nodes: tooltips, descriptions, help pages, README."""

from pathlib import Path

import pytest

from minihost import loader

REPO = Path(__file__).parents[2]
PACK = loader.object_info(loader.load_pack(REPO))


@pytest.fixture(params=PACK)
def node(request) -> dict:
    return PACK[request.param]


def test_ids_and_categories_are_the_packs(node):
    assert node["name"].startswith("CNet")
    assert node["category"].startswith("cnet/")
    assert node["display_name"].endswith("(CNet)")


def test_every_node_is_described_and_can_be_searched(node):
    assert node["description"].endswith(".")
    assert node["search_aliases"]


def test_every_input_and_output_has_a_tooltip(node):
    for group, inputs in node["input"].items():
        if group != "hidden":
            assert all(options.get("tooltip") for _type, options in inputs.values())
    assert all(node["output_tooltips"])


def test_every_node_has_a_help_page_that_names_its_inputs(node):
    page = (REPO / "web" / "docs" / f"{node['name']}.md").read_text("utf-8")
    assert page.startswith(f"# {node['display_name']}\n")
    if len(node["input_order"].get("required", [])) > 1:
        for group, names in node["input_order"].items():
            assert group == "hidden" or all(f"**{name}**" in page for name in names)


def test_no_help_page_is_left_over():
    assert {path.stem for path in (REPO / "web" / "docs").glob("*.md")} == set(PACK)


def test_the_readme_lists_every_node(node):
    assert f"\n| {node['display_name']} |" in (REPO / "README.md").read_text("utf-8")


def test_ci_runs_the_tests_as_the_readme_says():
    readme = (REPO / "README.md").read_text("utf-8").splitlines()
    commands = [line.strip() for line in readme if line.startswith("    python -m pip install uv && ")]
    tests = [command for command in commands if command.endswith("pytest")]
    assert len(tests) == 1
    assert (REPO / ".ci" / "run").read_text("utf-8").splitlines()[-1] == tests[0]

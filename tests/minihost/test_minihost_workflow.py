"""From what the editor saves to what runs."""

import json
import re
import time

import pytest
from PIL import Image, PngImagePlugin
from PIL.PngImagePlugin import PngInfo

from minihost.errors import WorkflowError
from minihost.workflow import read_workflow, to_prompt


def node(node_id, kind, values=(), inputs=(), outputs=("INT",), **more):
    """A node as the editor saves it; inputs: (name, type, link)."""
    return {
        "id": node_id,
        "type": kind,
        "mode": 0,
        "order": node_id,
        "inputs": [{"name": n, "type": t, "link": link} for n, t, link in inputs],
        "outputs": [{"name": t, "type": t} for t in outputs],
        "widgets_values": list(values) if isinstance(values, tuple) else values,
        **more,
    }


def link(link_id, origin, slot, target, target_slot, kind="INT"):
    return [link_id, origin, slot, target, target_slot, kind]


def ui(nodes, links=()):
    return {"nodes": nodes, "links": list(links), "version": 0.4}


def convert(nodes, info, links=()):
    return to_prompt(ui(nodes, links), info)


def test_widgets_are_read_in_order_and_control_after_generate_is_skipped(info):
    found = convert([node(5, "KSampler", (8, "randomize", 12, 3.5, "dpmpp_2m", "karras", 0.75))], info)
    assert found == {
        "5": {
            "class_type": "KSampler",
            "_meta": {"title": "KSampler"},
            "inputs": {
                "seed": 8,
                "steps": 12,
                "cfg": 3.5,
                "sampler_name": "dpmpp_2m",
                "scheduler": "karras",
                "denoise": 0.75,
            },
        }
    }


def test_required_widgets_come_before_optional_ones(info):
    assert convert([node(1, "TinyNumber", (4, "fixed", 9))], info)["1"]["inputs"] == {"seed": 4, "extra": 9}


def test_values_that_are_not_there_are_the_defaults(info):
    assert convert([node(1, "TinyNumber", ())], info)["1"]["inputs"] == {"seed": 1, "extra": 0}
    assert convert([node(1, "KSampler", (3, "fixed"))], info)["1"]["inputs"]["sampler_name"] == "euler"


def test_values_may_be_saved_by_name(info):
    assert convert([node(1, "TinyNumber", {"extra": 5})], info)["1"]["inputs"] == {"seed": 1, "extra": 5}


def test_the_upload_button_is_no_input(info):
    assert convert([node(1, "LoadImage", ("a.png", "image"))], info)["1"]["inputs"] == {"image": "a.png"}


def test_a_choice_is_followed_by_the_inputs_it_brings(info):
    size = convert([node(1, "TinyChoice", ("size", 64, "hello", "tail"))], info)
    scale = convert([node(1, "TinyChoice", ("scale", 0.5, "tail"))], info)
    assert size["1"]["inputs"] == {"mode": "size", "mode.width": 64, "mode.note": "hello", "after": "tail"}
    assert scale["1"]["inputs"] == {"mode": "scale", "mode.factor": 0.5, "after": "tail"}


@pytest.mark.parametrize(
    ("text", "queued"),
    [
        ("one // two\nthree /* four\nfive */ six", {"one \nthree  six"}),
        ("a {red|dark {green|blue}|} hat", {"a red hat", "a dark green hat", "a dark blue hat", "a  hat"}),
        (r"\{kept\|as\} {it|was", {"{kept|as} it", "{kept|as} was"}),
        ("a|b}", {"a|b}"}),
    ],
)
def test_prompts_lose_their_comments_and_one_choice_is_drawn(info, text, queued):
    found = {convert([node(1, "CLIPTextEncode", (text,))], info)["1"]["inputs"]["text"] for _ in range(60)}
    assert found == queued


def test_names_of_files_are_filled_in(info):
    prefix = "%date:yyyy-MM-dd%/%Sampler.seed%_%KSampler.sampler_name%_%Other.seed%_%width%"
    nodes = [
        node(1, "SaveImage", (prefix,)),
        node(2, "KSampler", (8, "fixed", 12), title="Sampler", properties={"Node name for S&R": "KSampler"}),
    ]
    found = convert(nodes, info)["1"]["inputs"]["filename_prefix"]
    assert re.fullmatch(r"20\d\d-\d\d-\d\d/8_euler_%Other.seed%_%width%", found)


def test_dates_in_names_of_files_are_written_as_asked(info, monkeypatch):
    moment = time.struct_time((2031, 4, 5, 6, 7, 8, 0, 95, 0))
    monkeypatch.setattr(time, "localtime", lambda *_: moment)
    found = convert([node(1, "SaveImage", ("%date:yyyy-MM-dd hhmmss yy M d%",))], info)
    assert found["1"]["inputs"]["filename_prefix"] == "2031-04-05 060708 31 4 5"


def test_values_in_names_of_files_make_no_folders(info):
    nodes = [node(1, "SaveImage", ("%Text.text%",)), node(2, "CLIPTextEncode", ("../a: b?",), title="Text")]
    assert convert(nodes, info)["1"]["inputs"]["filename_prefix"] == ".._a_ b_"


@pytest.mark.parametrize("as_objects", [False, True])
def test_links_and_autogrow_slots(info, as_objects):
    links = [link(1, 10, 0, 12, 0), link(2, 11, 0, 12, 2)]
    if as_objects:
        keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        links = [dict(zip(keys, one, strict=True)) for one in links]
    slots = [("numbers.number0", "INT", 1), ("numbers.number1", "INT", None), ("numbers.number2", "INT", 2)]
    nodes = [node(10, "TinyNumber"), node(11, "TinyNumber"), node(12, "TinySum", (), slots)]
    assert convert(nodes, info, links)["12"]["inputs"] == {
        "numbers.number0": ["10", 0],
        "numbers.number2": ["11", 0],
    }


def test_a_widget_turned_into_an_input_keeps_its_place_and_takes_the_link(info):
    target = node(2, "KSampler", (1, "fixed", 20, 8, "euler", "normal", 1), [("steps", "INT", 1)])
    inputs = convert([node(1, "TinyNumber"), target], info, [link(1, 1, 0, 2, 0)])["2"]["inputs"]
    assert inputs["steps"] == ["1", 0]
    assert inputs["cfg"] == 8


def test_reroutes_primitives_and_notes_leave_no_node(info):
    nodes = [
        node(1, "TinyNumber", (3, "fixed", 0)),
        node(2, "Reroute", (), [("", "*", 1)], ("*",)),
        node(3, "Reroute", (), [("", "*", 2)], ("*",)),
        node(4, "PrimitiveNode", (42, "increment")),
        node(5, "TinyNumber", (7, "fixed", 0), [("seed", "INT", 4), ("extra", "INT", 3)]),
        node(6, "Note", ("remember",)),
        node(7, "MarkdownNote", ("# remember",)),
    ]
    links = [link(1, 1, 0, 2, 0), link(2, 2, 0, 3, 0), link(3, 3, 0, 5, 1), link(4, 4, 0, 5, 0)]
    found = convert(nodes, info, links)
    assert sorted(found) == ["1", "5"]
    assert found["5"]["inputs"] == {"seed": 42, "extra": ["1", 0]}


def test_a_primitives_text_is_queued_like_the_widgets_own(info):
    nodes = [
        node(1, "PrimitiveNode", ("a {red} dancer // note",)),
        node(2, "CLIPTextEncode", ("b",), [("text", "STRING", 1)]),
    ]
    assert convert(nodes, info, [link(1, 1, 0, 2, 0)])["2"]["inputs"]["text"] == "a red dancer "


def test_a_muted_node_takes_its_links_with_it(info):
    nodes = [node(1, "TinyNumber", mode=2), node(2, "TinyShow", (), [("value", "INT", 1)])]
    assert convert(nodes, info, [link(1, 1, 0, 2, 0)]) == {
        "2": {"class_type": "TinyShow", "inputs": {}, "_meta": {"title": "Show"}}
    }


def test_a_bypassed_node_hands_on_the_input_of_each_outputs_type(info):
    conditioning = ("CONDITIONING", "CONDITIONING")
    nodes = [
        node(1, "CLIPTextEncode", ("a",), outputs=("CONDITIONING",)),
        node(2, "CLIPTextEncode", ("b",), outputs=("CONDITIONING",)),
        node(
            *(3, "SomebodysApply", ()),
            [("picture", "IMAGE", None), ("negative", "CONDITIONING", 2), ("positive", "CONDITIONING", 1)],
            conditioning,
            mode=4,
        ),
        node(4, "KSampler", (), [("positive", "CONDITIONING", 3), ("negative", "CONDITIONING", 4)]),
    ]
    links = [
        link(1, 1, 0, 3, 2, "CONDITIONING"),
        link(2, 2, 0, 3, 1, "CONDITIONING"),
        link(3, 3, 0, 4, 0, "CONDITIONING"),
        link(4, 3, 1, 4, 1, "CONDITIONING"),
    ]
    inputs = convert(nodes, info, links)["4"]["inputs"]
    # Output 1 has an input of its type beside it; output 0 has not and takes the first of its type.
    assert (inputs["positive"], inputs["negative"]) == (["2", 0], ["2", 0])


def test_a_bypassed_node_hands_on_an_input_of_any_type(info):
    nodes = [
        node(1, "TinyNumber"),
        node(2, "Somebodys", (), [("any", "*", 1)], mode=4),
        node(3, "TinyShow", (), [("value", "INT", 2)]),
    ]
    found = convert(nodes, info, [link(1, 1, 0, 2, 0), link(2, 2, 0, 3, 0)])
    assert found["3"]["inputs"] == {"value": ["1", 0]}


def test_titles_are_kept_and_nodes_come_in_execution_order(info):
    found = convert([node(9, "TinyNumber", order=1, title="Mine"), node(1, "TinyNumber", order=2)], info)
    assert list(found) == ["9", "1"]
    assert [one["_meta"]["title"] for one in found.values()] == ["Mine", "TinyNumber"]


def test_unknown_types_are_all_named(info):
    nodes = [node(1, "NoSuchNode", title="My node"), node(2, "ksampler"), node(3, "TinyNumber")]
    with pytest.raises(WorkflowError) as caught:
        convert(nodes, info)
    first, second = caught.value.problems
    assert "node 1" in first and "My node" in first and "NoSuchNode" in first
    assert "node 2" in second and "did you mean KSampler?" in second


def test_subgraphs_and_circles_of_reroutes_are_refused(info):
    inside = ui([node(1, "abc-123", title="Mine")]) | {"definitions": {"subgraphs": [{"id": "abc-123"}]}}
    with pytest.raises(WorkflowError, match=r"subgraphs: unpack node 1 'Mine'"):
        to_prompt(inside, info)
    for mode in (2, 4):
        inside["nodes"][0]["mode"] = mode
        assert to_prompt(inside, info) == {}
    nodes = [
        node(1, "Reroute", (), [("", "*", 2)], ("*",)),
        node(2, "Reroute", (), [("", "*", 1)], ("*",)),
        node(3, "TinyShow", (), [("value", "INT", 3)]),
    ]
    with pytest.raises(WorkflowError, match="circle"):
        convert(nodes, info, [link(1, 1, 0, 2, 0), link(2, 2, 0, 1, 0), link(3, 2, 0, 3, 0)])


def test_api_format_passes_through(info, picture_prompt):
    assert to_prompt(picture_prompt(), info) == picture_prompt()


def test_files(tmp_path, picture_prompt):
    saved = tmp_path / "a.json"
    saved.write_text(json.dumps(picture_prompt()))
    assert read_workflow(saved) == picture_prompt()
    # As some editors of Windows begin their files.
    for encoding in ("utf-8-sig", "utf-16"):
        saved.write_text(json.dumps(picture_prompt()), encoding=encoding)
        assert read_workflow(saved) == picture_prompt()
    text = PngInfo()
    text.add_text("prompt", json.dumps(picture_prompt()))
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", pnginfo=text)
    assert read_workflow(tmp_path / "a.png") == picture_prompt()
    # With a workflow of subgraphs, which the prompt holds unpacked.
    for subgraphs, found in (([{"id": "abc"}], picture_prompt()), ([], ui([node(1, "abc")]))):
        text = PngInfo()
        text.add_text("prompt", json.dumps(picture_prompt()))
        workflow = ui([node(1, "abc")]) | ({"definitions": {"subgraphs": subgraphs}} if subgraphs else {})
        text.add_text("workflow", json.dumps(workflow))
        Image.new("RGB", (4, 4)).save(tmp_path / "b.png", pnginfo=text)
        assert read_workflow(tmp_path / "b.png") == json.loads(json.dumps(found))
    Image.new("RGB", (4, 4)).save(tmp_path / "bare.png")
    (tmp_path / "text.json").write_text("hello")
    (tmp_path / "list.json").write_text("[1, 2]")
    for name, message in {
        "none.json": "no file",
        "bare.png": "holds no workflow",
        "text.json": "not JSON",
        "list.json": "no workflow",
    }.items():
        with pytest.raises(WorkflowError, match=message):
            read_workflow(tmp_path / name)


def number(**changes):
    """A workflow in API format of one node."""
    return {"3": {"class_type": "TinyNumber", "inputs": {}, **changes}}


@pytest.mark.parametrize(
    ("workflow", "message"),
    [
        (number(class_type=["TinyNumber"]), r"node 3: its 'class_type' is \[\"TinyNumber\"\]; save it again"),
        (number(_meta="mine"), "node 3: its '_meta' is \"mine\""),
        (number(inputs=[1, 2]), r"node 3: its 'inputs' is \[1, 2\]"),
        (ui([{"type": "TinyNumber"}]), "node number 1: it has no 'id'"),
        (ui([{"id": [1], "type": "TinyNumber"}]), "its 'id' is"),
        (ui([{"id": 4}]), "node 4: it has no 'type'"),
        (ui([node(1, "TinyNumber"), "hello"]), 'node number 2: it is "hello", no object'),
        (ui([node(1, "TinyNumber", order="first")]), "node 1: its 'order' is \"first\""),
        (ui([node(1, "PrimitiveNode", {"value": 3})]), "node 1: its 'widgets_values' is"),
        (ui([node(1, "TinyNumber") | {"inputs": {"seed": 1}}]), "node 1: its 'inputs' is"),
        (ui([node(1, "TinyNumber") | {"inputs": ["seed"]}]), "node 1, one of its inputs: it is"),
        (ui([node(1, "TinyNumber") | {"inputs": [{"link": 1}]}]), "one of its inputs: it has no 'name'"),
        (ui([node(1, "TinyNumber") | {"inputs": [{"name": "a", "link": [1]}]}]), "its 'link' is"),
        (ui([node(1, "TinyNumber") | {"outputs": [7]}]), "node 1, one of its outputs: it is 7"),
        (ui([], [5]), "link number 1: it is 5, no object"),
        (ui([], [[1]]), "link number 1: it has no 'origin_id'"),
        (ui([], [{"id": 1, "origin_id": 1}]), "link number 1: it has no 'origin_slot'"),
        (ui([]) | {"links": 3}, "workflow: its 'links' is 3"),
        (ui([]) | {"definitions": {"subgraphs": {}}}, "definitions: its 'subgraphs' is"),
        (ui([]) | {"definitions": {"subgraphs": [{}]}}, "subgraph number 1: it has no 'id'"),
    ],
)  # fmt: skip
def test_a_wrong_shape_is_told_with_its_node(tmp_path, workflow, message):
    saved = tmp_path / "a.json"
    saved.write_text(json.dumps(workflow))
    with pytest.raises(WorkflowError, match=message) as caught:
        read_workflow(saved)
    assert all(problem.startswith(f"{saved}, ") for problem in caught.value.problems)


def test_a_bypassed_node_that_lacks_the_linked_output_is_named(info):
    nodes = [node(1, "Somebodys", mode=4), node(2, "TinyShow", (), [("value", "INT", 1)])]
    with pytest.raises(WorkflowError, match=r"node 1 \(Somebodys\) is linked by output 3, but has 1"):
        convert(nodes, info, [link(1, 1, 3, 2, 0)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"nodes": [' + "[" * 200 + "]" * 200 + "]}", "nested more than 100 levels"),
        ("1" * 5000, "not JSON"),
    ],
    ids=["no_end", "deep", "long_number"],
)
def test_text_that_breaks_its_reader(tmp_path, text, message):
    saved = tmp_path / "a.json"
    saved.write_text(text)
    with pytest.raises(WorkflowError, match=message):
        read_workflow(saved)


def test_pictures_that_break_their_reader(tmp_path, monkeypatch):
    bomb = PngInfo()
    bomb.add_text("prompt", " " * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    saved = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(saved, pnginfo=bomb)
    with pytest.raises(WorkflowError, match="cannot read the text"):
        read_workflow(saved)
    Image.new("RGB", (40, 40)).save(saved)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(WorkflowError, match="cannot read the text"):
        read_workflow(saved)

"""Running: order, caching, lists, pictures with their workflow, cancelling, and the command line."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import types
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minihost import loader
from minihost.__main__ import CANCELLED, UNHEARD, cancel_on_interrupt, main
from minihost.errors import NodeError, PackError
from minihost.graph import Executor
from minihost.nodes_core import saved_paths
from minihost.shims import folder_paths, model_management
from minihost.shims.api_node import NodeOutput
from minihost.shims.model_management import InterruptProcessingException
from minihost.validate import call
from minihost.workflow import unknown_type

PACK = str(Path(__file__).parent / "tinypack")


def number(seed, **inputs):
    return {"class_type": "TinyNumber", "inputs": {"seed": seed, **inputs}}


def show(source):
    return {"class_type": "TinyShow", "inputs": {"value": list(source)}}


def shown(result, node_id):
    return result.ui[node_id]["text"]


def arguments(folder, workflow, *more):
    """What the command is given to run a workflow, whose pictures go into the folder's `out`."""
    saved = folder / "w.json"
    saved.write_text(json.dumps(workflow))
    return ["--pack", PACK, "run", str(saved), "--output", str(folder / "out"), *more]


def test_each_node_runs_after_its_sources_and_once_for_the_same_inputs(nodes, tiny):
    prompt = {
        "9": show(("3", 0)),
        "3": number(3, extra=["2", 0]),
        "2": number(2),
        "1": number(2),
        "8": show(("1", 0)),
    }
    result = Executor(nodes).run(prompt)
    assert tiny.runs == ["TinyNumber 2", "TinyNumber 3"]
    assert (shown(result, "9"), shown(result, "8")) == (["5"], ["2"])


def test_a_second_run_does_only_what_changed(nodes, tiny):
    executor = Executor(nodes)
    prompt = {"1": number(1), "2": number(2, extra=["1", 0]), "9": show(("2", 0))}
    assert executor.run(prompt).executed == ["1", "2", "9"]
    assert executor.run(prompt).executed == []
    prompt["2"]["inputs"]["seed"] = 5
    result = executor.run(prompt)
    assert result.executed == ["2", "9"]
    assert shown(result, "9") == ["6"]


def test_a_fingerprint_decides_about_running_again(nodes, tiny, monkeypatch):
    executor = Executor(nodes)
    prompt = {"1": {"class_type": "TinyCheck", "inputs": {"low": 1, "high": 2}}, "9": show(("1", 0))}
    assert executor.run(prompt).executed == ["1", "9"]
    assert executor.run(prompt).executed == []
    monkeypatch.setattr(nodes["TinyCheck"], "fingerprint", 1)
    assert executor.run(prompt).executed == ["1", "9"]
    monkeypatch.setattr(nodes["TinyCheck"], "fingerprint", float("nan"))
    assert executor.run(prompt).executed == executor.run(prompt).executed == ["1", "9"]


def test_a_picture_that_changed_is_loaded_anew(nodes, folders):
    executor = Executor(nodes)
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
        "9": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    for colour in ("red", "lime"):
        Image.new("RGB", (6, 4), colour).save(folders / "input" / "a.png")
        assert executor.run(prompt).executed == ["1", "9"]
    assert executor.run(prompt).executed == []


def test_what_the_last_run_did_not_need_is_let_go(nodes, tiny):
    executor = Executor(nodes)
    for seed in (1, 2, 1):
        assert executor.run({"1": number(seed), "9": show(("1", 0))}).executed == ["1", "9"]
        assert len(executor.cache) == 2


def test_nodes_that_ask_for_their_id_do_not_share_results(nodes, tiny):
    check = {"class_type": "TinyCheck", "inputs": {"low": 1, "high": 2}}
    Executor(nodes).run({"1": check, "2": check, "8": show(("1", 0)), "9": show(("2", 0))})
    assert tiny.runs == ["TinyCheck 1", "TinyCheck 2"]


def test_a_long_chain_of_nodes_with_two_links_to_the_one_before_is_run(nodes):
    """The time must not double from node to node."""
    prompt = {"0": number(1)}
    for i in range(1, 60):
        prompt[str(i)] = {
            "class_type": "TinySum",
            "inputs": {"numbers.number0": [str(i - 1), 0], "numbers.number1": [str(i - 1), 0]},
        }
    executor = Executor(nodes)
    result = executor.run({**prompt, "9 shown": show(("59", 0))})
    assert shown(result, "9 shown") == [str(2**59)]
    assert executor.run({**prompt, "9 shown": show(("59", 0))}).executed == []


def test_dynamic_inputs_arrive_nested(nodes):
    prompt = {
        "1": {
            "class_type": "TinySum",
            "inputs": {"numbers.number0": 1, "numbers.number1": 2, "numbers.number3": 4},
        },
        "2": {"class_type": "TinyChoice", "inputs": {"mode": "scale", "mode.factor": 3, "after": "!"}},
        "7": show(("1", 0)),
        "8": show(("1", 1)),
        "9": show(("2", 0)),
    }
    result = Executor(nodes).run(prompt)
    assert shown(result, "7") == ["7"]
    assert shown(result, "8") == ["number0,number1,number3"]
    assert shown(result, "9") == ["[('factor', 3.0), ('mode', 'scale')] !"]


def test_lists_run_a_node_once_per_item(nodes, tiny):
    prompt = {
        "1": {"class_type": "TinyMany", "inputs": {"count": 3}},
        "2": number(5, extra=["1", 0]),
        "9": show(("2", 0)),
    }
    assert shown(Executor(nodes).run(prompt), "9") == ["5", "6", "7"]


def test_a_short_list_goes_on_with_its_last_item(nodes, tiny):
    prompt = {
        "1": {"class_type": "TinyMany", "inputs": {"count": 3}},
        "2": {"class_type": "TinyMany", "inputs": {"count": 2}},
        "3": number(["1", 0], extra=["2", 0]),
        "9": show(("3", 0)),
    }
    assert shown(Executor(nodes).run(prompt), "9") == ["0", "2", "3"]


def test_a_node_may_take_a_list_as_a_whole(nodes, tiny):
    prompt = {
        "1": {"class_type": "TinyMany", "inputs": {"count": 3}},
        "2": {"class_type": "TinyTotal", "inputs": {"numbers": ["1", 0]}},
        "9": show(("2", 0)),
    }
    assert shown(Executor(nodes).run(prompt), "9") == ["3"]
    # One blocked item of it is enough.
    prompt["3"] = {"class_type": "TinyGate", "inputs": {"number": ["1", 0]}}
    prompt["2"]["inputs"]["numbers"] = ["3", 0]
    assert "9" not in Executor(nodes).run(prompt).ui


def test_what_is_blocked_does_not_run_and_the_rest_does(nodes, tiny):
    prompt = {
        "1": {"class_type": "TinyMany", "inputs": {"count": 3}},
        "2": {"class_type": "TinyGate", "inputs": {"number": ["1", 0]}},
        "3": number(5, extra=["2", 0]),
        "8": show(("3", 0)),
        "9": show(("1", 0)),
    }
    result = Executor(nodes).run(prompt)
    assert (shown(result, "8"), shown(result, "9")) == (["5", "7"], ["0", "1", "2"])
    # Said once, by the first node that does not run.
    assert result.blocked == ["node 3 (TinyNumber): Execution Blocked: 1 is odd"]
    prompt["1"] = number(1)
    result = Executor(nodes).run(prompt)
    assert "8" not in result.ui and shown(result, "9") == ["1"]


def test_a_node_of_a_list_that_is_blocked_blocks_what_follows(nodes, tiny):
    prompt = {
        "1": {"class_type": "TinyGate", "inputs": {"number": 3}},
        "2": {"class_type": "TinyMany", "inputs": {"count": ["1", 0]}},
        "9": show(("2", 0)),
    }
    assert "9" not in Executor(nodes).run(prompt).ui


def test_a_failing_node_is_named_and_what_was_done_is_kept(nodes, tiny):
    executor = Executor(nodes)
    prompt = {"1": number(1), "2": number(99, extra=["1", 0]), "9": show(("2", 0))}
    prompt["2"]["_meta"] = {"title": "Too many"}
    with pytest.raises(
        NodeError, match=r"node 2 'Too many' \(TinyNumber\): ValueError: ninety-nine is too many"
    ):
        executor.run(prompt)
    prompt["2"]["inputs"]["seed"] = 97
    assert executor.run(prompt).executed == ["2", "9"]


def test_a_node_may_return_a_tuple_of_as_many_values_as_outputs(nodes, monkeypatch):
    prompt = {
        "1": {"class_type": "TinySum", "inputs": {"numbers.number0": 1, "numbers.number1": 2}},
        "9": show(("1", 1)),
    }
    monkeypatch.setattr(nodes["TinySum"], "execute", classmethod(lambda cls, **inputs: (1, "a")))
    assert shown(Executor(nodes).run(prompt), "9") == ["a"]
    monkeypatch.setattr(nodes["TinySum"], "execute", classmethod(lambda cls, **inputs: (1,)))
    with pytest.raises(NodeError, match=r"node 1 \(TinySum\): .* 1 values for 2 outputs"):
        Executor(nodes).run(prompt)


def test_a_picture_holds_its_workflow_and_is_never_written_over(nodes, folders, picture_prompt):
    workflow = {"nodes": [], "links": [], "title": "as saved, ü"}
    first = Executor(nodes).run(picture_prompt(), workflow)
    second = Executor(nodes).run(picture_prompt(), workflow)
    paths = [*saved_paths(first.ui), *saved_paths(second.ui)]
    assert paths == [str(folders / "output" / "tiny" / f"a_0000{i}_.png") for i in (1, 2)]
    with Image.open(paths[0]) as one, Image.open(paths[1]) as two:
        assert one.size == (40, 32)
        assert one.tobytes() == two.tobytes()
        assert json.loads(one.text["prompt"]) == picture_prompt()
        assert json.loads(one.text["workflow"]) == workflow


def test_values_are_cut_to_bytes_and_files_named_as_in_the_host(nodes, folders):
    pictures = torch.tensor([0.999, 0.5, -1.0, 2.0]).view(1, 1, 4, 1).expand(2, 2, 4, 3)
    saved = nodes["SaveImage"].execute(pictures, "%width%x%height%_%batch_num%").ui.results
    assert [one["filename"] for one in saved] == ["4x2_0_00001_.png", "4x2_1_00002_.png"]
    with Image.open(folders / "output" / "4x2_0_00001_.png") as read:
        assert [read.getpixel((x, 0))[0] for x in range(4)] == [254, 127, 0, 255]


def test_load_image_reads_what_save_image_wrote(nodes, folders):
    Image.new("RGB", (6, 5), (255, 128, 0)).save(folders / "input" / "a.png")
    Image.new("RGBA", (6, 5), (0, 0, 0, 51)).save(folders / "input" / "b.png")
    load = nodes["LoadImage"]
    image, mask = load.execute("a.png").args
    assert image.shape == (1, 5, 6, 3) and mask.shape == (1, 64, 64) and not mask.any()
    assert torch.equal(image[0, 0, 0], torch.tensor([255, 128, 0]) / 255)
    assert torch.allclose(load.execute("b.png").args[1], torch.full((1, 5, 6), 0.8))
    assert load.define_schema().inputs[0].options == ["a.png", "b.png"]
    assert "no picture 'c.png'" in load.validate_inputs("c.png")
    (folders / "output" / "x.png").touch()
    assert "no picture" in load.validate_inputs("../output/x.png")


def test_sixteen_bits_of_grey_are_scaled(nodes, folders):
    grey = np.array([[0, 257, 32768, 65535]], np.uint16)
    Image.fromarray(grey).save(folders / "input" / "depth.png")
    image, mask = nodes["LoadImage"].execute("depth.png").args
    assert torch.allclose(image[0, 0, :, 1], torch.tensor([0, 257, 32768, 65535]) / 65535)
    assert image.shape == (1, 1, 4, 3) and not mask.any()


def test_palettes_may_be_transparent_and_animations_are_batches(nodes, folders):
    clear = Image.new("RGBA", (4, 2), (255, 0, 0, 255))
    clear.paste((0, 0, 0, 0), (0, 0, 2, 2))
    clear.quantize(8).save(folders / "input" / "palette.png")
    image, mask = nodes["LoadImage"].execute("palette.png").args
    assert mask[0].tolist() == [[1, 1, 0, 0]] * 2
    assert image[0, 0, 3].tolist() == [1, 0, 0]
    frames = [Image.new("RGB", (4, 2), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(folders / "input" / "moves.gif", save_all=True, append_images=frames[1:])
    image, mask = nodes["LoadImage"].execute("moves.gif").args
    assert torch.equal(image[:, 0, 0], torch.eye(3))
    assert mask.shape == (3, 2, 4) and not mask.any()


def test_files_are_counted_as_the_system_tells_them_apart(folders, monkeypatch):
    (folders / "output" / "Picture_00004_.png").touch()
    saved = partial(folder_paths.get_save_image_path, "picture", str(folders / "output"))
    assert saved()[2] == 1
    monkeypatch.setattr(os.path, "normcase", str.lower)
    assert saved()[2] == 5


def test_no_name_leads_out_of_its_folder(folders, monkeypatch):
    (folders / "secret.png").touch()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "mine", ([str(folders / "input")], {".png"}))
    assert folder_paths.get_full_path("mine", "../secret.png") is None
    assert not folder_paths.exists_annotated_filepath("../secret.png")
    with pytest.raises(ValueError, match="leads out"):
        folder_paths.get_annotated_filepath("../secret.png")
    for prefix in ("../a", str(folders / "a")):
        with pytest.raises(ValueError, match="outside"):
            folder_paths.get_save_image_path(prefix, str(folders / "output"))


def test_names_may_speak_of_another_folder(folders):
    (folders / "output" / "a.png").touch()
    assert folder_paths.get_annotated_filepath("a.png [output]") == str(folders / "output" / "a.png")
    assert folder_paths.exists_annotated_filepath("a.png [output]")
    assert not folder_paths.exists_annotated_filepath("a.png")


def test_models_are_looked_for_in_the_default_folder_first(tmp_path, monkeypatch):
    other, default = tmp_path / "other", tmp_path / "default"
    for folder, names in ((other, ("a.pt", "b.pt")), (default, ("b.pt", "c.txt"))):
        folder.mkdir()
        for name in names:
            (folder / name).touch()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "mine", ([str(other)], {".pt"}))
    folder_paths.add_model_folder_path("mine", str(default), is_default=True)
    assert folder_paths.get_full_path("mine", "b.pt") == str(default / "b.pt")
    assert folder_paths.get_filename_list("mine") == ["a.pt", "b.pt"]


def test_a_request_to_stop_is_heard_before_the_next_node(nodes, tiny, monkeypatch):
    def execute(cls, seed, extra=0):
        model_management.interrupt_current_processing()
        return NodeOutput(seed)

    monkeypatch.setattr(nodes["TinyNumber"], "execute", classmethod(execute))
    with pytest.raises(InterruptProcessingException):
        Executor(nodes).run({"1": number(1), "9": show(("1", 0))})


def test_cancelling_ends_the_run_and_the_next_one_is_whole(nodes, tiny, folders, picture_prompt):
    executor = Executor(nodes)
    prompt = picture_prompt(positive=["8", 0], negative=["8", 1], steps=4)
    settings = {"value": 1.0, "same_object": True, "interrupt_at": 4}
    prompt["8"] = {
        "class_type": "TinyApply",
        "inputs": {"positive": ["2", 0], "negative": ["3", 0], **settings},
    }
    with pytest.raises(InterruptProcessingException):
        executor.run(prompt)
    assert [event[0] for event in tiny.events] == ["pre_run", "pre_run", "get_control", "get_control"]
    assert not list(folders.glob("output/**/*.png"))
    prompt["8"]["inputs"]["interrupt_at"] = -1
    result = executor.run(prompt)
    assert result.executed[0] == "8"
    assert len(saved_paths(result.ui)) == 1
    assert tiny.events[-1] == ("cleanup",)


def test_node_classes_keep_no_state(nodes, monkeypatch):
    def execute(cls, seed, extra=0):
        cls.memory = seed

    monkeypatch.setattr(nodes["TinyNumber"], "execute", classmethod(execute))
    with pytest.raises(NodeError, match="cannot be changed while it runs"):
        Executor(nodes).run({"1": number(1), "9": show(("1", 0))})


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(-1, 9)), min_size=1, max_size=10))
def test_any_graph_of_sums_is_computed_from_its_sources(nodes, rows):
    """Node i adds its number to an earlier node's; the prompt lists them last first."""
    prompt, expected = {}, []
    for i, (value, source) in enumerate(rows):
        linked = 0 <= source < i
        prompt[str(i)] = number(value, **({"extra": [str(source), 0]} if linked else {}))
        expected.append(value + (expected[source] if linked else 0))
    shows = {f"show {i}": show((str(i), 0)) for i in range(len(rows))}
    result = Executor(nodes).run(dict(reversed([*prompt.items(), *shows.items()])))
    assert [shown(result, f"show {i}") for i in range(len(rows))] == [[str(value)] for value in expected]
    assert len(result.executed) == len(set(result.executed))


def test_a_real_host_in_the_same_process_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "folder_paths", types.ModuleType("folder_paths"))
    with pytest.raises(PackError, match="'folder_paths' is already loaded"):
        loader.load_pack(PACK)


def test_packs_that_cannot_be_loaded(tmp_path):
    with pytest.raises(PackError, match=r"no __init__\.py"):
        loader.load_pack(tmp_path)
    start = tmp_path / "__init__.py"
    start.write_text("import comfy.sd")
    with pytest.raises(PackError, match=r"No module named 'comfy\.sd'"):
        loader.load_pack(tmp_path)
    start.write_text("x = 1")
    with pytest.raises(PackError, match="has no comfy_entrypoint"):
        loader.load_pack(tmp_path)
    start.write_text("def comfy_entrypoint():\n    return 3")
    with pytest.raises(PackError, match="not a ComfyExtension"):
        loader.load_pack(tmp_path)


@pytest.mark.parametrize(
    ("node_id", "listed", "message"),
    [("Mine", "[Node, Node]", "two nodes with the id 'Mine'"), ("KSampler", "[Node]", "is the host's own")],
)
def test_ids_that_are_taken_are_refused(tmp_path, node_id, listed, message):
    (tmp_path / "__init__.py").write_text(
        f"""
from comfy_api.latest import ComfyExtension, io

class Node(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="{node_id}")

class Extension(ComfyExtension):
    async def get_node_list(self):
        return {listed}

def comfy_entrypoint():
    return Extension()
"""
    )
    with pytest.raises(PackError, match=message):
        loader.load_nodes(tmp_path)


def test_commands(tmp_path, capsys, picture_prompt, info):
    assert main(arguments(tmp_path, picture_prompt())) == 0
    path = capsys.readouterr().out.strip()
    assert path == str(tmp_path / "out" / "tiny" / "a_00001_.png")
    assert main(["--pack", PACK, "convert", path]) == 0
    assert json.loads(capsys.readouterr().out) == picture_prompt()
    assert main(["--pack", PACK, "object-info", "TinyNumber"]) == 0
    assert json.loads(capsys.readouterr().out) == {"TinyNumber": info["TinyNumber"]}


def test_texts_are_told_beside_the_paths(tmp_path, capsys):
    assert main(arguments(tmp_path, {"1": number(4), "9": show(("1", 0))})) == 0
    told = capsys.readouterr()
    assert "node 9 (TinyShow): 4" in told.err.splitlines()
    assert not told.out


def test_why_nodes_were_blocked_is_told(tmp_path, capsys):
    prompt = {"1": {"class_type": "TinyGate", "inputs": {"number": 3}}, "2": number(1, extra=["1", 0])}
    assert main(arguments(tmp_path, prompt | {"9": show(("2", 0))})) == 0
    assert "node 2 (TinyNumber): Execution Blocked: 3 is odd" in capsys.readouterr().err


@pytest.mark.parametrize(("seed", "traced"), [(99, False), (98, True)])
def test_a_trace_is_shown_of_a_nodes_faults_alone(tmp_path, capsys, seed, traced):
    assert main(arguments(tmp_path, {"1": number(seed), "9": show(("1", 0))})) == 1
    told = capsys.readouterr().err
    assert ("Traceback" in told) == traced and "Error: node 1 (TinyNumber): " in told


def test_pictures_come_from_the_folder_that_is_named_and_hold_the_editors_workflow(tmp_path, capsys):
    workflow = {
        "nodes": [
            {"id": 1, "type": "LoadImage", "widgets_values": ["unheard_of.png", "image"]},
            {
                "id": 2,
                "type": "SaveImage",
                "widgets_values": ["a"],
                "inputs": [{"name": "images", "link": 5}],
            },
        ],
        "links": [[5, 1, 0, 2, 0, "IMAGE"]],
    }
    (tmp_path / "mine").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "mine" / "unheard_of.png")
    assert main(arguments(tmp_path, workflow)) == 1
    assert "name its folder with --input" in capsys.readouterr().err
    assert main(arguments(tmp_path, workflow, "--input", str(tmp_path / "mine"))) == 0
    with Image.open(capsys.readouterr().out.strip()) as picture:
        assert json.loads(picture.text["workflow"]) == workflow


def test_a_converted_workflow_is_ascii_whatever_the_systems_encoding(tmp_path, capsys, picture_prompt):
    prompt = picture_prompt()
    prompt["2"]["inputs"]["text"] = "café 猫"
    saved = tmp_path / "w.json"
    saved.write_text(json.dumps(prompt))
    assert main(["--pack", PACK, "convert", str(saved)]) == 0
    told = capsys.readouterr().out
    assert told.isascii() and json.loads(told) == prompt


def test_previews_are_saved_beside_the_output(tmp_path, capsys, picture_prompt):
    prompt = picture_prompt()
    prompt["7"] = {"class_type": "PreviewImage", "inputs": {"images": ["6", 0]}}
    before = signal.getsignal(signal.SIGINT)
    assert main(arguments(tmp_path, prompt)) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.is_file() and path.parent == tmp_path / "out" / "temp"
    assert signal.getsignal(signal.SIGINT) == before


def test_commands_that_fail_say_why_and_leave_no_picture(tmp_path, capsys, picture_prompt):
    assert main(arguments(tmp_path, picture_prompt(steps=0, cfg=-1))) == 1
    told = capsys.readouterr().err.strip().splitlines()
    assert [line.startswith("Error: node 5 (KSampler), input ") for line in told] == [True, True]
    assert not (tmp_path / "out").exists()
    assert main(["--pack", PACK, "object-info", "Nothing"]) == 1
    assert "unknown node type 'Nothing'" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_named_before_anything_runs(tmp_path, capsys, picture_prompt):
    saved = tmp_path / "w.json"
    saved.write_text(json.dumps(picture_prompt()))
    assert main(["--pack", PACK, "run", str(saved), "--output", str(saved)]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("Error: pictures cannot be saved in") and "--output" in said


def test_a_drive_that_is_not_there_is_named(tmp_path, capsys, monkeypatch, picture_prompt):
    """On Linux one always is: of the output's folders none is found."""
    saved, out, real = tmp_path / "w.json", tmp_path / "drive" / "out", os.path.exists
    saved.write_text(json.dumps(picture_prompt()))
    monkeypatch.setattr(os.path, "exists", lambda path: Path(path) not in (out, *out.parents) and real(path))
    assert main(["--pack", PACK, "run", str(saved), "--output", str(out)]) == 1
    assert "pictures cannot be saved in" in capsys.readouterr().err


def test_a_chain_of_nodes_that_is_too_long_is_told(tmp_path, capsys):
    count = 3 * sys.getrecursionlimit()
    chain = {str(i): number(1, extra=[str(i + 1), 0]) for i in range(count)}
    assert main(arguments(tmp_path, chain | {str(count): number(1), "shown": show(("0", 0))})) == 1
    assert "too long for minihost" in capsys.readouterr().err


def test_words_that_cannot_be_written_are_an_error(capsys, monkeypatch):
    class Full(io.StringIO):
        def flush(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    assert main(["--pack", PACK, "object-info", "TinyNumber"]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("Error: ") and "No space left" in said


def test_a_reader_that_leaves_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-m", "minihost", "--pack", PACK, "object-info"],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait() == UNHEARD and b"Traceback" not in said


def test_pictures_that_are_no_png_and_group_nodes_are_named(tmp_path, capsys):
    assert main(["--pack", PACK, "run", str(tmp_path / "a.webp")]) == 1
    assert "only PNG is read" in capsys.readouterr().err
    assert "ungroup it" in unknown_type("node 1", "workflow>mine", {})


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to a child alone on Windows")
def test_ctrl_c_stops_at_the_next_step(tmp_path, picture_prompt):
    command = [sys.executable, "-m", "minihost", *arguments(tmp_path, picture_prompt(steps=10000))]
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        command, cwd=root, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        told = ""
        while "2/10000" not in told:
            letter = process.stderr.read(1)
            assert letter, told
            told += letter
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait() == CANCELLED
    assert "Cancelled." in rest and "Traceback" not in rest
    assert not list(tmp_path.glob("**/*.png"))


def test_a_second_ctrl_c_stops_at_once(tiny):
    with pytest.raises(KeyboardInterrupt), cancel_on_interrupt():
        signal.raise_signal(signal.SIGINT)
        assert model_management.processing_interrupted()
        signal.raise_signal(signal.SIGINT)


def test_inputs_may_have_any_name():
    """An input of Residual Reuse is called as the function's own argument is."""
    assert call(lambda **inputs: inputs, method=1, values=2, self=3) == {"method": 1, "values": 2, "self": 3}

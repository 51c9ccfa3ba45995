"""Every mistake in a workflow is told before anything runs, naming the node and the input."""

import pytest

from minihost.errors import WorkflowError
from minihost.validate import types_fit, validate


def show(node_id="9", source=("1", 0)):
    return {node_id: {"class_type": "TinyShow", "inputs": {"value": list(source)}}}


def problems(prompt, nodes):
    with pytest.raises(WorkflowError) as caught:
        validate(prompt, nodes)
    return caught.value.problems


def number(**inputs):
    return {"class_type": "TinyNumber", "inputs": {"seed": 1, **inputs}, "_meta": {"title": "My number"}}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"seed": -1}, "-1 is below the least value 0"),
        ({"seed": 101}, "101 is above the greatest value 100"),
        ({"seed": "many"}, "'many' is no INT"),
        ({"seed": None}, "None is no INT"),
        ({"seed": float("inf")}, "inf is no INT"),
        ({"seed": ["7", 0]}, "linked to node 7, which is not in the workflow"),
        ({"seed": ["5", 1]}, "linked to output 1 of node 5 (TinyMany), which has 1"),
        ({"seed": ["5", -1]}, "linked to output -1 of node 5 (TinyMany), which has 1"),
        ({"seed": ["5"]}, "is no link"),
    ],
)
def test_values_and_links(nodes, inputs, message):
    many = {"class_type": "TinyMany", "inputs": {"count": 1}}
    (problem,) = problems({"1": number(**inputs), "5": many, **show()}, nodes)
    assert problem.startswith("node 1 'My number' (TinyNumber), input 'seed': ")
    assert message in problem


def test_missing_inputs_are_named_also_within_autogrow(nodes):
    found = problems({"1": {"class_type": "TinySum", "inputs": {"numbers.number0": 3}}, **show()}, nodes)
    assert found == ["node 1 (TinySum), input 'numbers.number1': missing; connect a INT"]


def test_a_missing_choice_and_a_wrong_one(nodes):
    missing = problems({"1": {"class_type": "TinyChoice", "inputs": {"after": "x"}}, **show()}, nodes)
    wrong = problems(
        {"1": {"class_type": "TinyChoice", "inputs": {"mode": "turn", "after": ""}}, **show()}, nodes
    )
    inner = problems(
        {"1": {"class_type": "TinyChoice", "inputs": {"mode": "size", "after": ""}}, **show()}, nodes
    )
    assert "input 'mode': missing" in missing[0]
    assert "'turn' is not one of ['size', 'scale']" in wrong[0]
    assert ["input 'mode.width'" in inner[0], "input 'mode.note'" in inner[1]] == [True, True]


def test_a_combo_names_its_choices(nodes, picture_prompt):
    (problem,) = problems(picture_prompt(sampler_name="heun"), nodes)
    assert problem == "node 5 (KSampler), input 'sampler_name': 'heun' is not one of ['euler', 'dpmpp_2m']"


def test_link_types(nodes, picture_prompt):
    (problem,) = problems(picture_prompt(model=["1", 1]), nodes)
    assert problem == "node 5 (KSampler), input 'model': needs MODEL, but node 1 (TinyLoad) gives CLIP there"


def test_a_value_where_a_link_must_be(nodes, picture_prompt):
    (problem,) = problems(picture_prompt(model="sd15"), nodes)
    assert "must come over a link" in problem


def test_all_problems_are_told_at_once(nodes, picture_prompt):
    assert len(problems(picture_prompt(steps=0, cfg=-1, scheduler="none"), nodes)) == 3


def test_the_nodes_own_check(nodes):
    prompt = {"1": {"class_type": "TinyCheck", "inputs": {"low": 5, "high": 2}}, **show()}
    assert problems(prompt, nodes) == ["node 1 (TinyCheck): low 5 is above high 2"]
    # A value that the node checks itself is not held against the schema's limits, as in the host.
    prompt["1"]["inputs"] = {"low": -3, "high": 20}
    assert validate(prompt, nodes) == ["1", "9"]


@pytest.mark.parametrize("value", [None, 5])
def test_a_value_that_a_node_cannot_check_is_told(nodes, value):
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": value}},
        "9": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    (problem,) = problems(prompt, nodes)
    assert problem.startswith("node 1 (LoadImage): its inputs cannot be checked")


def test_unknown_types_are_found_anywhere(nodes):
    prompt = {"1": number(), **show(), "8": {"class_type": "Elsewhere", "inputs": {}}}
    (problem,) = problems(prompt, nodes)
    assert problem.startswith("node 8 (Elsewhere): unknown node type 'Elsewhere'")


def test_no_output(nodes):
    assert "no output" in problems({"1": number()}, nodes)[0]


def test_cycles_are_named(nodes):
    prompt = {"1": number(extra=["2", 0]), "2": number(extra=["3", 0]), "3": number(extra=["1", 0]), **show()}
    (problem,) = problems(prompt, nodes)
    for node_id in "123":
        assert f"node {node_id} 'My number' (TinyNumber)" in problem
    (problem,) = problems({"1": number(extra=["1", 0]), **show()}, nodes)
    assert "depend on its own output" in problem


def test_only_what_an_output_needs_is_checked_and_ordered(nodes):
    prompt = {**show(source=("2", 0)), "2": number(extra=["1", 0]), "1": number(), "7": number(seed=-5)}
    assert validate(prompt, nodes) == ["1", "2", "9"]


def test_values_get_their_inputs_type(nodes):
    prompt = {"1": number(seed="12", extra=3.0), **show()}
    validate(prompt, nodes)
    assert prompt["1"]["inputs"] == {"seed": 12, "extra": 3}
    assert type(prompt["1"]["inputs"]["extra"]) is int


def test_types_fit():
    assert types_fit("INT", "INT") and types_fit("INT", "FLOAT,INT") and types_fit("*", "MODEL")
    assert types_fit("MODEL", "*") and not types_fit("INT", "FLOAT") and not types_fit("INTEGER", "INT")

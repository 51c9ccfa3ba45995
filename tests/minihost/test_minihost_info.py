"""Descriptions of nodes, as the host's /object_info gives them (checked against ComfyUI 0.28 and 0.33)."""

import pytest

from minihost.shims.api_latest import io


def test_a_whole_node(info):
    assert info["TinyLoad"] == {
        "input": {
            "required": {
                "prediction": [
                    "COMBO",
                    {
                        "tooltip": "What it predicts.",
                        "default": "eps",
                        "multiselect": False,
                        "options": ["eps", "v"],
                    },
                ]
            }
        },
        "input_order": {"required": ["prediction"]},
        "is_input_list": False,
        "output": ["MODEL", "CLIP", "VAE"],
        "output_is_list": [False, False, False],
        "output_name": ["MODEL", "clip", "VAE"],
        "output_tooltips": ["The model.", None, "The autoencoder."],
        "output_matchtypes": None,
        "name": "TinyLoad",
        "display_name": "Load Tiny",
        "description": "A random model.",
        "python_module": "custom_nodes.tinypack",
        "category": "tiny",
        "output_node": False,
        "deprecated": False,
        "experimental": False,
        "dev_only": False,
        "api_node": False,
        "price_badge": None,
        "search_aliases": ["load", "tiny"],
        "essentials_category": None,
        "has_intermediate_output": False,
    }


def test_optional_and_hidden_inputs(info):
    found = info["TinyCheck"]
    assert found["input"]["hidden"] == {"unique_id": ["UNIQUE_ID"]}
    assert found["input"]["optional"]["anything"] == ["*", {"lazy": False}]
    assert found["input_order"] == {
        "required": ["low", "high"],
        "optional": ["file", "anything"],
        "hidden": ["unique_id"],
    }
    assert found["deprecated"] is True


def test_an_output_node_sees_prompt_and_workflow(info):
    found = info["TinyShow"]
    assert found["input"]["hidden"] == {"prompt": ["PROMPT"], "extra_pnginfo": ["EXTRA_PNGINFO"]}
    assert found["input"]["required"] == {"value": ["INT,STRING,FLOAT", {}]}
    assert (found["output_node"], found["experimental"], found["output"]) == (True, True, [])


def test_dynamic_inputs(info):
    slot = {"required": {"number": ["INT", {"tooltip": "One of them.", "forceInput": True}]}}
    assert info["TinySum"]["input"]["required"] == {
        "numbers": [
            "COMFY_AUTOGROW_V3",
            {"template": {"input": slot, "prefix": "number", "min": 2, "max": 4}},
        ],
        "named": [
            "COMFY_AUTOGROW_V3",
            {
                "template": {
                    "input": {"required": {}, "optional": {"one": ["INT", {"forceInput": True}]}},
                    "names": ["a", "b"],
                    "min": 0,
                }
            },
        ],
    }
    kind, options = info["TinyChoice"]["input"]["required"]["mode"]
    assert kind == "COMFY_DYNAMICCOMBO_V3"
    assert options["options"][1] == {
        "key": "scale",
        "inputs": {"required": {"factor": ["FLOAT", {"default": 2.0}]}},
    }


def test_numbers(info):
    assert info["TinyNumber"]["input"]["required"]["seed"] == [
        "INT",
        {"default": 1, "min": 0, "max": 100, "control_after_generate": True, "display": "slider"},
    ]


@pytest.mark.parametrize(
    ("made", "options"),
    [
        (
            io.String.Input("a", multiline=True, dynamic_prompts=True),
            {"multiline": True, "dynamicPrompts": True},
        ),
        (io.Boolean.Input("a", default=False, label_on="yes"), {"default": False, "label_on": "yes"}),
        (io.Image.Input("a", "Picture", extra_dict={"own": 1}), {"display_name": "Picture", "own": 1}),
        (io.Float.Input("a", force_input=True, advanced=True), {"forceInput": True, "advanced": True}),
        (
            io.MultiType.Input(io.Float.Input("a", default=1.0), [io.Mask]),
            {"default": 1.0, "widgetType": "FLOAT"},
        ),
        (
            io.Curve.Input("a"),
            {
                "default": {"points": [[0.0, 0.0], [1.0, 1.0]], "interpolation": "monotone_cubic"},
                "socketless": True,
            },
        ),
        (
            io.MultiCombo.Input("a", options=["x", "y"], default=["x"], chip=True),
            {
                "options": ["x", "y"],
                "default": ["x"],
                "multiselect": True,
                "multi_select": {"chip": True},
            },
        ),
    ],
)
def test_options(made, options):
    assert made.as_dict() == options


def test_an_autogrow_makes_sockets_of_curves():
    template = io.Autogrow.TemplatePrefix(io.Curve.Input("a"), "a")
    assert template.as_dict()["input"]["required"]["a"][1]["forceInput"] is True


def test_match_types_are_listed():
    template = io.MatchType.Template("t", [io.Image, io.Mask])
    schema = io.Schema(
        "X", inputs=[io.MatchType.Input("a", template)], outputs=[io.MatchType.Output(template)]
    )
    schema.finalize()
    found = schema.node_info("m")
    assert found["output_matchtypes"] == ["t"]
    assert found["input"]["required"]["a"][1] == {
        "template": {"template_id": "t", "allowed_types": "IMAGE,MASK"}
    }


def test_mistakes_in_a_schema():
    with pytest.raises(TypeError, match="no argument 'minimum'"):
        io.Int.Input("a", minimum=3)
    with pytest.raises(TypeError, match="needs an id"):
        io.Int.Input()
    with pytest.raises(TypeError, match="plain inputs"):
        io.Autogrow.TemplatePrefix(io.DynamicCombo.Input("a", []), "b")
    with pytest.raises(ValueError, match="must be unique"):
        io.Schema("X", inputs=[io.Int.Input("a"), io.Mask.Input("a")]).validate()

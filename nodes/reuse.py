"""How often a control is computed, and what it says in between."""

from comfy_api.latest import io

from ..cnet_core.control.reuse import Reuse
from .inputs import ReuseType

_SHARE = io.Float.Input(
    "share",
    default=0.33,
    min=0.01,
    max=1.0,
    step=0.01,
    tooltip=(
        "How many of the steps in which the control acts are computed: 0.33 is every third, 1 all. Samplers "
        "that ask twice in a step, as heun and dpmpp_sde, get one computed answer in it at most: only exact "
        "computes both."
    ),
)
_ERROR = io.Float.Input(
    "error",
    default=0.3,
    min=0.001,
    max=1.0,
    step=0.001,
    tooltip=(
        "How wrong a prediction may be, as a share of what it predicts. Less means more steps are computed: "
        "at 0.3 about three quarters of 20 steps, half of 30, a third of 50; below 0.1 nearly all. Fixed "
        "anchors of the same share measure better."
    ),
)
_ANCHORS = {"uniform": _SHARE, "dense early": _SHARE, "adaptive": _ERROR}


class ResidualReuse(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetResidualReuse",
            display_name="Residual Reuse (CNet)",
            category="cnet/schedule",
            description=(
                "A control computed at some steps of sampling only, to save time. The economy input of Apply "
                "ControlNet has what measures best; this node has the rest."
            ),
            search_aliases=["controlnet cache", "faster controlnet", "skip steps", "speed"],
            inputs=[
                io.Combo.Input(
                    "method",
                    options=["predicted", "hold"],
                    tooltip=(
                        "Between computed steps. predicted: what the control says goes on as it went from "
                        "one computed step to the next. hold: it stays."
                    ),
                ),
                io.DynamicCombo.Input(
                    "anchors",
                    options=[io.DynamicCombo.Option(name, [extra]) for name, extra in _ANCHORS.items()],
                    tooltip=(
                        "The steps that are computed. uniform: evenly spaced. dense early: more of them "
                        "early, where the layout is decided. adaptive: chosen while sampling, by how wrong "
                        "the last prediction was."
                    ),
                ),
            ],
            outputs=[
                ReuseType.Output(
                    display_name="reuse",
                    tooltip="For the reuse input of Apply ControlNet, Control Unit or Merge Controls.",
                )
            ],
        )

    @classmethod
    def execute(cls, method: str, anchors: dict) -> io.NodeOutput:
        numbers = {"share": anchors.get("share"), "bound": anchors.get("error")}
        given = {name: number for name, number in numbers.items() if number is not None}
        return io.NodeOutput(Reuse(method, anchors["anchors"], **given))

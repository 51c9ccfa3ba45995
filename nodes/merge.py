"""Combine several ControlNets by a rule."""

from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io

from ..cnet_core.control.merge import MODES
from ..cnet_core.control.timing import Timing
from ..cnet_core.errors import ControlError
from . import conditioning, host
from .inputs import conditioning_inputs, conditioning_outputs, control_inputs, timing_inputs, vae_input

UnitType = io.Custom("CNET_UNIT")


@dataclass(frozen=True)
class Unit:
    """What travels on a CNET_UNIT socket: a CONTROL_NET that holds its hint, and when it acts."""

    control: Any
    timing: Timing


class ControlUnit(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetUnit",
            display_name="Control Unit (CNet)",
            category="cnet/merge",
            description="One ControlNet with its hint, strength and range, for Merge Controls.",
            search_aliases=["controlnet unit", "control stack", "multi controlnet"],
            inputs=[*control_inputs(), *timing_inputs(), vae_input()],
            outputs=[UnitType.Output(display_name="unit", tooltip="For Merge Controls.")],
        )

    @classmethod
    def execute(cls, control_net, image, strength, start_percent, end_percent, vae=None) -> io.NodeOutput:
        timing = Timing(strength, start_percent, end_percent)
        return io.NodeOutput(Unit(conditioning.with_hint(control_net, image, timing, vae), timing))


class MergeControls(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetMerge",
            display_name="Merge Controls (CNet)",
            category="cnet/merge",
            description=(
                "Combine controls, for example pose and depth, into one. Connect a unit and the next slot "
                "appears. Units of strength 0 cost nothing."
            ),
            search_aliases=["multi controlnet", "combine controlnets", "pose and depth"],
            inputs=[
                *conditioning_inputs(),
                io.Autogrow.Input(
                    "units",
                    template=io.Autogrow.TemplatePrefix(
                        UnitType.Input("unit", tooltip="A control with its hint, from Control Unit."),
                        prefix="unit",
                        min=1,
                        max=16,
                    ),
                    tooltip="The controls to combine.",
                ),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default="sum",
                    tooltip=(
                        "sum: add the controls up, as in the paper. average: add them up and divide by the "
                        "strengths that are present, so that strengths only weigh the controls against each "
                        "other."
                    ),
                ),
            ],
            outputs=conditioning_outputs(),
        )

    @classmethod
    def execute(cls, positive, negative, units: dict[str, Unit], mode: str) -> io.NodeOutput:
        for slot, unit in units.items():
            if not isinstance(unit, Unit):
                raise ControlError(f"{slot} is no control unit; connect the output of a Control Unit node.")
            conditioning.check_conditioning(unit.control, positive + negative)
        controls = [unit.control for unit in units.values() if not unit.timing.absent]
        if not controls:
            return io.NodeOutput(positive, negative)
        return io.NodeOutput(*conditioning.attach(host.MergedControl(controls, mode), positive, negative))

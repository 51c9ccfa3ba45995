"""Combine several ControlNets by a rule."""

import logging
from dataclasses import dataclass

from comfy_api.latest import io

from ..cnet_core.control.merge import MODES, Rule
from ..cnet_core.control.reuse import Reuse
from ..cnet_core.errors import ControlError
from . import conditioning, host
from .inputs import (
    conditioning_inputs,
    conditioning_outputs,
    control_inputs,
    reuse_inputs,
    reuse_of,
    timing_inputs,
    vae_input,
    weighting,
    weighting_inputs,
)

UnitType = io.Custom("CNET_UNIT")


MODE_DESCRIPTIONS = {
    "sum": "add the controls up, as in the paper.",
    "average": "add them up and divide by the strengths that are present, so that these only weigh the "
    "controls against each other; masks and block weights still say where and how much.",
    "normalised": "add them up, but no louder than the loudest of them.",
    "strongest": "at each place the control that says most.",
    "priority": "in the units' order; what a later control says against an earlier one is left out.",
    "regions": "each in its own mask; where masks overlap they share the place.",
}


def _mode_inputs(mode: str) -> list[io.Input]:
    if mode != "strongest":
        return []
    return [
        io.Float.Input(
            "softness",
            default=0.2,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="0: only the strongest control speaks at a place; 1: all, as loud as they are.",
        )
    ]


@dataclass(frozen=True)
class Unit:
    """What travels on a CNET_UNIT socket: a control that holds its hint and its weights, None if off."""

    control: host.Steered | None

    @property
    def absent(self) -> bool:
        return self.control is None or self.control.weighting.absent


def units_input() -> io.Input:
    """Slots for units; `controls_of` takes what they bring.

    None is required: a unit that is muted is one that is off, the first one too. Where all are, the host
    gives no dict of them.
    """
    return io.Autogrow.Input(
        "units",
        template=io.Autogrow.TemplatePrefix(
            UnitType.Input("unit", tooltip="A control with its hint, from Control Unit."),
            prefix="unit",
            min=0,
            max=16,
        ),
        tooltip="The controls to combine.",
    )


def controls_of(units: dict[str, Unit] | None, prompts: list) -> list[host.Steered]:
    """The controls of the units that say anything at all, in order; None for no units.

    Raises ControlError for a slot that holds something else, BaseMismatchError for a control that cannot read
    these prompts, and for two that were made for different base models.
    """
    units = units or {}
    for slot, unit in units.items():
        if not isinstance(unit, Unit):
            raise ControlError(f"{slot} is no control unit; connect the output of a Control Unit node.")
    controls: dict[str, host.Steered] = {}
    for slot, unit in units.items():
        if unit.control is not None and not unit.absent:
            # A unit in two slots is two controls, each with what it keeps of a run.
            again = any(unit.control is control for control in controls.values())
            controls[slot] = unit.control.copy() if again else unit.control
    for control in controls.values():
        conditioning.check_conditioning(control, prompts)
    conditioning.check_together(controls)
    return list(controls.values())


def economised(control: host.Steered, reuse: Reuse) -> host.Steered:
    """The control, computed as `reuse` says where it has no economy of its own."""
    if reuse.exact or not control.reuse.exact:
        return control
    control = control.copy()
    control.reuse = reuse
    return control


class ControlUnit(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetUnit",
            display_name="Control Unit (CNet)",
            category="cnet/merge",
            description="One ControlNet with its hint, strength and range, for Merge Controls.",
            search_aliases=["controlnet unit", "control stack", "multi controlnet"],
            inputs=[
                *control_inputs(),
                *timing_inputs(),
                vae_input(),
                *weighting_inputs(),
                io.Boolean.Input(
                    "enabled",
                    default=True,
                    optional=True,
                    tooltip="Off: the merge leaves this control out, at no cost.",
                ),
                *reuse_inputs("the control is"),
            ],
            outputs=[UnitType.Output(display_name="unit", tooltip="For Merge Controls.")],
        )

    @classmethod
    def execute(
        cls, control_net, image=None, vae=None, enabled=True, economy="exact", reuse=None, **weights
    ) -> io.NodeOutput:
        wanted = weighting(**weights)
        if image is None and (wanted.absent or not enabled):
            # Its hint's loader may be muted with it.
            return io.NodeOutput(Unit(None))
        control = conditioning.with_hint(control_net, image, wanted, vae, reuse_of(economy, reuse))
        return io.NodeOutput(Unit(control if enabled else None))


class MergeControls(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetMerge",
            display_name="Merge Controls (CNet)",
            category="cnet/merge",
            description=(
                "Combine controls, for example pose and depth, into one. Connect a unit and the next slot "
                "appears. Units of strength 0 cost nothing. ControlNet-LLLite and Reference Control act "
                "beside the others whatever the mode."
            ),
            search_aliases=["multi controlnet", "combine controlnets", "pose and depth"],
            inputs=[
                *conditioning_inputs(),
                units_input(),
                io.DynamicCombo.Input(
                    "mode",
                    options=[io.DynamicCombo.Option(mode, _mode_inputs(mode)) for mode in MODES],
                    tooltip=" ".join(f"{mode}: {MODE_DESCRIPTIONS[mode]}" for mode in MODES),
                ),
                *reuse_inputs("units whose own economy is exact are"),
            ],
            outputs=conditioning_outputs(),
        )

    @classmethod
    def execute(
        cls, positive, negative, mode: dict, units: dict[str, Unit] | None = None, economy="exact", reuse=None
    ) -> io.NodeOutput:
        rule, common = Rule(mode["mode"], mode.get("softness", 0.0)), reuse_of(economy, reuse)
        controls = [economised(control, common) for control in controls_of(units, positive + negative)]
        if not controls:
            if not units:
                logging.warning(
                    "Merge Controls: no unit is connected, or all are muted; the prompts go on as they are."
                )
            return io.NodeOutput(positive, negative)
        return io.NodeOutput(*conditioning.attach(host.MergedControl(controls, rule), positive, negative))

"""How the strength of a control changes: over sampling, over a batch, from block to block."""

import math
import re

from comfy_api.input import CurveInput
from comfy_api.latest import io

from ..cnet_core.control.blocks import PRESETS, BlockWeights
from ..cnet_core.control.schedule import INTERPOLATIONS, Keyframe, Keyframes, Schedule
from ..cnet_core.errors import ControlError
from .inputs import BlocksType, ScheduleType, strength_input

_TO_CONTROL = "For the schedule input of Apply ControlNet or Control Unit."


def _numbers(text: str, what: str) -> tuple[float, ...]:
    """Numbers apart by commas, spaces or lines. Raises ControlError naming the one that is none."""
    parts = [part for part in (part.strip(",") for part in re.split(r"[\s;]+", text)) if part]
    for part in parts:
        # 0,5 may be meant as 0.5. A list of 0 and 1 alone is none, and a longer one has more commas.
        if re.fullmatch(r"\d+,\d+", part) and (len(parts) > 1 or not re.fullmatch("[01],[01]", part)):
            one, two = part.replace(",", "."), part.replace(",", ", ")
            raise ControlError(
                f"{part!r} among the {what} may be one number or two; write {one} for one, or {two} for two."
            )
    words = [word for word in re.split(r"[\s,;]+", text) if word]
    if not words:
        raise ControlError(f"no {what} are given; write numbers apart by commas, such as 1, 0.5, 0.")
    try:
        return tuple(float(word) for word in words)
    except ValueError:
        wrong = next(word for word in words if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", word))
        raise ControlError(
            f"{wrong!r} among the {what} is no number; write numbers apart by commas, such as 1, 0.5, 0."
        ) from None


def _previous(schedule: Schedule | None) -> Schedule:
    if not isinstance(schedule, Schedule | None):
        raise ControlError(
            "previous is no schedule; connect a Strength Keyframe, Strength Curve or Frame Strengths."
        )
    return schedule or Schedule()


class StrengthKeyframe(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetKeyframe",
            display_name="Strength Keyframe (CNet)",
            category="cnet/schedule",
            description=(
                "A control's strength at one moment of sampling. Put several in a row, in order of time; the "
                "strength goes from each to the next."
            ),
            search_aliases=["timestep keyframe", "strength schedule", "controlnet schedule"],
            inputs=[
                io.Float.Input(
                    "percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="The moment: 0 is the first step, 1 the last.",
                ),
                strength_input(
                    "strength",
                    tooltip="The strength at that moment, a factor on the control's own.",
                ),
                io.Combo.Input(
                    "interpolation",
                    options=list(INTERPOLATIONS),
                    default="linear",
                    tooltip=(
                        "How it goes on to the next keyframe: linear, smooth (slow at both ends), or hold "
                        "(stay, then jump)."
                    ),
                ),
                ScheduleType.Input(
                    "previous", optional=True, tooltip="The keyframes before this one; they must be earlier."
                ),
            ],
            outputs=[ScheduleType.Output(display_name="schedule", tooltip=_TO_CONTROL)],
        )

    @classmethod
    def execute(cls, percent, strength, interpolation, previous=None) -> io.NodeOutput:
        before = _previous(previous)
        if not isinstance(before.over_time, Keyframes | None):
            raise ControlError(
                "keyframes cannot follow a curve; connect a Strength Keyframe or Frame Strengths to previous."
            )
        earlier = before.over_time.points if before.over_time else ()
        keyframes = Keyframes((*earlier, Keyframe(percent, strength, interpolation)))
        return io.NodeOutput(Schedule(keyframes, before.over_frames))


class StrengthCurve(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetStrengthCurve",
            display_name="Strength Curve (CNet)",
            category="cnet/schedule",
            description="A control's strength over sampling as a curve, from the first step to the last.",
            search_aliases=["strength schedule", "controlnet curve", "ease controlnet"],
            inputs=[
                io.Curve.Input(
                    "curve",
                    tooltip=(
                        "The curve: time from left to right, strength from bottom to top. Draw it here, or "
                        "connect a Curve Editor."
                    ),
                    socketless=False,
                    # As if there were no curve, until it is drawn.
                    default=[(0.0, 1.0), (1.0, 1.0)],
                ),
                strength_input(
                    "lowest",
                    default=0.0,
                    optional=True,
                    advanced=True,
                    tooltip="The strength at the bottom of the curve.",
                ),
                strength_input(
                    "highest",
                    optional=True,
                    advanced=True,
                    tooltip="The strength at the top of the curve.",
                ),
                ScheduleType.Input(
                    "previous", optional=True, tooltip="Frame strengths to keep beside the curve."
                ),
            ],
            outputs=[ScheduleType.Output(display_name="schedule", tooltip=_TO_CONTROL)],
        )

    @classmethod
    def execute(cls, curve, lowest=0.0, highest=1.0, previous=None) -> io.NodeOutput:
        before = _previous(previous)
        if before.over_time is not None:
            raise ControlError(
                "a curve cannot follow keyframes or another curve; connect Frame Strengths to previous, or "
                "nothing."
            )
        for name, strength in (("lowest", lowest), ("highest", highest)):
            if not (math.isfinite(strength) and strength >= 0):
                raise ControlError(f"{name} is {strength}; expected a number from 0 upwards.")
        # From the widget it comes as its points, from a Curve Editor as a curve.
        curve = CurveInput.from_raw(curve)
        if not all(math.isfinite(value) for point in curve.points for value in point):
            raise ControlError(f"the curve goes through {curve.points}; draw it through points in 0..1.")

        def over_time(percent: float) -> float:
            return lowest + (highest - lowest) * float(curve.interp(percent))

        return io.NodeOutput(Schedule(over_time, before.over_frames))


class FrameStrengths(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetFrameStrengths",
            display_name="Frame Strengths (CNet)",
            category="cnet/schedule",
            description="A strength for each picture of a batch, or each frame of an animation.",
            search_aliases=["latent keyframe", "per frame strength", "batch strength"],
            inputs=[
                io.String.Input(
                    "strengths",
                    default="1, 0.5, 0",
                    multiline=True,
                    tooltip=(
                        "A strength per picture, apart by commas or lines. The last one holds for all "
                        "further pictures; 0 costs nothing."
                    ),
                ),
                ScheduleType.Input(
                    "previous", optional=True, tooltip="Keyframes or a curve to keep beside the frames."
                ),
            ],
            outputs=[ScheduleType.Output(display_name="schedule", tooltip=_TO_CONTROL)],
        )

    @classmethod
    def execute(cls, strengths, previous=None) -> io.NodeOutput:
        before = _previous(previous)
        if before.over_frames:
            raise ControlError(
                "previous has strengths for frames already; put both into one list, or connect keyframes or "
                "a curve."
            )
        return io.NodeOutput(Schedule(before.over_time, _numbers(strengths, "strengths")))


class Blocks(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        own = io.String.Input(
            "weights",
            default="1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1",
            multiline=True,
            tooltip=(
                "A weight per block from the outermost to the deepest: SD1.5 and SD2.x have 13, SDXL 10. "
                "Another number is stretched over the blocks."
            ),
        )
        return io.Schema(
            node_id="CNetBlockWeights",
            display_name="Block Weights (CNet)",
            category="cnet/schedule",
            description=(
                "How strongly each block of the model is steered. Deep blocks decide the structure, outer "
                "ones the detail."
            ),
            search_aliases=["soft weights", "layer weights", "controlnet block weight"],
            inputs=[
                io.DynamicCombo.Input(
                    "preset",
                    options=[
                        *(io.DynamicCombo.Option(preset, []) for preset in PRESETS),
                        io.DynamicCombo.Option("custom", [own]),
                    ],
                    tooltip=(
                        "even: all as trained. soft: falling towards the detail, the release's balance. "
                        "structure first, detail first: one end in full, the other not at all. custom: your "
                        "own weights."
                    ),
                ),
            ],
            outputs=[
                BlocksType.Output(
                    display_name="blocks", tooltip="For the blocks input of Apply ControlNet or Control Unit."
                )
            ],
        )

    @classmethod
    def execute(cls, preset: dict) -> io.NodeOutput:
        if preset["preset"] == "custom":
            return io.NodeOutput(BlockWeights(values=_numbers(preset["weights"], "weights")))
        return io.NodeOutput(BlockWeights(preset["preset"]))

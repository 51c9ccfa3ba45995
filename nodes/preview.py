"""Show how strongly controls act at each step."""

from typing import Any

from comfy_api.latest import io, ui

from ..cnet_core.control.reuse import EXACT, Course, Reuse, computed_steps
from ..cnet_core.control.schedule import Clock
from ..cnet_core.control.timing import Timing, active
from ..cnet_core.control.weighting import Weighting, effective_strengths
from ..cnet_core.errors import ControlError
from ..cnet_core.networks.config import UNetConfig
from ..cnet_core.networks.t2i_adapter import AdapterConfig
from . import conditioning, host
from .charts import StrengthRow, number, strength_chart
from .inputs import noise_levels, scheduler_input, sigmas_input, steps_input


class PreviewStrength(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetPreviewStrength",
            display_name="Preview Strength (CNet)",
            category="cnet/schedule",
            description=(
                "A chart of how strongly each control acts at each step of sampling, and of the steps at "
                "which it is computed: pale bars are predicted."
            ),
            search_aliases=["controlnet schedule preview", "strength chart", "strength graph"],
            # It runs for what it shows, whether or not the picture goes on.
            is_output_node=True,
            inputs=[
                io.Conditioning.Input(
                    "positive", tooltip="The prompt with its controls, as it goes to the sampler."
                ),
                io.Model.Input("model", tooltip="The model that draws: its noise levels are shown."),
                scheduler_input(),
                steps_input(),
                io.Float.Input(
                    "denoise", default=1.0, min=0.01, max=1.0, step=0.01, tooltip="As in the sampler."
                ),
                sigmas_input("scheduler, steps and denoise"),
            ],
            outputs=[io.Image.Output(display_name="chart", tooltip="The chart, as shown on the node.")],
        )

    @classmethod
    def execute(cls, positive, model, scheduler, steps, denoise, sigmas=None) -> io.NodeOutput:
        controls = conditioning.chain_of(positive)
        if not controls:
            raise ControlError(
                "this prompt carries no control; connect the output of Apply ControlNet or Merge Controls. "
                "Controls of strength 0 are left out there."
            )
        levels = noise_levels(model, scheduler, steps, denoise, sigmas)
        sigma_at = host.sigma_at(model)
        clock = Clock.of(sigma_at)
        rows = [
            _row(name, control, levels, clock, sigma_at, model)
            for name, control in zip(conditioning.names_of(controls), controls, strict=True)
        ]
        part = "" if denoise > 0.9999 else f", denoise {number(denoise)}"
        taken = f"{scheduler}, {steps} steps{part}" if sigmas is None else f"sigmas, {len(levels)} steps"
        chart = strength_chart(f"Strength at each step: {taken}", rows, levels)
        return io.NodeOutput(chart, ui=ui.PreviewImage(chart))


def _row(
    name: str, control: Any, sigmas: list[float], clock: Clock, sigma_at: Any, model: Any
) -> StrengthRow:
    """One control's numbers. Of the host's own controls strength and range are known."""
    span = control.timestep_percent_range
    if isinstance(control, host.Steered):
        weighting = control.acting
    else:
        weighting = Weighting(Timing(control.strength, *span))
    levels = sigma_at(span[0]), sigma_at(span[1])
    strengths = effective_strengths(weighting, sigmas, clock, levels)
    course = Course([sigma for sigma in sigmas if active(sigma, levels)], clock.percent)
    blocks = weighting.blocks.of(_block_count(control, model))
    frames = weighting.schedule.over_frames
    return StrengthRow(
        name,
        [cond for cond, _ in strengths],
        [uncond for _, uncond in strengths],
        frames if any(factor != 1 for factor in frames) else (),
        blocks if any(weight != 1 for weight in blocks) else (),
        *_computed(_reuse_of(control), course, sigmas, [any(sides) for sides in strengths]),
    )


def _reuse_of(control: Any) -> Reuse:
    """How a control is economised, if it can be at all."""
    return control.reuse if isinstance(control, host.ResidualControl) and not control.steady else EXACT


def _computed(
    reuse: Reuse, course: Course, sigmas: list[float], acting: list[bool]
) -> tuple[list[bool], str]:
    """At which steps a control is computed, and what that saves, in words."""
    if reuse.exact or not any(acting):
        return [], ""
    if reuse.adaptive:
        return [], "computed steps are chosen while sampling"
    computed = computed_steps(reuse, course, sigmas, acting)
    saved = 1 - sum(computed) / sum(acting)
    return computed, f"{sum(computed)} of {sum(acting)} steps computed, saves {saved:.0%}"


def _block_count(control: Any, model: Any) -> int:
    """How many blocks a control speaks to; for those of the host's, where only they know, SD1.5's number."""
    if getattr(control, "within", False):
        # All of the UNet's.
        return len(host.base_config(model.model).residual_channels)
    config = getattr(control, "config", None)
    if isinstance(config, AdapterConfig):
        return len(config.channels)
    return len(config.residual_channels) if isinstance(config, UNetConfig) else 13

"""A pose and a depth map merged, by presets."""

from dataclasses import replace

from comfy_api.latest import io

from ..cnet_core.control.blocks import BlockWeights
from ..cnet_core.control.merge import Rule
from . import conditioning, host
from .inputs import conditioning_inputs, conditioning_outputs, reuse_inputs, reuse_of
from .merge import Unit, UnitType, controls_of, economised

# Rule, who comes first, and the blocks in which the second one is heard.
PRESETS: dict[str, tuple[str, str, str]] = {
    "equal": ("normalised", "pose", "even"),
    "pose leads": ("priority", "pose", "even"),
    "depth leads": ("priority", "depth", "even"),
    "pose leads, depth for the layout": ("priority", "pose", "structure first"),
}


class PoseAndDepth(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetPoseDepth",
            display_name="Pose and Depth (CNet)",
            category="cnet/merge",
            description="Merge a pose and a depth map by a preset; Merge Controls has every rule.",
            search_aliases=["openpose depth", "pose depth preset", "combine controlnets"],
            inputs=[
                *conditioning_inputs(),
                UnitType.Input("pose", tooltip="The pose, from Control Unit."),
                UnitType.Input("depth", tooltip="The depth map, from Control Unit."),
                io.Combo.Input(
                    "preset",
                    options=list(PRESETS),
                    default="pose leads",
                    tooltip=(
                        "equal: both, no louder than the louder one. pose leads: the depth map adds what "
                        "does not oppose the pose. depth leads: the other way round. pose leads, depth for "
                        "the layout: as pose leads, and the depth map leaves the details to the prompt."
                    ),
                ),
                *reuse_inputs("units whose own economy is exact are"),
            ],
            outputs=conditioning_outputs(),
        )

    @classmethod
    def execute(
        cls, positive, negative, pose: Unit, depth: Unit, preset: str, economy="exact", reuse=None
    ) -> io.NodeOutput:
        mode, first, blocks = PRESETS[preset]
        common = reuse_of(economy, reuse)
        units = {"pose": pose, "depth": depth}
        second = "depth" if first == "pose" else "pose"
        ordered = {name: units[name] for name in (first, second)}
        controls = [economised(control, common) for control in controls_of(ordered, positive + negative)]
        if not controls:
            return io.NodeOutput(positive, negative)
        if not ordered[second].absent and blocks != "even":
            quieter = controls[-1].copy()
            weighting = quieter.weighting
            quieter.weighting = replace(weighting, blocks=weighting.blocks * BlockWeights(blocks))
            controls[-1] = quieter
        merged = host.MergedControl(controls, Rule(mode))
        return io.NodeOutput(*conditioning.attach(merged, positive, negative))

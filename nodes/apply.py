"""Apply one ControlNet to a prompt."""

from comfy_api.latest import io

from . import conditioning
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


class ApplyControlNet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetApply",
            display_name="Apply ControlNet (CNet)",
            category="cnet/apply",
            description=(
                "Steer a picture with one hint. Several of these in a row add up; to combine controls by "
                "another rule, use Control Unit and Merge Controls."
            ),
            search_aliases=["controlnet apply", "use controlnet", "apply control"],
            inputs=[
                *conditioning_inputs(),
                *control_inputs(),
                *timing_inputs(),
                vae_input(),
                *weighting_inputs(),
                *reuse_inputs("the control is"),
            ],
            outputs=conditioning_outputs(),
        )

    @classmethod
    def execute(
        cls,
        positive,
        negative,
        control_net,
        image=None,
        vae=None,
        economy="exact",
        reuse=None,
        **weights,
    ) -> io.NodeOutput:
        wanted = weighting(**weights)
        if image is None and wanted.absent:
            # Its hint's loader may be muted with it.
            return io.NodeOutput(positive, negative)
        control = conditioning.with_hint(control_net, image, wanted, vae, reuse_of(economy, reuse))
        conditioning.check_conditioning(control, positive + negative)
        if wanted.absent:
            return io.NodeOutput(positive, negative)
        return io.NodeOutput(*conditioning.attach(control, positive, negative))

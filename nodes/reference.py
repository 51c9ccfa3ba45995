"""Reference-only: a control without a file."""

from comfy_api.latest import io

from . import host


class LoadReferenceControl(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetReference",
            display_name="Reference Control (CNet)",
            category="cnet/load",
            description=(
                "Let the model look at a reference picture while it draws, for its style, colours and "
                "subject. Needs no file: it works with any SD1.5, SD2.x or SDXL model. Connect it to Apply "
                "ControlNet or Control Unit, with the reference as image and the base model's VAE."
            ),
            search_aliases=["reference only", "reference controlnet", "style reference", "style fidelity"],
            inputs=[
                io.Float.Input(
                    "style_fidelity",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip=(
                        "How far the negative prompt's side is kept from looking at the reference: at 1 it "
                        "does not, which brings out the reference most, and costs half; at 0 both sides "
                        "look, and the prompt counts more."
                    ),
                )
            ],
            outputs=[
                io.ControlNet.Output(
                    display_name="control_net",
                    tooltip="For Apply ControlNet or Control Unit, together with the base model's VAE.",
                )
            ],
        )

    @classmethod
    def execute(cls, style_fidelity: float) -> io.NodeOutput:
        return io.NodeOutput(host.ReferenceControl(style_fidelity))

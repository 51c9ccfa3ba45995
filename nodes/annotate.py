"""Make hints from pictures."""

from comfy_api.latest import io, ui

from ..annotators.run import annotate
from ..annotators.table import find


class Canny(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetCanny",
            display_name="Canny Edges (CNet)",
            category="cnet/annotate",
            description="Find the edges of a picture: white lines on black, the hint of canny ControlNets.",
            search_aliases=["canny", "edge detection", "edges", "preprocessor"],
            # The preview comes back when the node was cached.
            has_intermediate_output=True,
            inputs=[
                io.Image.Input("image", tooltip="Pictures; all frames of a batch are done."),
                io.Int.Input(
                    "low_threshold",
                    default=100,
                    min=0,
                    max=1000,
                    tooltip=(
                        "Weaker edges than this are dropped; edges between the two are kept where they "
                        "continue a strong one."
                    ),
                ),
                io.Int.Input(
                    "high_threshold",
                    default=200,
                    min=0,
                    max=1000,
                    tooltip="Edges stronger than this are always kept. Lower both for more lines.",
                ),
            ],
            outputs=[io.Image.Output(display_name="edges", tooltip="The hint, of the picture's size.")],
        )

    @classmethod
    def execute(cls, image, low_threshold: int, high_threshold: int) -> io.NodeOutput:
        edges = annotate(find("canny"), image, {"low": low_threshold, "high": high_threshold}).image
        return io.NodeOutput(edges, ui=ui.PreviewImage(edges))

"""Hints as pictures: at the size that is sampled, and seen on what they were made of."""

from typing import Any, get_args

from comfy_api.latest import io, ui

from ..annotators.registry import Kind
from ..annotators.show import beside, fitted, over
from .sizes import size_input, size_of

# Of a video all hints are made, but not all are shown.
SHOWN = 16


class FitHint(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetFitHint",
            display_name="Fit Hint (CNet)",
            category="cnet/annotate",
            description=(
                "A hint in another size, scaled as its kind allows: thin lines stay thin and whole, colours "
                "of areas do not mix, normals stay unit vectors."
            ),
            search_aliases=["resize hint", "pixel perfect", "hint image enhance", "resize control image"],
            has_intermediate_output=True,
            inputs=[
                io.Image.Input("hint", tooltip="Hints, from an annotator or from a file."),
                size_input(keeps=False),
                io.Combo.Input(
                    "kind",
                    options=["auto", *get_args(Kind)],
                    default="auto",
                    optional=True,
                    tooltip=(
                        "What the hint shows. auto: told from its colours, for each picture. lines: one "
                        "pixel wide. soft: grey edges. photo: anything smooth. areas: flat colours, which "
                        "must not mix. skeleton: a drawn pose. inpaint: a picture with -1 where it is to be "
                        "painted."
                    ),
                ),
            ],
            outputs=[io.Image.Output(display_name="hint", tooltip="The hint, of exactly this size.")],
        )

    @classmethod
    def execute(cls, hint, size: dict, kind: Any = "auto") -> io.NodeOutput:
        wanted, mode = size_of(size)
        assert wanted is not None
        made = fitted(hint, wanted, mode, kind)
        shown = made[:SHOWN]
        # The host saves no grey previews.
        shown = shown.expand(-1, -1, -1, 3) if shown.shape[-1] == 1 else shown
        return io.NodeOutput(made, ui=ui.PreviewImage(shown))


class PreviewHint(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetPreviewHint",
            display_name="Preview Hint (CNet)",
            category="cnet/annotate",
            description="A hint on the picture it was made of, or beside it, to see whether it is right.",
            search_aliases=["overlay hint", "compare hint", "control image preview"],
            # It runs for what it shows, whether or not the picture goes on.
            is_output_node=True,
            inputs=[
                io.Image.Input("image", tooltip="The pictures that the hints were made of."),
                io.Image.Input(
                    "hint",
                    tooltip="The hints: one for all pictures, or one for each. Fitted to the pictures.",
                ),
                io.Combo.Input(
                    "layout",
                    options=["overlay", "side by side"],
                    default="overlay",
                    optional=True,
                    tooltip="overlay: the hint over the picture, its black parts clear. side by side: both.",
                ),
                io.Float.Input(
                    "opacity",
                    default=0.7,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    tooltip="Of the overlay: 0 shows the picture only, 1 hides it where the hint is bright.",
                ),
            ],
            outputs=[io.Image.Output(display_name="preview", tooltip="What the node shows.")],
        )

    @classmethod
    def execute(cls, image, hint, layout: str = "overlay", opacity: float = 0.7) -> io.NodeOutput:
        preview = over(image, hint, opacity) if layout == "overlay" else beside(image, hint)
        return io.NodeOutput(preview, ui=ui.PreviewImage(preview[:SHOWN]))

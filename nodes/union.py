"""Give a union ControlNet its hints."""

from comfy_api.latest import io

from ..cnet_core.errors import ControlError, HintError
from ..cnet_core.networks.union import UNION_TYPES, check_types
from . import host

# A socket for each type, named by the kinds of hint it takes.
SOCKETS = {
    number: [name for name, n in UNION_TYPES.items() if n == number] for number in UNION_TYPES.values()
}


class UnionHints(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetUnionHints",
            display_name="Union Hints (CNet)",
            category="cnet/apply",
            description=(
                "Give a union ControlNet one or several hints, each at the input of its kind. All of them "
                "act in one pass, at the cost of one ControlNet."
            ),
            search_aliases=["union controlnet type", "promax", "multi condition"],
            inputs=[
                io.ControlNet.Input("control_net", tooltip="A union ControlNet, such as ProMax."),
                *(
                    io.Image.Input(
                        names[0], optional=True, tooltip=f"A hint of one of these kinds: {', '.join(names)}."
                    )
                    for names in SOCKETS.values()
                ),
            ],
            outputs=[
                io.ControlNet.Output(
                    display_name="control_net",
                    tooltip="With its hints: for Apply ControlNet or Control Unit, without an image.",
                )
            ],
        )

    @classmethod
    def execute(cls, control_net, **images) -> io.NodeOutput:
        count = getattr(getattr(getattr(control_net, "network", None), "net", None), "types", None)
        if host.union_types(control_net):
            raise ControlError(
                "this union ControlNet was loaded by ComfyUI, and takes one hint at a time: tell its type by "
                "ComfyUI's Set Union ControlNet Type, and connect its image to Apply ControlNet. Several at "
                "once go into one of SDXL or SD1.5 that Load ControlNet (CNet) loads."
            )
        if not isinstance(control_net, host.Control) or count is None:
            raise ControlError(
                "this ControlNet takes hints of one kind only; connect its image to Apply ControlNet, or "
                "load a union ControlNet (Inspect Checkpoint lists its types)."
            )
        typed = {
            number: images[names[0]] for number, names in SOCKETS.items() if images.get(names[0]) is not None
        }
        if not typed:
            raise HintError("no hint is given; connect an image to the input of its kind.")
        check_types(list(typed), count)
        control = control_net.copy()
        control.typed_hints = {n: control.prepared(image.movedim(-1, 1)) for n, image in typed.items()}
        return io.NodeOutput(control)

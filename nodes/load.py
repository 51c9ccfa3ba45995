"""Load a ControlNet."""

import os

from comfy_api.latest import io

from . import host

NO_BASE = "none"


class LoadControlNet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetLoadControlNet",
            display_name="Load ControlNet (CNet)",
            category="cnet/load",
            description=(
                "Load a ControlNet from models/controlnet. The family is told by the file's content, "
                "whatever its name; a file that belongs elsewhere is named, with the node that takes it."
            ),
            search_aliases=["controlnet loader", "load control net", "control model"],
            inputs=[
                io.Combo.Input(
                    "control_net_name",
                    options=host.controlnet_files(),
                    tooltip=(
                        "A file in models/controlnet, or one of the mini ControlNets that come with the pack."
                    ),
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip=(
                        "Only for Control-LoRAs and difference ControlNets, whose weights add to a base "
                        "model's: that model, with its LoRAs."
                    ),
                ),
                io.Combo.Input(
                    "precision",
                    options=list(host.PRECISIONS),
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "How the weights are kept: auto as suits the device; fp8 halves the memory of fp16 "
                        "and costs some accuracy; fastest as a short measurement of this device says, which "
                        "Inspect Checkpoint shows."
                    ),
                ),
                io.Combo.Input(
                    "global_average_pooling",
                    options=["auto", "on", "off"],
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Steer each channel by its mean over the picture, as the shuffle ControlNet needs. "
                        "auto: as the file's metadata says; the release's shuffle file has none: set on."
                    ),
                ),
                io.Combo.Input(
                    "base_control_net",
                    options=[NO_BASE, *host.controlnet_files()],
                    default=NO_BASE,
                    optional=True,
                    advanced=True,
                    tooltip="Only for CtrLoRA: the base ControlNet that the file was trained on.",
                ),
                io.Boolean.Input(
                    "compile",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Compile the network when it first runs (torch.compile): that takes a minute or more "
                        "once, for all networks of a family and all sizes. Time a long run with and without: "
                        "on an H200, steps with an SDXL network took 5% less and with an SD1.5 one more, on "
                        "a CPU as long as before. Needs a C++ compiler, on a GPU Triton."
                    ),
                ),
                io.Boolean.Input(
                    "overlap",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "On an NVIDIA or AMD GPU, run the network while the model's encoder runs, not before "
                        "it. Saves time where neither fills the GPU; none on an H200, where it was measured. "
                        "The picture stays the same."
                    ),
                ),
            ],
            outputs=[
                io.ControlNet.Output(
                    display_name="control_net",
                    tooltip="For Apply ControlNet, Control Unit, or ComfyUI's own apply nodes.",
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(
        cls, control_net_name: str | None, base_control_net: str | None = NO_BASE, **settings
    ) -> str:
        """Load again when a file was replaced. Linked names come as None."""
        names = [name for name in (control_net_name, base_control_net) if name not in (None, NO_BASE)]
        stats = [os.stat(host.controlnet_path(name)) for name in names]
        return " ".join(f"{stat.st_mtime_ns} {stat.st_size}" for stat in stats)

    @classmethod
    def execute(
        cls,
        control_net_name: str,
        model=None,
        precision="auto",
        global_average_pooling="auto",
        base_control_net=NO_BASE,
        compile=False,
        overlap=False,
    ) -> io.NodeOutput:
        base = None if base_control_net == NO_BASE else base_control_net
        control = host.load_control(
            control_net_name, model, precision, global_average_pooling, base, compile, overlap
        )
        return io.NodeOutput(control)

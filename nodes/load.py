"""Load a ControlNet."""

import os

from comfy_api.latest import io

from . import host


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
                        "Only for difference ControlNets, whose weights are differences to a base model: "
                        "that model."
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
                        "and costs some accuracy."
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
                        "auto: as the file's metadata says."
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
    def fingerprint_inputs(cls, control_net_name: str, **settings) -> str:
        """Load again when the file was replaced."""
        status = os.stat(host.controlnet_path(control_net_name))
        return f"{status.st_mtime_ns} {status.st_size}"

    @classmethod
    def execute(
        cls, control_net_name: str, model=None, precision="auto", global_average_pooling="auto"
    ) -> io.NodeOutput:
        return io.NodeOutput(host.load_control(control_net_name, model, precision, global_average_pooling))

"""Say what a file is."""

import os

from comfy_api.latest import io, ui

from ..cnet_core.checkpoints import inspect
from . import host


class InspectCheckpoint(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetInspect",
            display_name="Inspect Checkpoint (CNet)",
            category="cnet/load",
            description=(
                "Say what a file in models/controlnet is, by its content: family, base model, precision, "
                "hint channels, union types, metadata, which node loads it, and by which precision this "
                "device is fastest. Its weights are not read."
            ),
            search_aliases=["checkpoint info", "model info", "identify controlnet", "metadata"],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "file_name",
                    options=host.controlnet_files(),
                    tooltip="A file in models/controlnet, or one of those that come with the pack.",
                )
            ],
            outputs=[io.String.Output(display_name="report", tooltip="The report, in lines.")],
        )

    @classmethod
    def fingerprint_inputs(cls, file_name: str | None) -> str:
        """Read again when the file was replaced. A linked name comes as None."""
        if file_name is None:
            return ""
        status = os.stat(host.controlnet_path(file_name))
        return f"{status.st_mtime_ns} {status.st_size}"

    @classmethod
    def execute(cls, file_name: str) -> io.NodeOutput:
        found = inspect(host.controlnet_path(file_name))
        report = found.to_text()
        if found.loader == "native":
            report += f"\n  {'fastest here':<15}  {host.device_pace()}"
        return io.NodeOutput(report, ui=ui.PreviewText(report))

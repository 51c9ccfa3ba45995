"""The nodes of the pack, one module per task. Read `host/` for everything that they need of a host."""

from comfy_api.latest import ComfyExtension, io

from . import annotate, apply, demo, host, inspect, load, merge, schedule

NODES: list[type[io.ComfyNode]] = [
    load.LoadControlNet,
    inspect.InspectCheckpoint,
    apply.ApplyControlNet,
    merge.ControlUnit,
    merge.MergeControls,
    schedule.StrengthKeyframe,
    schedule.StrengthCurve,
    schedule.FrameStrengths,
    schedule.Blocks,
    annotate.Canny,
    demo.LoadMiniSD,
    demo.ExampleImage,
]


class CNetExtension(ComfyExtension):
    async def on_load(self) -> None:
        host.register_model_folders()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES

"""The nodes of the pack, one module per task. Read `host/` for everything that they need of a host."""

from comfy_api.latest import ComfyExtension, io

from . import (
    annotate,
    apply,
    compare,
    demo,
    hints,
    host,
    inspect,
    load,
    merge,
    pair,
    pose,
    pose_files,
    preview,
    reference,
    reuse,
    schedule,
    train,
    train_data,
    union,
)

NODES: list[type[io.ComfyNode]] = [
    load.LoadControlNet,
    inspect.InspectCheckpoint,
    reference.LoadReferenceControl,
    apply.ApplyControlNet,
    union.UnionHints,
    merge.ControlUnit,
    merge.MergeControls,
    pair.PoseAndDepth,
    compare.CompareControls,
    schedule.StrengthKeyframe,
    schedule.StrengthCurve,
    schedule.FrameStrengths,
    schedule.Blocks,
    reuse.ResidualReuse,
    preview.PreviewStrength,
    annotate.Annotate,
    *annotate.ANNOTATOR_NODES,
    hints.FitHint,
    hints.PreviewHint,
    pose_files.LoadPose,
    pose_files.SavePose,
    pose.MergePoses,
    pose.FilterPoses,
    pose.TransformPoses,
    pose.SmoothPoses,
    pose.RenderPose,
    train.ControlNetFromModel,
    train_data.TrainingData,
    train_data.CacheTrainingData,
    train.TrainControlNet,
    train.SaveControlNet,
    demo.LoadMiniSD,
    demo.ExampleImage,
    pose_files.ExamplePose,
]


class CNetExtension(ComfyExtension):
    async def on_load(self) -> None:
        host.register_model_folders()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES

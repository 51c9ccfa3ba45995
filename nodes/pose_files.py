"""Load poses, and save them."""

import hashlib
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

from comfy_api.latest import io, ui

from ..annotators.errors import PoseError
from ..annotators.pose.keypoints import LARGEST_SIDE, Frame, parse, read, write
from ..cnet_core.files import put
from . import host
from .pose import pose_input, pose_output

EXAMPLES = host.PACK / "workflows" / "inputs"


class LoadPose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetLoadPose",
            display_name="Load Pose (CNet)",
            category="cnet/pose",
            description=(
                "Load poses from a .json file in the input folder, as OpenPose, its editors and other nodes "
                "write them: one frame or many, 18 or 25 body points, in pixels or shares of the canvas."
            ),
            search_aliases=["openpose json", "keypoints", "load keypoint", "pose file"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=host.input_files(".json"),
                    tooltip="A .json file in ComfyUI's input folder. New ones are listed after R is pressed.",
                ),
                *(
                    io.Int.Input(
                        f"canvas_{side}",
                        default=0,
                        min=0,
                        max=LARGEST_SIDE,
                        optional=True,
                        advanced=True,
                        tooltip=(
                            f"The {side} of the picture that the poses are from, for files that do not name "
                            "it, as OpenPose's own; give both. 0: as the file says."
                        ),
                    )
                    for side in ("width", "height")
                ),
            ],
            outputs=[pose_output()],
        )

    @classmethod
    def validate_inputs(cls, file: str | None = None) -> bool | str:
        """Files that came after the list of choices was made are good too. A linked name comes as None, and
        where the folder holds no file there is none."""
        try:
            if file is not None:
                host.input_file(file, ".json")
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str | None = None, **canvas: int) -> str:
        """Load again when the file was changed. A linked name comes as None."""
        if file is None:
            return ""
        return hashlib.sha256(host.input_file(file, ".json").read_bytes()).hexdigest()

    @classmethod
    def execute(cls, file: str, canvas_width: int = 0, canvas_height: int = 0) -> io.NodeOutput:
        if bool(canvas_width) != bool(canvas_height):
            raise PoseError(
                f"canvas_width is {canvas_width} and canvas_height {canvas_height}; give both, or leave both "
                "at 0 for files that say how large the picture was."
            )
        size = (canvas_width, canvas_height) if canvas_width else None
        return io.NodeOutput(write(read(host.input_file(file, ".json"), size)))


class SavePose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetSavePose",
            display_name="Save Pose (CNet)",
            category="cnet/pose",
            description="Save poses to the output folder: all frames in one .json file of OpenPose's format.",
            search_aliases=["save keypoints", "openpose json", "export pose"],
            is_output_node=True,
            inputs=[
                pose_input(),
                io.String.Input(
                    "filename_prefix",
                    default="pose",
                    tooltip=(
                        "How the file's name begins; a number follows. May hold folders, and %year%, "
                        "%month%, %day%, %hour%, %minute%, %second%."
                    ),
                ),
            ],
            outputs=[pose_output("The poses that were saved.")],
        )

    @classmethod
    def execute(cls, keypoints, filename_prefix: str) -> io.NodeOutput:
        frames = parse(keypoints)
        path = host.output_file(filename_prefix, ".json", frames[0].width, frames[0].height)
        poses = write_whole(path, frames)
        return io.NodeOutput(poses, ui=ui.PreviewText(f"Saved as {path}"))


class ExamplePose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetExamplePose",
            display_name="Example Pose (CNet)",
            category="cnet/demo",
            description=(
                "Keypoints that come with the pack, so that its workflows run as they are. Replace it by "
                "Load Pose to use your own."
            ),
            search_aliases=["demo pose", "sample keypoints"],
            inputs=[
                io.Combo.Input(
                    "name",
                    options=sorted(path.name for path in EXAMPLES.glob("*.json")),
                    tooltip="A file in the pack's workflows/inputs folder.",
                )
            ],
            outputs=[pose_output()],
        )

    @classmethod
    def execute(cls, name: str) -> io.NodeOutput:
        path = EXAMPLES / name
        if path.parent != EXAMPLES or path.suffix != ".json" or not path.is_file():
            raise PoseError(f"{name!r} is none of the pack's example poses; choose one from the list.")
        return io.NodeOutput(write(read(path)))


def write_whole(path: Path, frames: list[Frame]) -> list[dict[str, Any]]:
    """Write a file of poses, wholly or not at all, and return what is in it."""
    poses = write(frames)
    unfinished = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        unfinished.write_text(json.dumps(poses), "utf-8")
        put(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return poses

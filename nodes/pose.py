"""Edit poses, and draw them."""

from collections.abc import Callable
from typing import Any

from comfy_api.latest import io, ui

from ..annotators.errors import PoseError
from ..annotators.fit import MODES, Mode
from ..annotators.pose.keypoints import LARGEST_SIDE, PARTS, Frame, parse, write
from ..annotators.pose.render import STYLES, Style, render
from ..annotators.pose.smooth import smooth
from ..annotators.pose.tools import PIVOTS, Change, Keep, Pivot, keep, merge, numbers, part_names, transform
from .hints import SHOWN

PoseType = io.Custom("POSE_KEYPOINT")


def pose_input(tooltip: str = "Poses from Load Pose, an annotator, or ComfyUI's SDPose.") -> io.Input:
    return PoseType.Input("keypoints", tooltip=tooltip)


def pose_output(tooltip: str = "One entry per frame, in pixels, with scores.") -> io.Output:
    return PoseType.Output(display_name="keypoints", tooltip=tooltip)


def people_input() -> io.Input:
    return io.String.Input(
        "people",
        default="",
        optional=True,
        tooltip="Only these people of each frame, counted from 0: for instance 0, 2-4. Empty: all.",
    )


def parts_input(name: str, tooltip: str) -> io.Input:
    """Names of parts, for `part_names`. As text: Nodes 2.0 has no list of which several are chosen."""
    return io.String.Input(
        name,
        default="",
        optional=True,
        tooltip=f"{tooltip} For instance: right wrist, right hand. There are: {', '.join(PARTS)}.",
    )


def fit_input() -> io.Input:
    return io.Combo.Input(
        "fit",
        options=list(MODES),
        default="fill",
        optional=True,
        advanced=True,
        tooltip=(
            "For canvases of another shape. fill: all of it, with margins. crop: the middle of it, without "
            "margins. stretch: all of it, out of shape."
        ),
    )


class MergePoses(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetMergePoses",
            display_name="Merge Poses (CNet)",
            category="cnet/pose",
            description=(
                "Put the people of several poses into one, frame by frame. The canvas is the first pose's; a "
                "pose of a single frame is in all frames."
            ),
            search_aliases=["combine keypoints", "add person", "join poses"],
            inputs=[
                io.Autogrow.Input(
                    "poses",
                    io.Autogrow.TemplatePrefix(
                        PoseType.Input("pose", tooltip="Poses; another input appears when one is connected."),
                        prefix="pose",
                        # A pose that is muted is none, the first one too.
                        min=0,
                        max=50,
                    ),
                    tooltip="The poses, in the order in which their people are drawn.",
                ),
                fit_input(),
            ],
            outputs=[pose_output()],
        )

    @classmethod
    def execute(cls, poses: dict[str, Any] | None = None, fit: Mode = "fill") -> io.NodeOutput:
        given = [parse(pose) for pose in (poses or {}).values() if pose is not None]
        if not given:
            raise PoseError("no pose is connected, or all are muted; connect one at least.")
        return io.NodeOutput(write(merge(given, fit)))


class FilterPoses(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetFilterPoses",
            display_name="Filter Poses (CNet)",
            category="cnet/pose",
            description=(
                "Keep some people and points: by score, size, number, place, or the largest; and take parts "
                "of the body off."
            ),
            search_aliases=["select person", "remove person", "delete joint", "largest person", "threshold"],
            inputs=[
                pose_input(),
                io.Float.Input(
                    "point_score",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Points with a lower score are dropped.",
                ),
                io.Float.Input(
                    "person_score",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="People whose points have a lower score, in the mean of those seen, are dropped.",
                ),
                io.Int.Input(
                    "largest",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="Keep at most so many people in each frame, the largest. 0: all.",
                ),
                io.Float.Input(
                    "size",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="People who are less high are dropped; 1 is the height of the canvas.",
                ),
                people_input(),
                io.Mask.Input(
                    "region",
                    optional=True,
                    tooltip=(
                        "Keep people whose middle is in the white part of a mask, laid over the canvas; one "
                        "for all frames, or one for each."
                    ),
                ),
                parts_input("remove", "Joints and parts to take off."),
            ],
            outputs=[pose_output()],
        )

    @classmethod
    def execute(
        cls, keypoints, point_score, person_score, largest, size=0.0, people="", region=None, remove=""
    ) -> io.NodeOutput:
        wanted = Keep(
            point_score,
            person_score,
            size,
            largest,
            numbers(people),
            None if region is None else (region.reshape(-1, *region.shape[-2:]) > 0.5).cpu().numpy(),
            part_names(remove),
        )
        return changed(keypoints, lambda frames: keep(frames, wanted))


class TransformPoses(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetTransformPoses",
            display_name="Transform Poses (CNet)",
            category="cnet/pose",
            description=(
                "Flip, scale, turn and move poses, some people or some joints of them. A flip changes the "
                "person's right and left, as a mirror does."
            ),
            search_aliases=["mirror pose", "move joint", "scale keypoints", "rotate pose", "flip"],
            inputs=[
                pose_input(),
                io.Float.Input(
                    "scale",
                    default=1.0,
                    min=0.01,
                    max=100.0,
                    step=0.01,
                    tooltip="Larger or smaller; 1 as it is.",
                ),
                io.Float.Input(
                    "rotate",
                    default=0.0,
                    min=-360.0,
                    max=360.0,
                    step=1.0,
                    tooltip="Degrees, clockwise.",
                ),
                io.Float.Input(
                    "move_x",
                    default=0.0,
                    min=-16384.0,
                    max=16384.0,
                    step=1.0,
                    tooltip="Pixels to the right.",
                ),
                io.Float.Input(
                    "move_y",
                    default=0.0,
                    min=-16384.0,
                    max=16384.0,
                    step=1.0,
                    tooltip="Pixels down.",
                ),
                io.Boolean.Input("flip", default=False, tooltip="Mirror about the middle of the canvas."),
                io.Combo.Input(
                    "around",
                    options=list(PIVOTS),
                    default="person",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "What stays in place when scaled and turned: the middle of each person (or of the "
                        "chosen parts), or the middle of the canvas."
                    ),
                ),
                people_input(),
                parts_input("parts", "Only these joints and parts; empty: all."),
            ],
            outputs=[pose_output()],
        )

    @classmethod
    def execute(
        cls, keypoints, scale, rotate, move_x, move_y, flip, around: Pivot = "person", people="", parts=""
    ) -> io.NodeOutput:
        change = Change(scale, rotate, move_x, move_y, flip, around, numbers(people), part_names(parts))
        return changed(keypoints, lambda frames: transform(frames, change))


class SmoothPoses(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetSmoothPoses",
            display_name="Smooth Poses (CNet)",
            category="cnet/pose",
            description=(
                "Calm poses that tremble from frame to frame: each point becomes a mean over the frames "
                "around it. Each person is followed through the frames; steady motion stays as it is."
            ),
            search_aliases=["temporal smoothing", "stabilize pose", "jitter", "interpolate keypoints"],
            inputs=[
                pose_input("The poses of a video, a frame after the other."),
                io.Int.Input(
                    "window",
                    default=5,
                    min=1,
                    max=99,
                    step=2,
                    tooltip="Frames in a mean, an odd number. More are calmer, and cut quick moves off.",
                ),
                io.Int.Input(
                    "fill_gaps",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip=(
                        "Points and people that are missing for at most so many frames are put between where "
                        "they are seen before and after. 0: they stay missing."
                    ),
                ),
            ],
            outputs=[pose_output()],
        )

    @classmethod
    def execute(cls, keypoints, window: int, fill_gaps: int) -> io.NodeOutput:
        return changed(keypoints, lambda frames: smooth(frames, window, fill_gaps))


class RenderPose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CNetRenderPose",
            display_name="Render Pose (CNet)",
            category="cnet/pose",
            description=(
                "Draw poses as the coloured skeletons that pose ControlNets read, all frames at once, in any "
                "size."
            ),
            search_aliases=["draw pose", "openpose", "skeleton", "dwpose", "draw keypoints"],
            # The preview comes back when the node was cached.
            has_intermediate_output=True,
            inputs=[
                pose_input(),
                *(
                    io.Int.Input(
                        side,
                        default=0,
                        min=0,
                        max=LARGEST_SIDE,
                        tooltip=f"The {side} of the picture, as that of the latent. 0: as the first canvas.",
                    )
                    for side in ("width", "height")
                ),
                io.Combo.Input(
                    "style",
                    options=list(STYLES),
                    default="openpose",
                    tooltip=(
                        "openpose: as most pose ControlNets were trained. thick: wider sticks, for xinsir's "
                        "SDXL ControlNets (openpose, union, ProMax)."
                    ),
                ),
                io.Boolean.Input("body", default=True, tooltip="Draw the body."),
                io.Boolean.Input("hands", default=True, tooltip="Draw the hands."),
                io.Boolean.Input("face", default=True, tooltip="Draw the points of the face."),
                io.Float.Input(
                    "score_threshold",
                    default=0.3,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Points with a lower score are left out.",
                ),
                fit_input(),
                io.Float.Input(
                    "stick_width",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.5,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Half the width of a limb in pixels. 0: as the style was trained, in proportion to "
                        "the picture."
                    ),
                ),
            ],
            outputs=[io.Image.Output(display_name="pose", tooltip="The hint, a picture for each frame.")],
        )

    @classmethod
    def execute(
        cls,
        keypoints,
        width,
        height,
        style: Style,
        body,
        hands,
        face,
        score_threshold,
        fit: Mode = "fill",
        stick_width=0.0,
    ) -> io.NodeOutput:
        pictures = render(
            parse(keypoints), width, height, fit, style, body, hands, face, score_threshold, stick_width
        )
        return io.NodeOutput(pictures, ui=ui.PreviewImage(pictures[:SHOWN]))


def changed(poses: Any, change: Callable[[list[Frame]], list[Frame]]) -> io.NodeOutput:
    """POSE_KEYPOINT after a change of its frames."""
    return io.NodeOutput(write(change(parse(poses))))

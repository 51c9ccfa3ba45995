"""People and faces by mediapipe, whose package brings its networks along: nothing is downloaded.

It runs on the CPU. Versions after 0.10.21 have another interface and no networks in them.
"""

from typing import Any

import numpy as np
from torch import Tensor

from ..errors import DependencyError, ParameterError, install
from ..networks import PIXELS
from ..parameters import Bool, Float, Int
from ..pixels import as_bytes, from_bytes
from ..pose.keypoints import BODY, FACE, FEET, LEFT_HAND, RIGHT_HAND, Frame, stacked, write
from ..pose.landmarks import person
from ..pose.mesh import render_meshes
from ..pose.render import render
from ..registry import Annotation, Annotator
from .shared import library

EXTRA = "mediapipe"


def solutions() -> Any:
    """mediapipe's ready solutions. Raises DependencyError where there are none."""
    mend = (
        f"Install it beside the pack: {install('mediapipe>=0.10.9,<0.10.22')} (it needs numpy 1 and Python "
        "3.12 or older)."
    )
    mediapipe = library(EXTRA, mend)
    found = getattr(mediapipe, "solutions", None)
    if found is None:
        version = getattr(mediapipe, "__version__", "of an unknown version")
        raise DependencyError(
            f"mediapipe {version} is installed, which lacks what this annotator needs (mediapipe.solutions). "
            f"{mend}"
        )
    return found


def mediapipe_pose(
    pictures: Tensor,
    body: bool = True,
    hands: bool = True,
    face: bool = True,
    confidence: float = 0.5,
    visible: float = 0.5,
) -> Annotation:
    """The keypoints of one person in each picture, and its skeleton."""
    if not (body or hands or face):
        raise ParameterError("body, hands and face are all off; switch on what shall be found.")
    height, width = pictures.shape[-2:]
    frames = []
    with solutions().holistic.Holistic(
        static_image_mode=True, refine_face_landmarks=True, min_detection_confidence=confidence
    ) as holistic:
        for i, picture in enumerate(as_bytes(pictures)):
            # Whatever the mode, it looks for a face where the picture before had one.
            if i:
                holistic.reset()
            found = holistic.process(picture)
            whole, left, right, mesh = (
                _points(getattr(found, f"{name}_landmarks"), width, height, seen=name == "pose")
                for name in ("pose", "left_hand", "right_hand", "face")
            )
            people = [] if whole is None else [person(whole, left, right, mesh, visible)]
            for one in people:
                for wanted, rows in ((body, (BODY, FEET)), (hands, (LEFT_HAND, RIGHT_HAND)), (face, (FACE,))):
                    for part in () if wanted else rows:
                        one[part] = 0.0
            frames.append(Frame(width, height, stacked(people)))
    drawn = render(frames, body=body, hands=hands, face=face, threshold=0.0)
    return Annotation(drawn.movedim(-1, 1), keypoints=write(frames))


def mediapipe_face(pictures: Tensor, faces: int = 10, confidence: float = 0.5) -> Annotation:
    """The outlines of the faces in pictures."""
    height, width = pictures.shape[-2:]
    drawn = []
    with solutions().face_mesh.FaceMesh(
        static_image_mode=True,
        max_num_faces=faces,
        refine_landmarks=True,
        min_detection_confidence=confidence,
    ) as face_mesh:
        for picture in as_bytes(pictures):
            found = face_mesh.process(picture).multi_face_landmarks or ()
            meshes = [_points(one, width, height) for one in found]
            drawn.append(render_meshes([mesh for mesh in meshes if mesh is not None], width, height))
    return Annotation(from_bytes(np.stack(drawn)))


def _points(landmarks: Any, width: int, height: int, seen: bool = False) -> np.ndarray | None:
    """Landmarks as [N,3] of x, y in pixels and score, or None of none. The score is 1 where mediapipe does
    not say how well they are seen."""
    if landmarks is None:
        return None
    found = [(one.x, one.y, one.visibility if seen else 1.0) for one in landmarks.landmark]
    return np.array(found) * (width, height, 1) - (0.5, 0.5, 0)


_CONFIDENCE = Float("confidence", 0.5, 0.0, 1.0, "Who is found less surely is left out.")

ANNOTATORS = (
    Annotator(
        id="mediapipe_pose",
        title="Mediapipe Pose",
        condition="pose",
        kind="skeleton",
        description=(
            "Body, hands and face of one person as OpenPose's skeleton and keypoints: fast on a CPU, and "
            "without downloads."
        ),
        convention="OpenPose's coloured skeletons on black",
        annotate=mediapipe_pose,
        parameters=(
            Bool("body", True, "The body: 18 points from the nose to the ankles."),
            Bool("hands", True, "The hands: 21 points each."),
            Bool("face", True, "The face: 70 points."),
            _CONFIDENCE,
            Float("visible", 0.5, 0.0, 1.0, "Points of the body that are less visible are left out."),
        ),
        extra=EXTRA,
        # It takes as long to begin as some pictures do.
        cpu_pixels=PIXELS,
        makes=("keypoints",),
        suits=("lllyasviel/control_v11p_sd15_openpose",),
        aliases=("openpose", "skeleton", "keypoints", "holistic", "blazepose"),
    ),
    Annotator(
        id="mediapipe_face",
        title="Mediapipe Face Mesh",
        condition="face",
        kind="skeleton",
        description="The outlines of faces, eyes, brows and lips, for ControlNets of mediapipe's faces.",
        convention="mediapipe's outlines in the colours of their parts, on black",
        annotate=mediapipe_face,
        parameters=(Int("faces", 10, 1, 50, "At most so many faces in a picture."), _CONFIDENCE),
        extra=EXTRA,
        cpu_pixels=PIXELS,
        suits=("CrucibleAI/ControlNetMediaPipeFace",),
        aliases=("face mesh", "facemesh", "face landmarks", "mediapipe"),
    ),
)

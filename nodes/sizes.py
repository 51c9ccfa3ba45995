"""The size that a hint shall have: given on the node, or that of a latent or picture."""

from typing import Any

from comfy_api.latest import io

from ..annotators.errors import AnnotatorError
from ..annotators.fit import MODES, Mode, Size
from .inputs import chosen

AS_IT_IS = "as the image"
GIVEN, OF_LATENT, OF_IMAGE = "width and height", "of a latent", "of an image"

_LARGEST = 16384
# Pixels to a side of a latent's cell, by its channels, where the latent does not say: of Stable Diffusion, of
# Mochi, and of the families with 16. Others have 16 or 32, by no rule. (Stable Cascade's have 4 and 16, and
# other sizes, which nothing tells.)
_PIXELS_PER_LATENT = {4: 8, 12: 8, 16: 8}


def size_input(keeps: bool, **options: Any) -> io.Input:
    """The choice of a size, for `size_of`. keeps: the picture's own is a choice, the first one."""
    side = {"default": 512, "min": 1, "max": _LARGEST}
    choices = {
        GIVEN: [
            io.Int.Input("width", tooltip="Width of the hint in pixels.", **side),
            io.Int.Input("height", tooltip="Height of the hint in pixels.", **side),
        ],
        OF_LATENT: [
            io.Latent.Input("latent", tooltip="The latent that is sampled: the hint gets its picture's size.")
        ],
        OF_IMAGE: [io.Image.Input("like", tooltip="A picture of the size that the hint shall have.")],
    }
    own = [io.DynamicCombo.Option(AS_IT_IS, [])] if keeps else []
    return io.DynamicCombo.Input(
        "size",
        options=own + [io.DynamicCombo.Option(key, [*one, _mode_input()]) for key, one in choices.items()],
        tooltip=(
            f"{f'{AS_IT_IS}: the size of the input. ' if keeps else ''}{GIVEN}: exactly these. {OF_LATENT}: "
            f"exactly that of the picture that is drawn. {OF_IMAGE}: exactly that of another picture."
        ),
        **options,
    )


def _mode_input() -> io.Input:
    return io.Combo.Input(
        "resize_mode",
        options=list(MODES),
        default="crop",
        optional=True,
        tooltip=(
            "Where the shapes differ. crop: cover the size and cut from the centre, as the nodes that apply "
            "hints do. fill: lie within it, with a border. stretch: change the shape."
        ),
    )


def size_of(choice: dict[str, Any] | None) -> tuple[Size | None, Mode]:
    """(height and width in pixels, or None for the picture's own; resize mode) that a size input holds.

    Raises AnnotatorError for a latent that is none, or whose picture's size is not known.
    """
    choice = chosen(choice or {"size": AS_IT_IS})
    mode: Mode = choice.get("resize_mode", "crop")
    if choice["size"] == AS_IT_IS:
        return None, mode
    if choice["size"] == GIVEN:
        return (choice["height"], choice["width"]), mode
    if choice["size"] == OF_IMAGE:
        return (choice["like"].shape[1], choice["like"].shape[2]), mode
    latent: Any = choice.get("latent")
    samples = latent.get("samples") if isinstance(latent, dict) else None
    if samples is None or samples.ndim < 4:
        raise AnnotatorError("latent holds no picture's latent; connect the one that goes to the sampler.")
    ratio = latent.get("downscale_ratio_spacial") or _PIXELS_PER_LATENT.get(samples.shape[1])
    if ratio is None:
        raise AnnotatorError(
            f"this latent, of {samples.shape[1]} channels, does not say how large its picture is; choose "
            f"{GIVEN!r} or {OF_IMAGE!r} in place of {OF_LATENT!r}."
        )
    return (samples.shape[-2] * ratio, samples.shape[-1] * ratio), mode

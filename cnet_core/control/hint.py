"""Control images as the networks want them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import HintError


def prepare_hint(image: Tensor, channels: int = 3, lowest: float = -1.0) -> Tensor:
    """A hint [B,channels,H,W] in lowest..1 of an image [B,C,H,W].

    An image of as many channels as the network wants passes as it is. A network of three channels or one also
    takes the other pictures: of four channels the last is opacity, laid over black, the background of every
    hint; grey is repeated into three channels; colour becomes its luminance (ITU-R BT.601), which for a grey
    map in three channels is the map. Networks of other numbers read what no picture tells (a mask, several
    maps) and take only images of just that number. The image is not changed.

    lowest: values are clamped to it and to 1. -1 is no colour: an inpaint ControlNet reads it as a place to
    paint. 0 for what sees a picture, such as a VAE.
    Raises HintError for another number of channels, an empty batch, and values that are not finite.
    """
    if image.ndim != 4 or 0 in image.shape:
        raise HintError(
            f"the control image has shape {tuple(image.shape)}; expected a batch of at least one image with "
            "sides of at least one pixel. Connect an IMAGE."
        )
    found = image.shape[1]
    # The sum says so far sooner, but may overflow by itself.
    if not image.sum().isfinite() and not image.isfinite().all():
        raise HintError(
            "the control image contains values that are not finite numbers (NaN or infinity); the node that "
            "made it failed. Look at its output with a preview, and check its inputs and precision."
        )
    image = image.float().clamp(lowest, 1.0)
    if found == channels:
        return image
    if channels in (1, 3) and found in (1, 3, 4):
        if found == 4:
            image = image[:, :3] * image[:, 3:].clamp(min=0.0)
        if image.shape[1] == channels:
            return image
        return image.expand(-1, 3, -1, -1) if channels == 3 else luminance(image)
    raise HintError(
        f"the control image has {found} channels, and this ControlNet wants {channels}. "
        "Connect the kind of image that it was trained on."
    )


def luminance(image: Tensor) -> Tensor:
    """Grey [B,1,H,W] of colours [B,3,H,W] (ITU-R BT.601, section 2.5.1)."""
    red, green, blue = image.split(1, dim=1)
    return (0.299 * red + 0.587 * green + 0.114 * blue).clamp(max=1.0)


def cut_to_shape(image: Tensor, height: int, width: int) -> Tensor:
    """The middle of a picture [...,H,W] that has the shape (not the size) of height x width."""
    rows, columns = image.shape[-2:]
    if columns * height > rows * width:
        keep = max(1, round(rows * width / height))
        return image.narrow(-1, (columns - keep) // 2, keep)
    if columns * height < rows * width:
        keep = max(1, round(columns * height / width))
        return image.narrow(-2, (rows - keep) // 2, keep)
    return image


def stacked(pictures: Sequence[Tensor]) -> Tensor:
    """Pictures [B,C,H,W] that lie over each other as one, along its channels; a single one as it is.

    Each is brought to the size of the largest. Of several pictures each has the same number or one; otherwise
    these go along the channels too. `unstacked` takes the parts apart, whatever was cut out in between.
    """
    if len(pictures) == 1:
        return pictures[0]
    height, width = max((tuple(p.shape[-2:]) for p in pictures), key=lambda size: size[0] * size[1])
    fitted = [_at_size(picture, height, width) for picture in pictures]
    counts = {picture.shape[0] for picture in pictures}
    if len(counts - {1}) > 1:
        return torch.cat([picture.flatten(0, 1)[None] for picture in fitted], dim=1)
    return torch.cat([picture.expand(max(counts), -1, -1, -1) for picture in fitted], dim=1)


def unstacked(stack: Tensor, like: Sequence[Tensor]) -> list[Tensor] | None:
    """The parts of what `stacked` made of pictures like these; None if it is no such stack."""
    if len(like) == 1:
        return [stack]
    channels = [picture.shape[1] for picture in like]
    if stack.shape[1] == sum(channels):
        return list(stack.split(channels, dim=1))
    channels = [picture.shape[0] * picture.shape[1] for picture in like]
    if stack.shape[1] != sum(channels):
        return None
    parts = zip(stack.split(channels, dim=1), like, strict=True)
    return [part.reshape(-1, picture.shape[1], *part.shape[2:]) for part, picture in parts]


def _at_size(picture: Tensor, height: int, width: int) -> Tensor:
    cut = cut_to_shape(picture, height, width)
    if cut.shape[-2:] == (height, width):
        return cut
    return F.interpolate(cut, (height, width), mode="nearest-exact")


def spread(features: Tensor, batch: int) -> Tensor:
    """Features [B,...] for `batch` latents: image i goes to latent i, then from the first one again."""
    if features.shape[0] == batch:
        return features
    index = torch.arange(batch, device=features.device) % features.shape[0]
    return features[index]


def extended(hint: Tensor, multiple: int) -> Tensor:
    """A hint [B,C,H,W] whose last row and column are repeated until the sides are multiples of `multiple`.

    Scaling to such sides instead would shift the hint against the picture.
    """
    down, right = (-side % multiple for side in hint.shape[-2:])
    return F.pad(hint, (0, right, 0, down), mode="replicate") if down or right else hint

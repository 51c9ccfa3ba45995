"""Control images as the networks want them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import HintError


def prepare_hint(image: Tensor, channels: int = 3) -> Tensor:
    """A hint [B,channels,H,W] in 0..1 of an image [B,C,H,W].

    Grey images are repeated into three channels, and three are averaged where one is wanted; of four channels
    the last is opacity, laid over black, the background of every hint. Values are clamped to 0..1. The image
    itself is not changed.
    Raises HintError for another number of channels, an empty batch, and values that are not finite.
    """
    if image.ndim != 4 or 0 in image.shape:
        raise HintError(
            f"the control image has shape {tuple(image.shape)}; expected a batch of at least one image with "
            "sides of at least one pixel. Connect an IMAGE."
        )
    found = image.shape[1]
    if not torch.isfinite(image).all():
        raise HintError(
            "the control image contains values that are not finite numbers (NaN or infinity); the node that "
            "made it failed. Look at its output with a preview, and check its inputs and precision."
        )
    image = image.float().clamp(0.0, 1.0)
    if found == channels:
        return image
    if channels == 3 and found == 1:
        return image.expand(-1, 3, -1, -1)
    if channels in (1, 3) and found == 4:
        image = image[:, :3] * image[:, 3:]
    if channels == 3 and found == 4:
        return image
    if channels == 1 and found in (3, 4):
        return image.mean(dim=1, keepdim=True)
    raise HintError(
        f"the control image has {found} channels, and this ControlNet wants {channels}. "
        "Connect the kind of image that it was trained on."
    )


def extended(hint: Tensor, multiple: int) -> Tensor:
    """A hint [B,C,H,W] whose last row and column are repeated until the sides are multiples of `multiple`.

    Scaling to such sides instead would shift the hint against the picture.
    """
    down, right = (-side % multiple for side in hint.shape[-2:])
    return F.pad(hint, (0, right, 0, down), mode="replicate") if down or right else hint


def spread(features: Tensor, batch: int) -> Tensor:
    """Features [B,...] for `batch` latents: image i goes to latent i, then from the first one again."""
    if features.shape[0] == batch:
        return features
    index = torch.arange(batch, device=features.device) % features.shape[0]
    return features[index]

"""What a control network says to a UNet at one step."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Residuals:
    """Additions to a UNet's skips and middle, or to the states of its encoder.

    down: one [B,C_i,H_i,W_i] tensor per skip, in encoder order (12 for SD1.5 and SD2.x, 9 for SDXL).
    mid: [B,C,H,W], the addition to the middle block's output.
    encoder: additions to the encoder's own states after each input block, in the same order, which later
    blocks read too (T2I-Adapter, arXiv 2302.08453).
    None stands for a place where nothing is added. The tensors are never changed in place: a cached Residuals
    stays what it was.
    """

    down: Sequence[Tensor | None] = ()
    mid: Tensor | None = None
    encoder: Sequence[Tensor | None] = ()

    def __iter__(self):
        """The additions to skips and middle, block by block, the middle last."""
        yield from self.down
        yield self.mid


def pooled(residuals: Residuals) -> Residuals:
    """Each block replaced by its mean over the image, in the same shape (a view: do not write to it).

    Global average pooling, as the original release runs its shuffle ControlNet: the hint says what is in the
    picture, not where.
    """
    return Residuals(
        [_mean(block) for block in residuals.down],
        _mean(residuals.mid),
        [_mean(block) for block in residuals.encoder],
    )


def _mean(block: Tensor | None) -> Tensor | None:
    return None if block is None else block.mean(dim=(2, 3), keepdim=True).expand_as(block)

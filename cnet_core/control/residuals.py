"""What a control network says to a UNet at one step."""

from collections.abc import Callable, Sequence
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

    def each(self, change: Callable[[Tensor], Tensor]) -> "Residuals":
        """The same places with each tensor changed."""

        def changed(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else change(tensor)

        return Residuals(
            [changed(tensor) for tensor in self.down],
            changed(self.mid),
            [changed(tensor) for tensor in self.encoder],
        )


def pooled(residuals: Residuals) -> Residuals:
    """Global average pooling: each channel's mean over space, everywhere (the release's shuffle ControlNet).

    The results are expanded views, without memory of their own.
    """
    return residuals.each(lambda t: t.mean(dim=(2, 3), keepdim=True).expand_as(t))

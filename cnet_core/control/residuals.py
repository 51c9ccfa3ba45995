"""What a control network says to a UNet at one step, and how several of them are added."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Residuals:
    """Additions to a UNet's skips and middle.

    down: one [B,C_i,H_i,W_i] tensor per skip, in encoder order (12 for SD1.5 and SD2.x, 9 for SDXL).
    mid: [B,C,H,W], the addition to the middle block's output.
    The tensors are never changed in place: a cached Residuals stays what it was.
    """

    down: Sequence[Tensor]
    mid: Tensor

    def __iter__(self):
        """The tensors block by block, the middle last."""
        yield from self.down
        yield self.mid

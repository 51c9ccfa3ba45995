"""What every network that answers a hint with residuals has in common, whatever its family."""

from typing import Protocol

from torch import Tensor

from ..control.residuals import Residuals
from .blocks import Text

# An encoded hint: tensors whose first dimension is the batch, so that rows can be picked and repeated.
Features = tuple[Tensor, ...]


class ControlNetwork(Protocol):
    """A control network as the nodes run it. Built once and shared: it keeps nothing of a run."""

    hint_channels: int
    # Whether a hint is a latent [B,hint_channels,H,W], not an image.
    latent_hint: bool

    def encode_hint(self, hint: Tensor) -> Features:
        """Features of a hint [B,hint_channels,8H,8W] in 0..1, or a latent; they depend on nothing else."""
        ...

    def __call__(
        self,
        x: Tensor,
        features: Features,
        timesteps: Tensor,
        context: Tensor | Text,
        y: Tensor | None = None,
    ) -> Residuals:
        """Residuals for latents x [B,C,H,W], already scaled for the UNet, with as many rows in `features`.

        timesteps: [B], 0..999; context: [B,N,D]; y: [B,adm_in_channels] where the base has one.
        """
        ...

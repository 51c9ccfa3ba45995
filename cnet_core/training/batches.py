"""What training reads: the contract between the data and the loop."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """Examples of one size, on the CPU or a device.

    latents: [B,C,h,w] in fp32, sampled from mean and standard deviation, scaled to the UNet's latents.
    hints: [B,hint_channels,8h,8w], uint8 or float in 0..1. context: [B,T,D]; of the empty prompt where the
    caption was dropped. y: [B,adm_in_channels] where the base reads one (SDXL). names: of the examples, for
    messages. dropped: which captions were.
    """

    latents: Tensor
    hints: Tensor
    context: Tensor
    y: Tensor | None
    names: tuple[str, ...]
    dropped: tuple[bool, ...]


class Source(Protocol):
    """Training data as an endless sequence of batches, the same for the same arguments."""

    @property
    def data_hash(self) -> str:
        """Changes with the data: a training is not resumed on other data."""
        ...

    @property
    def hint_channels(self) -> int: ...

    @property
    def facts(self) -> dict[str, str]:
        """What the trained file shall say of its data: hint_kind, annotator, ... by name."""
        ...

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def batch(self, index: int, rows: int, seed: int, drop: float) -> Batch:
        """The batch number `index` (from 0, without end) of `rows` examples, on the CPU.

        A pure function of its arguments, so that a resumed training reads what the interrupted one would
        have, and several processes each take their own numbers: step s of a training of P processes that
        accumulate A batches reads (s * A + a) * P + p. In the long run all examples come equally often; of
        batches of one row, each once before any comes again.
        drop: the share of captions that are replaced by the empty prompt, drawn anew for each index.
        """
        ...

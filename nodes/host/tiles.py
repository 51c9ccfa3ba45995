"""Tiled samplers that cut a control's hint by themselves at every step, as Tiled Diffusion does."""

from collections.abc import Callable
from typing import Any
from weakref import ref

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ...cnet_core.errors import ControlError
from ..answers import Answer, add, at_rows
from .calls import Call


class Tiles:
    """A control's copies for the tiles of one run, each with its part of the hint.

    Such samplers leave in cond_hint what the host's own controls keep there: the hint of every row of the
    call that comes next, at the size at which it is read. Ours is what cond_hint_original has: all that lies
    over the picture, masks too. A call has the rows of one tile after the other.
    """

    def __init__(self, model: Any, sigma_at: Callable[[float], float]):
        self.model, self.sigma_at = ref(model), sigma_at
        # The samplers keep these tensors from step to step, and with them our copies stay.
        self.copies = WeakTensorKeyDictionary()

    def answer(self, control: Any, call: Call) -> Answer | None:
        """What a control, Steered or Merged, says to a call by itself.

        Raises ControlError for tiles of what acts inside the UNet's layers.
        """
        if control.cond_hint is None:
            return control.answer(call)
        # What they change in the UNet would be there for the tiles that follow, too.
        if any(one.within for one in getattr(control, "controls", [control])):
            raise ControlError(
                "this sampler draws the picture in tiles, which a control that acts inside the attention "
                "(Reference, LLLite) cannot follow: draw without tiles, or without this control."
            )
        # Noise levels are told as without tiles: one for each latent.
        latents = len(call.options["sigmas"])
        rows, size = range(call.x.shape[0]), call.chunks * latents
        if control.cond_hint not in self.copies:
            hints = [control.cond_hint[start : start + latents] for start in rows[::size]]
            self.copies[control.cond_hint] = [self._copy(control, hint) for hint in hints]
        answer = None
        for start, copy in zip(rows[::size], self.copies[control.cond_hint], strict=True):
            own = rows[start : start + size]
            asked = call.at_rows(own, range(call.chunks))
            asked.frames = call.frames[:latents]
            said = copy.answer(asked)
            if said is not None:
                answer = add(at_rows(said, own, len(rows)), answer)
        return answer

    def _copy(self, control: Any, hint: Tensor) -> Any:
        copy = control.copy()
        # Not a view, which would keep the whole.
        copy.cond_hint_original = hint.clone()
        copy.pre_run(self.model(), self.sigma_at)
        return copy

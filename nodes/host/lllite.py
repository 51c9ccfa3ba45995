"""ControlNet-LLLite as a control: it gives no residuals, but patches the attentions of the host's UNet."""

from collections.abc import Sequence
from typing import Any

from ...cnet_core.control.lllite import add_patches, attention_patches
from ..answers import Parts
from .calls import Call
from .control import Control
from .models import base_config
from .steered import Steered


class LLLiteControl(Control):
    """One ControlNet-LLLite, with or without its hint.

    Its patches are put into the options of the call that is being answered, which the host makes anew for
    each call, so nothing of them outlives it.
    """

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        super().pre_run(model, percent_to_timestep_function)
        inputs = len(base_config(model).residual_channels) - 1
        self.block_weights = self.weighting.blocks.of_unet(inputs)

    def parts(self, call: Call, rows: list[float]) -> Parts | None:
        if any(rows):
            mask = self.mask_for(call.x, call)
            embeddings = tuple(
                feature.repeat(call.chunks, *[1] * (feature.ndim - 1)) for feature in self.hint_features(call)
            )
            patches = attention_patches(self.network.net, embeddings, rows, mask, self.block_weights)
            add_patches(call.options, patches)
        return None

    def batch_key(self, call: Call) -> Any:
        return self

    def parts_together(
        self, controls: Sequence[Steered], call: Call, rows: Sequence[list[float]]
    ) -> list[Parts | None]:
        return Steered.parts_together(self, controls, call, rows)

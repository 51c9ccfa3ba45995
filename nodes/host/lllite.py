"""ControlNet-LLLite as a control: it gives no residuals, but changes what layers of the host's UNet see."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import comfy.patcher_extension
from torch import Tensor

from ...cnet_core.control.hint import prepare_hint
from ...cnet_core.control.lllite import Change, add_patches, corrections, layers_changed
from ..answers import Parts
from .calls import Call
from .control import Control
from .models import base_config
from .steered import Steered


class LLLiteControl(Control):
    """One ControlNet-LLLite, with or without its hint.

    Its patches and wrapper are put into the options of the call that is being answered, which the host makes
    anew for each call, so nothing of them outlives it.
    """

    within = True

    def prepared(self, hint: Tensor) -> Tensor:
        # Its network scales 0..1 to -1..1 by itself.
        return prepare_hint(hint, self.network.net.hint_channels, lowest=0.0)

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
            found = corrections(self.network.net, embeddings, rows, mask, self.block_weights)
            add_patches(call.options, found.attention)
            if found.layers:
                add_wrapper(call.options, with_layers_changed(found.layers))
        return None

    def batch_key(self, call: Call) -> Any:
        return self

    def parts_together(
        self, controls: Sequence[Steered], call: Call, rows: Sequence[list[float]]
    ) -> list[Parts | None]:
        return Steered.parts_together(self, controls, call, rows)


def with_layers_changed(changes: Mapping[str, Change]) -> Callable:
    """A wrapper around one call of the host's UNet in which these layers see their inputs changed."""

    def wrapper(executor: Any, *args: Any, **options: Any) -> Any:
        with layers_changed(executor.class_obj, changes):
            return executor(*args, **options)

    return wrapper


def add_wrapper(options: dict[str, Any], wrapper: Callable) -> None:
    """Put a wrapper around the UNet into the options of a call; lists that others hold stay as they are."""
    kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    wrappers = dict(options.get("wrappers", {}))
    mine = wrappers[kind] = dict(wrappers.get(kind, {}))
    mine["cnet.lllite"] = [*mine.get("cnet.lllite", []), wrapper]
    options["wrappers"] = wrappers

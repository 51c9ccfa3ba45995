"""The configuration of a network, read from the shapes of its tensors (LDM keys), never from file names."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from ..errors import CheckpointError
from ..networks.config import UNetConfig
from .text import printable
from .weights import Weight

# Where our own files carry what shapes cannot tell: the numbers of attention heads and of normalisation
# groups.
CONFIG_KEY = "cnet.config"

# Where a file says that its residuals are averaged over the image (shuffle): the release's yaml calls it so.
POOLING_KEY = "global_average_pooling"

State = Mapping[str, Weight]

_MOST_BLOCKS = 1000


class MissingTensorError(CheckpointError):
    """A tensor that gives a size is not there; `name` is its LDM name."""

    def __init__(self, name: str):
        super().__init__(f"it has no {name}, which gives the size of the network")
        self.name = name


def controlnet_config(
    state: State, metadata: Mapping[str, str] | None = None
) -> tuple[UNetConfig, int, tuple[int, ...]]:
    """(configuration, hint channels, hint widths) of a ControlNet's state dict in LDM keys, without prefix.

    Without a hint encoder the hint is a latent: as many channels as x_t, and no widths.
    Raises CheckpointError if a tensor that gives a size is missing.
    """
    # Activations stand between the convolutions, so these have even numbers: one at full size, two for each
    # width but the last, which has one, and one that leads to the UNet's width.
    last = _counter(state)("input_hint_block") - 1
    config = encoder_config(state, metadata)
    if last < 0:
        return config, config.in_channels, ()
    widths = tuple(_shape(state, f"input_hint_block.{i}.weight")[0] for i in range(0, max(last, 1), 4))
    hint_channels = _shape(state, "input_hint_block.0.weight")[1]
    return config, hint_channels, widths


def union_sizes(state: State) -> tuple[int, int, int]:
    """(types, layers, type channels) of a union ControlNet's state dict: arguments of UnionControlNet."""
    types = _shape(state, "task_embedding")[0]
    embedded = _shape(state, "control_add_embedding.linear_1.weight")[1]
    if types < 1 or embedded % (2 * types):
        raise CheckpointError(f"its {types} types do not divide the width {embedded} of their embeddings")
    # At least one layer, so that the tensors of a missing one are reported.
    layers = max(_counter(state)("transformer_layes"), 1)
    return types, layers, embedded // types


def global_average_pooling(metadata: Mapping[str, str]) -> bool | None:
    """Whether each residual is to be replaced by its mean over the image; None if the file does not say."""
    written = metadata.get(POOLING_KEY)
    if written is None:
        return None
    if written.lower() not in ("true", "false", "1", "0"):
        raise CheckpointError(f"its {POOLING_KEY} metadata is {written!r}; expected true or false")
    return written.lower() in ("true", "1")


def unet_config(state: State, metadata: Mapping[str, str] | None = None) -> UNetConfig:
    """Configuration of a UNet's state dict in LDM keys, without prefix."""
    return replace(encoder_config(state, metadata), out_channels=_shape(state, "out.2.weight")[0])


def config_metadata(config: UNetConfig, **more: Any) -> dict[str, str]:
    """The safetensors metadata that `controlnet_config` and `unet_config` understand."""
    return {CONFIG_KEY: json.dumps({**asdict(config), **more})}


def encoder_config(state: State, metadata: Mapping[str, str] | None = None) -> UNetConfig:
    """Configuration of the encoder in a UNet's or ControlNet's state dict in LDM keys, without prefix."""
    model_channels, in_channels, *_ = _shape(state, "input_blocks.0.0.weight")
    counts = _counter(state)
    halving = {int(match[1]) for name in state if (match := re.match(r"input_blocks\.(\d+)\.0\.op\.", name))}
    widths: list[int] = [model_channels]
    blocks, depths = [0], [0]
    for i in range(1, counts("input_blocks")):
        if i in halving:
            widths.append(widths[-1])
            blocks.append(0)
            depths.append(0)
            continue
        widths[-1] = _shape(state, f"input_blocks.{i}.0.out_layers.3.weight")[0]
        blocks[-1] += 1
        # The deepest counts, so that a transformer missing in one block is reported as missing.
        depths[-1] = max(depths[-1], counts(f"input_blocks.{i}.1.transformer_blocks"))
    if not all(widths) or any(width % model_channels for width in widths):
        raise CheckpointError(f"level widths {widths} are not multiples of the first one, {model_channels}")
    # A network without attention reads no text: width 0.
    contexts = (t.shape[1] for name, t in state.items() if name.endswith(".attn2.to_k.weight"))
    # The small SDXL ControlNets have a middle transformer without blocks; elsewhere none means they are
    # missing, unless the file says that there are none.
    middle = counts("middle_block.1.transformer_blocks") or _written_middle(metadata or {}, max(depths))
    context_dim = next(contexts, 0)
    linear = any(len(t.shape) == 2 for name, t in state.items() if name.endswith(".1.proj_in.weight"))
    return UNetConfig(
        model_channels=model_channels,
        channel_mult=tuple(width // model_channels for width in widths),
        num_res_blocks=tuple(blocks),
        transformer_depth=tuple(depths),
        transformer_depth_middle=middle if _has(state, "middle_block.1.proj_in.") else -1,
        context_dim=context_dim,
        use_linear_in_transformer=linear,
        adm_in_channels=_shape(state, "label_emb.0.0.weight")[1] if _has(state, "label_emb.") else None,
        in_channels=in_channels,
        **_shapeless(model_channels, context_dim, linear, metadata or {}),
    )


def _shapeless(
    model_channels: int, context_dim: int, linear: bool, metadata: Mapping[str, str]
) -> dict[str, Any]:
    """Heads and groups leave no trace in the shapes: from the metadata of our own files, else by custom."""
    if CONFIG_KEY in metadata:
        return _written(metadata[CONFIG_KEY])
    if context_dim == 768 or not linear:
        return {"num_heads": 8}
    if model_channels % 64:
        raise CheckpointError(
            f"its attention heads cannot be told from the shapes: {model_channels} channels are not a "
            f"multiple of 64. Such a file needs num_heads or num_head_channels in its {CONFIG_KEY} metadata"
        )
    return {"num_head_channels": 64}


def _written(config: str) -> dict[str, Any]:
    """Heads and groups of a configuration in JSON."""
    try:
        written: dict[str, Any] = json.loads(config)
        heads = {name: int(written[name]) for name in ("num_heads", "num_head_channels") if written.get(name)}
        groups = int(written.get("norm_groups", 32))
    except (ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(f"its {CONFIG_KEY} metadata cannot be read: {error}") from error
    if len(heads) != 1:
        raise CheckpointError(
            f"its {CONFIG_KEY} metadata gives {heads or 'no heads'}; expected num_heads or num_head_channels"
        )
    return {**heads, "norm_groups": groups}


def _written_middle(metadata: Mapping[str, str], expected: int) -> int:
    """The depth that a middle transformer without blocks shall have: 0 where our own files say so."""
    try:
        return 0 if json.loads(metadata[CONFIG_KEY])["transformer_depth_middle"] == 0 else expected
    except (ValueError, TypeError, KeyError):
        return expected


def block_number(number: str | int) -> int:
    """The number of a block, as a name has it. Raises CheckpointError for one that no network reaches: a few
    bytes of a name would have us count to billions."""
    if int(number) >= _MOST_BLOCKS:
        raise CheckpointError(f"its names count {printable(number, 20)} blocks, and no network has so many")
    return int(number)


def _counter(state: State) -> Callable[[str], int]:
    """Tells how many blocks follow a prefix: one more than the highest number in such names.

    The names are looked through once: a file may have a great many, and as many prefixes.
    """
    highest: dict[str, int] = {}
    for name in state:
        # No prefix that is asked for has more parts.
        *parts, _ = name.split(".", 5)
        for i, part in enumerate(parts):
            if part.isdecimal():
                prefix = ".".join(parts[:i])
                highest[prefix] = max(highest.get(prefix, -1), int(part))
    return lambda prefix: block_number(highest.get(prefix, -1)) + 1


def _has(state: State, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in state)


def _shape(state: State, name: str) -> tuple[int, ...]:
    if name not in state:
        raise MissingTensorError(name)
    return tuple(state[name].shape)

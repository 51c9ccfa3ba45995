"""A control network of the pack's own, as the host calls it at every step."""

import math
from collections.abc import Sequence
from operator import itemgetter
from typing import Any
from weakref import WeakValueDictionary

import comfy.controlnet
import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ...cnet_core.control.hint import prepare_hint, spread
from ...cnet_core.control.residuals import Residuals, pooled
from ...cnet_core.control.rows import first_alike, index_of, pick
from ...cnet_core.errors import ControlError, HintError
from ...cnet_core.networks.blocks import Text
from ...cnet_core.networks.config import UNetConfig
from ...cnet_core.networks.protocol import Features
from ..answers import answer_of
from .calls import AT_ONCE, Call, window_of
from .kept import encoded
from .models import LoadedNetwork, base_config
from .overlap import stream_of
from .reusing import ResidualControl, Said

# Texts of the runs that are under way, shared by all controls of a network; the runs keep them.
_texts: WeakValueDictionary[Any, Text] = WeakValueDictionary()


class Control(ResidualControl):
    """One control network, with or without its hint: what a CONTROL_NET socket and a conditioning carry."""

    def __init__(self, network: LoadedNetwork):
        super().__init__()
        self.network = network
        # One hint for each type, of a union network that is given several.
        self.typed_hints: dict[int, Tensor] = {}
        if network.net.latent_hint:
            # Tells apply nodes to ask for a VAE.
            self.latent_format = True

    def copy(self) -> "Control":
        other = type(self)(self.network)
        self.copy_to(other)
        other.typed_hints = self.typed_hints
        return other

    @property
    def hints(self) -> list[Tensor]:
        # Union Hints comes before the hint is set.
        return super().hints if self.hint is None else list(self.typed_hints.values()) or [self.hint]

    def take_hints(self, hints: list[Tensor]) -> None:
        self.hint = hints[0]
        if len(hints) == len(self.typed_hints):
            self.typed_hints = dict(zip(self.typed_hints, hints, strict=True))

    def set_cond_hint(self, cond_hint: Tensor, *args: Any, **options: Any) -> "Control":
        if self.typed_hints and all(cond_hint is not hint for hint in self.typed_hints.values()):
            raise HintError(
                "this ControlNet already holds its hints, from Union Hints; disconnect the image input, or "
                "Union Hints. ComfyUI's own apply node needs an image: use Apply ControlNet (CNet)."
            )
        return super().set_cond_hint(self.prepared(cond_hint), *args, **options)

    def prepared(self, hint: Tensor) -> Tensor:
        """A hint [B,C,H,W] with the channels that the network wants."""
        net = self.network.net
        return prepare_hint(hint, 3, lowest=0.0) if net.latent_hint else prepare_hint(hint, net.hint_channels)

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        super().pre_run(model, percent_to_timestep_function)
        self.network.check_base(base_config(model))
        assert self.run is not None
        self.run.latent_format = model.latent_format

    @property
    def config(self) -> Any:
        return getattr(self.network.net, "config", None)

    @property
    def networks(self) -> list[Any]:
        return [self.network.patcher]

    def deepclone_multigpu(self, load_device: torch.device, autoregister: bool = False) -> "Control":
        other = self.copy()
        other.network = self.network.on(load_device)
        if autoregister:
            self.multigpu_clones[load_device] = other
        return other

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        """Bytes of activations: this control's own, and those of the controls before it in the chain.

        The features of the hint encoder, and for the cond and uncond halves of each hinted latent, of at most
        1024x1024 pixels: the residuals, which live through the step, those of earlier steps that are kept to
        predict from, and the widest layer (the feed-forward of the first transformer, about 16 times the
        features). More hints than a context window has are taken not to be sampled at once.
        """
        hint, config = self.hint, self.config
        if hint is None or not isinstance(config, UNetConfig):
            return super().inference_memory_requirements(dtype)
        # A hint may be a photo many times larger than the picture, whose size is not told here.
        area = min(hint.shape[-1] * hint.shape[-2], 1024**2) / self.compression_ratio**2
        said = sum(c / s**2 for c, s in zip(config.residual_channels, config.residual_scales, strict=True))
        hints, at_once = hint.shape[0], min(hint.shape[0], AT_ONCE)
        kept = hints * (config.model_channels + 2 * self.reuse.kept * said)
        values = area * (kept + 2 * at_once * (said + 16 * config.model_channels))
        size = comfy.model_management.dtype_size(self.network.dtype)
        return int(values * size) + super().inference_memory_requirements(dtype)

    @property
    def steady(self) -> bool:
        return not isinstance(self.config, UNetConfig)

    def batch_key(self, call: Call) -> Any:
        return self.network, tuple(feature.shape[1:] for feature in self.hint_features(call))

    def compute(
        self, controls: Sequence["Control"], call: Call, rows: Sequence[list[float]]
    ) -> list[Said | None]:
        return together(controls, call, rows)

    def hint_features(self, call: Call) -> Features:
        """The encoded hint for each latent of the call's batch [B,...], computed once per run."""
        assert self.run is not None
        height, width = call.x.shape[-2:]
        key = (height, width, call.window if call.window and call.window[0] >= 2 else None, call.total)
        if key not in self.run.features:
            self.run.features[key] = self._encode(call, height, width)
        features = self.run.features[key]
        count = features[0].shape[0]
        index = [frame % count for frame in call.frames]
        if index == list(range(count)):
            return features
        return tuple(pick(feature, index) for feature in features)

    def _encode(self, call: Call, height: int, width: int) -> Features:
        """The hint, or each of a union network's, at the latent's size, encoded."""
        if self.hint is None:
            raise ControlError("this control has no hint; connect it to an Apply ControlNet node first.")
        net = self.network.net
        # "control_type" is what the host's node for union types sets.
        typed = self.typed_hints or {
            number: self.hint for number in self.extra_args.get("control_type") or ()
        }
        # The host's node may be wired to any ControlNet, and tells those without types nothing.
        if not typed or not hasattr(net, "encode_hints"):
            # Of more hints than latents the rest is not read.
            return net.encode_hint(self._at_size(self.hint[: call.total], call, height, width))
        # Hints of unlike numbers of pictures, each from its first one again, come round together at the least
        # common multiple.
        count = min(math.lcm(*(hint.shape[0] for hint in typed.values())), call.total)
        hints = [self._at_size(spread(hint, count), call, height, width) for hint in typed.values()]
        return net.encode_hints(hints, list(typed))

    def _at_size(self, hint: Tensor, call: Call, height: int, width: int) -> Tensor:
        ratio, net = self.compression_ratio, self.network.net
        if net.latent_hint and self.vae is not None:
            ratio = self.vae.spacial_compression_encode()
        hint = comfy.utils.common_upscale(
            window_of(hint, call), width * ratio, height * ratio, self.upscale_algorithm, "center"
        )
        if net.latent_hint:
            hint = self._latent(hint)
        return hint.to(device=call.x.device, dtype=self.network.dtype)

    def _latent(self, hint: Tensor) -> Tensor:
        """A hint [B,3,H,W] as a latent of the base model."""
        if self.vae is None:
            raise ControlError(
                "this ControlNet reads its hint as a latent; connect the base model's VAE to the vae input."
            )
        # The network was trained on hints that the VAE saw in 0..1 where it sees pictures in -1..1.
        latent = encoded(self.vae, (hint.movedim(1, -1) + 1) / 2)
        assert self.run is not None
        return self.run.latent_format.process_in(latent)

    def text(self, tokens: Tensor, call: Call, rows: Sequence[int]) -> Tensor | Text:
        """These rows of the text, with a memory of their keys and values where the host says which prompts
        they are.

        Each run of a host gives each prompt an id of its own, so that controls of one network can share them,
        and so do the latents of a batch that have the same prompt.
        Not under context windows: they come by the dozen, each with texts for all its frames.
        """
        if "uuids" not in call.options or call.window is not None:
            return pick(tokens, rows)
        assert self.run is not None
        # Where a prompt is drawn into an area, the host gives the other side the same id. What one stream
        # computes another would have to wait for.
        sides = tuple(call.sides), tuple(call.options["uuids"])
        key: tuple[Any, ...] = (self.network, stream_of(tokens.device), *sides, tokens.shape)
        if key not in self.run.alike:
            self.run.alike[key] = first_alike(tokens, call.chunks)
        wanted = [self.run.alike[key][row] for row in rows]
        unlike = sorted(set(wanted))
        key = (*key, *unlike)
        if key not in self.run.texts:
            self.run.texts[key] = _texts.setdefault(key, Text(pick(tokens, unlike)))
        if wanted == unlike:
            return self.run.texts[key]
        repeated = (*key, "rows", *wanted)
        if repeated not in self.run.texts:
            index = index_of([unlike.index(row) for row in wanted], tokens.device)
            self.run.texts[repeated] = self.run.texts[key].rows(index)
        return self.run.texts[repeated]


def together(controls: Sequence[Control], call: Call, rows: Sequence[list[float]]) -> list[Said | None]:
    """What several controls of one network say, in one forward pass over the rows that are not silent."""
    first = controls[0]
    assert first.run is not None
    network, sampling = first.network, first.run.sampling
    active_rows = [[i for i, row in enumerate(strengths) if row] for strengths in rows]
    speaking = [(c, kept) for c, kept in zip(controls, active_rows, strict=True) if kept]
    total = call.x.shape[0]
    index = [i for _, kept in speaking for i in kept]
    whole = index == list(range(total))

    def spoken(value: Tensor) -> Tensor:
        return value if whole else pick(value, index)

    encoded = []
    for control, kept in speaking:
        features = control.hint_features(call)
        every = tuple(f.repeat(call.chunks, *[1] * (f.ndim - 1)) for f in features)
        encoded.append(every if len(kept) == total else tuple(pick(f, kept) for f in every))
    like = {"device": call.x.device, "dtype": network.dtype}
    y = call.cond.get("y")
    tokens = call.cond.get("crossattn_controlnet", call.cond["c_crossattn"])
    residuals = network.net(
        spoken(sampling.calculate_input(call.t, call.x).to(**like, memory_format=network.memory_format)),
        tuple(torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*encoded, strict=True)),
        spoken(sampling.timestep(call.t).float()),
        first.text(tokens.to(**like), call, index),
        None if y is None else spoken(y.to(**like)),
    )
    sizes = [len(kept) for _, kept in speaking]
    pieces = iter(_split(residuals, sizes))
    said: list[Said | None] = []
    for control, kept in zip(controls, active_rows, strict=True):
        if not kept:
            said.append(None)
            continue
        piece = next(pieces)
        said.append(Said(kept, answer_of(pooled(piece) if control.global_average_pooling else piece)))
    return said


def _split(residuals: Residuals, sizes: list[int]) -> list[Residuals]:
    """The residuals of each control, from those of all their rows."""
    if len(sizes) == 1:
        return [residuals]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    pieces = [slice(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    return [residuals.each(itemgetter(piece)) for piece in pieces]

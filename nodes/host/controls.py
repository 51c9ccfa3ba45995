"""The objects that sit in a conditioning's `control`, and that the host calls at every sampling step.

The contract is that of `comfy.controlnet.ControlBase`, of which ours are subclasses, so that whatever a newer
host adds to it arrives here too.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import itemgetter
from typing import Any

import comfy.controlnet
import comfy.model_management
import comfy.utils
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ...cnet_core.control.hint import prepare_hint, spread
from ...cnet_core.control.mask import fit_mask, token_grid
from ...cnet_core.control.merge import Rule
from ...cnet_core.control.residuals import Residuals, pooled
from ...cnet_core.control.schedule import Clock
from ...cnet_core.control.timing import Timing
from ...cnet_core.control.weighting import Weighting
from ...cnet_core.errors import ControlError
from ...cnet_core.networks.blocks import Text
from ...cnet_core.networks.config import UNetConfig
from ...cnet_core.networks.protocol import Features
from ..answers import Answer, Parts, add, answer_of, merge_parts, weigh
from . import foreign
from .models import LoadedNetwork, base_config, models_kept_loaded

# Noise levels read from tensors: reading one makes the host wait for its device, so all controls of a call
# share it. Entries go with their tensors.
_SIGMAS = WeakTensorKeyDictionary()


@dataclass
class Call:
    """One question of the host: latents x [chunks*B,C,H,W] at noise levels t [chunks*B].

    A chunk is the prompt's or the negative's side (options["cond_or_uncond"]).
    """

    x: Tensor
    t: Tensor
    cond: dict
    chunks: int
    options: dict

    @property
    def batch(self) -> int:
        return self.x.shape[0] // self.chunks

    @property
    def sigma(self) -> float:
        key = self.options.get("sigmas", self.t)
        if key not in _SIGMAS:
            _SIGMAS[key] = float(key.flatten()[0])
        return _SIGMAS[key]

    @property
    def sides(self) -> list[int]:
        return list(self.options.get("cond_or_uncond", range(self.chunks)))

    @cached_property
    def window(self) -> tuple[int, tuple[int, ...]] | None:
        """(dimension of the latent, indices in the whole) of the context window that is being sampled."""
        window = self.options.get("context_window")
        if window is None:
            return None
        indices = tuple(window.index_list)
        # The host's "causal window fix" puts a frame before the window, which it drops afterwards.
        anchor = getattr(window, "causal_anchor_index", None)
        return window.dim, indices if anchor is None or anchor < 0 else (anchor, *indices)

    @cached_property
    def frames(self) -> tuple[int, ...]:
        """For each latent of the batch its index in the whole batch."""
        if self.window is not None and self.window[0] == 0:
            return self.window[1]
        return tuple(range(self.batch))

    def picked(self, chunks: Sequence[int]) -> "Call":
        """The same question for some of its chunks."""
        if len(chunks) == self.chunks:
            return self
        return self.at_rows([c * self.batch + i for c in chunks for i in range(self.batch)], chunks)

    def at_rows(self, rows: Sequence[int], chunks: Sequence[int]) -> "Call":
        """The same question for some of its rows, equally many of each of these chunks."""
        index = torch.tensor(rows)

        def pick(value: Any) -> Any:
            if isinstance(value, Tensor) and value.ndim and value.shape[0] == self.x.shape[0]:
                return value[index.to(value.device)]
            # Reference latents come as lists of batches.
            return [pick(item) for item in value] if isinstance(value, list) else value

        options = dict(self.options)
        for name in ("cond_or_uncond", "uuids"):
            if name in options:
                options[name] = [options[name][c] for c in chunks]
        cond = {n: pick(v) if n != "transformer_options" else options for n, v in self.cond.items()}
        return Call(pick(self.x), pick(self.t), cond, len(chunks), options)


@dataclass
class Run:
    """What a control keeps while one picture is sampled, and forgets afterwards."""

    sampling: Any
    clock: Callable[[], Clock]
    latent_format: Any = None
    features: dict[Any, Features] = field(default_factory=dict)
    texts: dict[Any, Text] = field(default_factory=dict)
    masks: dict[Any, Tensor] = field(default_factory=dict)


class Steered(comfy.controlnet.ControlBase):
    """A control that is weighed over time, frames, sides, blocks and space."""

    def __init__(self) -> None:
        super().__init__()
        self.weighting = Weighting()
        self.run: Run | None = None

    def copy_to(self, other: "Steered") -> None:
        super().copy_to(other)
        other.weighting = self.weighting

    def set_cond_hint(
        self,
        cond_hint: Tensor,
        strength: float = 1.0,
        timestep_percent_range: tuple[float, float] = (0.0, 1.0),
        vae: Any = None,
        extra_concat: list[Tensor] = [],  # noqa: B006 (the host's signature)
    ) -> "Steered":
        """Take a hint [B,C,H,W]. Called by the host's apply nodes as well as by ours."""
        self.weighting = replace(self.weighting, timing=Timing(strength, *timestep_percent_range))
        return super().set_cond_hint(
            cond_hint, strength, timestep_percent_range, vae=vae, extra_concat=extra_concat
        )

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        """Before each run, once per conditioning that holds this control."""
        super().pre_run(model, percent_to_timestep_function)
        clocks: list[Clock] = []

        def clock() -> Clock:
            if not clocks:
                clocks.append(Clock.of(percent_to_timestep_function))
            return clocks[0]

        self.run = Run(model.model_sampling, clock)

    def cleanup(self) -> None:
        super().cleanup()
        self.run = None

    def get_control(
        self, x_noisy: Tensor, t: Tensor, cond: dict, batched_number: int, transformer_options: dict
    ) -> Answer | None:
        """Residuals for a chunk of cond and uncond latents x_noisy [n*B,C,H,W] at noise levels t [n*B]."""
        previous = None
        if self.previous_controlnet is not None:
            previous = self.previous_controlnet.get_control(
                x_noisy, t, cond, batched_number, transformer_options
            )
        answer = self.answer(Call(x_noisy, t, cond, batched_number, transformer_options))
        return previous if answer is None else add(answer, previous)

    def answer(self, call: Call) -> Answer | None:
        """What this control says by itself, weighed."""
        parts = self.parts(call, self.rows(call))
        return None if parts is None else merge_parts([parts], Rule())

    def rows(self, call: Call) -> list[float]:
        """The strength of each row of the batch at this step; all 0 outside the range."""
        weighting = self.weighting
        strength = weighting.timing.strength
        # Asked only where it matters: reading a noise level makes the host wait for its device.
        if weighting.timed:
            strength = weighting.strength_when(call.sigma, self.timestep_range, self._percent)
        return weighting.rows(strength, call.sides, call.frames)

    def _percent(self, sigma: float) -> float:
        """The share of sampling done at a noise level."""
        assert self.run is not None
        return self.run.clock().percent(sigma)

    def parts(self, call: Call, rows: list[float]) -> Parts | None:
        """Residuals with their weights, given the strength of each row; None where every row is silent."""
        raise NotImplementedError

    def batch_key(self, call: Call) -> Any:
        """Controls with equal keys can be asked as one batch."""
        return self

    def parts_together(
        self, controls: Sequence["Steered"], call: Call, rows: Sequence[list[float]]
    ) -> list[Parts | None]:
        """What controls of one key say; this is one of them."""
        return [control.parts(call, own) for control, own in zip(controls, rows, strict=True)]

    def weighed(self, answer: Answer, call: Call, rows: list[float]) -> Parts:
        return weigh(answer, self.weighting, rows, lambda residual: self.mask_for(residual, call))

    def mask_for(self, residual: Tensor, call: Call) -> Tensor | None:
        """The mask at a residual's size, for every row."""
        mask = self.weighting.mask
        if mask is None:
            return None
        assert self.run is not None
        key = (residual.shape, residual.dtype, residual.device, call.window, call.chunks)
        if key not in self.run.masks:
            self.run.masks[key] = self._mask(mask, residual, call)
        return self.run.masks[key]

    def _mask(self, mask: Tensor, residual: Tensor, call: Call) -> Tensor:
        mask = mask[[frame % mask.shape[0] for frame in call.frames]]
        height, width = call.x.shape[-2:]
        if residual.ndim == 3:
            height, width = token_grid(residual.shape[1], height, width)
        else:
            height, width = residual.shape[-2:]
        fitted = fit_mask(_window_of(mask, call), height, width)
        fitted = fitted.repeat(call.chunks, 1, 1).to(residual.device, residual.dtype)
        if residual.ndim == 3:
            return fitted.flatten(1)[..., None]
        return fitted.view(fitted.shape[0], *[1] * (residual.ndim - 3), height, width)


def _window_of(image: Tensor, call: Call) -> Tensor:
    """The part [...,H,W] of a picture that a context window over rows or columns covers."""
    if call.window is None:
        return image
    dim, indices = call.window
    axis = dim - call.x.ndim
    if axis < -2:
        return image
    whole = call.options["context_window"].total_frames
    length = image.shape[axis]
    first, last = min(indices), max(indices) + 1
    start = min(length - 1, round(first * length / whole))
    stop = max(start + 1, round(last * length / whole))
    return image.narrow(axis, start, stop - start)


class Control(Steered):
    """One control network, with or without its hint: what a CONTROL_NET socket and a conditioning carry."""

    def __init__(self, network: LoadedNetwork):
        super().__init__()
        self.network = network
        # One hint for each type, of a union network that is given several.
        self.typed_hints: dict[int, Tensor] = {}
        # Hints as latents, by size: a pass of the VAE each, so they are kept across runs.
        self.encoded: dict[Any, Tensor] = {}
        if network.net.latent_hint:
            # Tells apply nodes to ask for a VAE.
            self.latent_format = True

    def copy(self) -> "Control":
        other = type(self)(self.network)
        self.copy_to(other)
        other.typed_hints = self.typed_hints
        return other

    def set_cond_hint(self, cond_hint: Tensor, *args: Any, **options: Any) -> "Control":
        self.encoded = {}
        return super().set_cond_hint(self.prepared(cond_hint), *args, **options)

    def prepared(self, hint: Tensor) -> Tensor:
        """A hint [B,C,H,W] with the channels that the network wants."""
        return prepare_hint(hint, 3 if self.network.net.latent_hint else self.network.net.hint_channels)

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        super().pre_run(model, percent_to_timestep_function)
        self.network.check_base(base_config(model))
        assert self.run is not None
        self.run.latent_format = model.latent_format

    def get_models(self) -> list[Any]:
        return [*super().get_models(), self.network.patcher]

    def deepclone_multigpu(self, load_device: torch.device, autoregister: bool = False) -> "Control":
        other = self.copy()
        other.network = self.network.on(load_device)
        if autoregister:
            self.multigpu_clones[load_device] = other
        return other

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        """Bytes of activations: this control's own, and those of the controls before it in the chain.

        The features of the hint encoder and the residuals, which live through the step, and the widest layer
        (the feed-forward of the first transformer, about 16 times the features), for the cond and uncond
        halves of each hinted latent.
        """
        hint, config = self.cond_hint_original, getattr(self.network.net, "config", None)
        if hint is None or not isinstance(config, UNetConfig):
            return super().inference_memory_requirements(dtype)
        area = hint.shape[-1] * hint.shape[-2] / self.compression_ratio**2
        kept = sum(c / s**2 for c, s in zip(config.residual_channels, config.residual_scales, strict=True))
        values = 2 * hint.shape[0] * area * (kept + 17 * config.model_channels)
        size = comfy.model_management.dtype_size(self.network.dtype)
        return int(values * size) + super().inference_memory_requirements(dtype)

    def parts(self, call: Call, rows: list[float]) -> Parts | None:
        return together([self], call, [rows])[0]

    def batch_key(self, call: Call) -> Any:
        return self.network, tuple(feature.shape[1:] for feature in self.hint_features(call))

    def parts_together(
        self,
        controls: Sequence["Control"],
        call: Call,
        rows: Sequence[list[float]],
    ) -> list[Parts | None]:
        return together(controls, call, rows)

    def hint_features(self, call: Call) -> Features:
        """The encoded hint for each latent of the call's batch [B,...], computed once per run."""
        assert self.run is not None
        height, width = call.x.shape[-2:]
        key = (height, width, call.window if call.window and call.window[0] >= 2 else None)
        if key not in self.run.features:
            self.run.features[key] = self._encode(call, height, width)
        features = self.run.features[key]
        count = features[0].shape[0]
        index = [frame % count for frame in call.frames]
        if index == list(range(count)):
            return features
        return tuple(feature[index] for feature in features)

    def _encode(self, call: Call, height: int, width: int) -> Features:
        """The hint, or each of a union network's, at the latent's size, encoded."""
        if self.cond_hint_original is None:
            raise ControlError("this control has no hint; connect it to an Apply ControlNet node first.")
        net = self.network.net
        # "control_type" is what the host's node for union types sets.
        typed = self.typed_hints or {
            number: self.cond_hint_original for number in self.extra_args.get("control_type") or ()
        }
        if not typed:
            return net.encode_hint(self._at_size(self.cond_hint_original, call, height, width))
        most = max(hint.shape[0] for hint in typed.values())
        hints = [self._at_size(spread(hint, most), call, height, width) for hint in typed.values()]
        return net.encode_hints(hints, list(typed))

    def _at_size(self, hint: Tensor, call: Call, height: int, width: int) -> Tensor:
        ratio, net = self.compression_ratio, self.network.net
        if net.latent_hint and self.vae is not None:
            ratio = self.vae.spacial_compression_encode()
        hint = comfy.utils.common_upscale(
            _window_of(hint, call), width * ratio, height * ratio, self.upscale_algorithm, "center"
        )
        if net.latent_hint:
            hint = self._latent(hint, call)
        return hint.to(device=call.x.device, dtype=self.network.dtype)

    def _latent(self, hint: Tensor, call: Call) -> Tensor:
        """A hint [B,3,H,W] as a latent of the base model."""
        key = (tuple(hint.shape), call.window)
        if key not in self.encoded:
            if self.vae is None:
                raise ControlError(
                    "this ControlNet reads its hint as a latent; connect the base model's VAE to the vae "
                    "input."
                )
            # The network was trained on hints that the VAE saw in 0..1 where it sees pictures in -1..1.
            with models_kept_loaded():
                self.encoded[key] = self.vae.encode((hint.movedim(1, -1) + 1) / 2)
        assert self.run is not None
        return self.run.latent_format.process_in(self.encoded[key])

    def text(self, tokens: Tensor, call: Call, key: Any) -> Tensor | Text:
        """The text with a memory of its keys and values, where the host says which prompts it is made of."""
        if "uuids" not in call.options:
            return tokens
        assert self.run is not None
        key = (tuple(call.options["uuids"]), call.window, tokens.shape, key)
        if key not in self.run.texts:
            self.run.texts[key] = Text(tokens)
        return self.run.texts[key]


def together(controls: Sequence[Control], call: Call, rows: Sequence[list[float]]) -> list[Parts | None]:
    """What several controls of one network say, in one forward pass over the rows that are not silent."""
    first = controls[0]
    assert first.run is not None
    network, sampling = first.network, first.run.sampling
    active_rows = [[i for i, row in enumerate(strengths) if row] for strengths in rows]
    if not any(active_rows):
        return [None] * len(controls)
    speaking = [(c, kept) for c, kept in zip(controls, active_rows, strict=True) if kept]
    total = call.x.shape[0]
    index = [i for _, kept in speaking for i in kept]
    whole = index == list(range(total))

    def pick(value: Tensor) -> Tensor:
        return value if whole else value[index]

    encoded = []
    for control, kept in speaking:
        features = control.hint_features(call)
        every = tuple(f.repeat(call.chunks, *[1] * (f.ndim - 1)) for f in features)
        encoded.append(every if len(kept) == total else tuple(f[kept] for f in every))
    like = {"device": call.x.device, "dtype": network.dtype}
    y = call.cond.get("y")
    tokens = call.cond.get("crossattn_controlnet", call.cond["c_crossattn"])
    residuals = network.net(
        pick(sampling.calculate_input(call.t, call.x).to(**like)),
        tuple(torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*encoded, strict=True)),
        pick(sampling.timestep(call.t).float()),
        first.text(pick(tokens.to(**like)), call, tuple(index)),
        None if y is None else pick(y.to(**like)),
    )
    sizes = [len(kept) for _, kept in speaking]
    pieces = iter(_split(residuals, sizes))
    answers: list[Parts | None] = []
    for control, kept, strengths in zip(controls, active_rows, rows, strict=True):
        if not kept:
            answers.append(None)
            continue
        piece = _spread(next(pieces), kept, total)
        if control.global_average_pooling:
            piece = pooled(piece)
        answers.append(control.weighed(answer_of(piece), call, strengths))
    return answers


def _split(residuals: Residuals, sizes: list[int]) -> list[Residuals]:
    """The residuals of each control, from those of all their rows."""
    if len(sizes) == 1:
        return [residuals]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    pieces = [slice(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    return [residuals.each(itemgetter(piece)) for piece in pieces]


def _spread(residuals: Residuals, kept: list[int], total: int) -> Residuals:
    """Residuals of some rows at their places among all of them, 0 elsewhere."""
    if len(kept) == total:
        return residuals

    def spread(t: Tensor) -> Tensor:
        full = t.new_zeros(total, *t.shape[1:])
        full[kept] = t
        return full

    return residuals.each(spread)


class HostControl(Steered):
    """A control that the host made, of whatever family, weighed as ours are."""

    def __init__(self, inner: Any):
        super().__init__()
        self.inner = inner
        # Hints as the inner control prepared them (some through a VAE), by frames; kept across runs.
        self.prepared: dict[Any, foreign.Prepared] = {}

    def copy(self) -> "HostControl":
        other = HostControl(self.inner.copy())
        self.copy_to(other)
        other.prepared = self.prepared
        return other

    def set_cond_hint(
        self,
        cond_hint: Tensor,
        strength: float = 1.0,
        timestep_percent_range: tuple[float, float] = (0.0, 1.0),
        vae: Any = None,
        extra_concat: list[Tensor] = [],  # noqa: B006 (the host's signature)
    ) -> "HostControl":
        cond_hint = prepare_hint(cond_hint, foreign.hint_channels(self.inner))
        super().set_cond_hint(cond_hint, strength, timestep_percent_range, vae, extra_concat)
        self.prepared = foreign.kept_hints(self.inner, cond_hint, vae, extra_concat)
        # The strength and the range are applied here, so the inner control acts always and in full.
        self.inner.set_cond_hint(cond_hint, 1.0, (0.0, 1.0), vae=vae, extra_concat=extra_concat)
        return self

    def set_extra_arg(self, argument: str, value: Any = None) -> None:
        self.inner.set_extra_arg(argument, value)

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        super().pre_run(model, percent_to_timestep_function)
        foreign.check_base(self.inner, model)
        self.inner.pre_run(model, percent_to_timestep_function)

    def cleanup(self) -> None:
        # Encoding a hint again for every picture would cost a pass of the VAE.
        offload = comfy.model_management.unet_offload_device()
        for key, prepared in self.prepared.items():
            self.prepared[key] = foreign.offloaded(prepared, offload)
        # Some of the host's controls cannot be cleaned up before they have run.
        if self.run is not None:
            self.inner.cleanup()
        super().cleanup()

    def get_models(self) -> list[Any]:
        return [*super().get_models(), *self.inner.get_models()]

    def get_extra_hooks(self) -> list[Any]:
        return super().get_extra_hooks() + self.inner.get_extra_hooks()

    def deepclone_multigpu(self, load_device: torch.device, autoregister: bool = False) -> "HostControl":
        other = self.copy()
        other.inner = self.inner.deepclone_multigpu(load_device)
        if autoregister:
            self.multigpu_clones[load_device] = other
        return other

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        own = self.inner.inference_memory_requirements(dtype)
        return int(own + super().inference_memory_requirements(dtype))

    def rows(self, call: Call) -> list[float]:
        return foreign.responses(self.inner, super().rows(call))

    def parts(self, call: Call, rows: list[float]) -> Parts | None:
        batch = call.batch
        chunks = [c for c in range(call.chunks) if any(rows[c * batch : (c + 1) * batch])]
        if not chunks:
            return None
        asked = call.picked(chunks)
        answer = self._ask(asked)
        if answer is None:
            return None
        if len(chunks) < call.chunks:
            kept = [c * batch + i for c in chunks for i in range(batch)]
            answer = {
                place: [None if t is None else _spread(Residuals((t,)), kept, len(rows)).down[0] for t in ts]
                for place, ts in answer.items()
            }
        return self.weighed(answer, call, rows)

    def _ask(self, call: Call) -> Answer | None:
        """The inner control's answer, with the hints of the frames that are being sampled.

        It cuts its hint to the batch for good, so each choice of frames gets its own.
        """
        inner, whole = self.inner, self.inner.cond_hint_original
        key = foreign.prepared_key(inner, call.frames, call.x.shape[-2:], call.window, call.chunks)
        foreign.put_prepared(inner, self.prepared.get(key), call.x.device)
        if whole is not None:
            hint = _window_of(whole, call)
            if hint.shape[0] > 1:
                hint = hint[[frame % hint.shape[0] for frame in call.frames]]
            inner.cond_hint_original = hint
        try:
            answer = inner.get_control(call.x, call.t, call.cond, call.chunks, call.options)
        finally:
            inner.cond_hint_original = whole
        self.prepared[key] = foreign.take_prepared(inner)
        return None if answer is None else foreign.for_rows(answer, call.x.shape[0])

    def weighed(self, answer: Answer, call: Call, rows: list[float]) -> Parts:
        return foreign.as_the_base_reads(super().weighed(answer, call, rows), answer, self.inner)


class MergedControl(comfy.controlnet.ControlBase):
    """Several controls that act as one; each keeps its weights. Those of one network run as one batch."""

    def __init__(self, controls: Iterable[Steered], rule: Rule):
        super().__init__()
        self.controls = list(controls)
        self.rule = rule

    def copy(self) -> "MergedControl":
        other = MergedControl(self.controls, self.rule)
        self.copy_to(other)
        return other

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        super().pre_run(model, percent_to_timestep_function)
        for control in self.controls:
            control.pre_run(model, percent_to_timestep_function)

    def cleanup(self) -> None:
        super().cleanup()
        for control in self.controls:
            control.cleanup()

    def get_models(self) -> list[Any]:
        models = super().get_models()
        for control in self.controls:
            models += [model for model in control.get_models() if model not in models]
        return models

    def get_extra_hooks(self) -> list[Any]:
        return super().get_extra_hooks() + [h for control in self.controls for h in control.get_extra_hooks()]

    def deepclone_multigpu(self, load_device: torch.device, autoregister: bool = False) -> "MergedControl":
        other = self.copy()
        other.controls = [control.deepclone_multigpu(load_device) for control in self.controls]
        if autoregister:
            self.multigpu_clones[load_device] = other
        return other

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        own = sum(control.inference_memory_requirements(dtype) for control in self.controls)
        return own + super().inference_memory_requirements(dtype)

    def get_control(
        self, x_noisy: Tensor, t: Tensor, cond: dict, batched_number: int, transformer_options: dict
    ) -> Answer | None:
        previous = None
        if self.previous_controlnet is not None:
            previous = self.previous_controlnet.get_control(
                x_noisy, t, cond, batched_number, transformer_options
            )
        spoken = self.parts(Call(x_noisy, t, cond, batched_number, transformer_options))
        present = [parts for parts in spoken if parts is not None]
        if not present:
            return previous
        return add(merge_parts(present, self.rule), previous)

    def parts(self, call: Call) -> list[Parts | None]:
        """What each control says, in the controls' order; None for the silent ones."""
        rows = [control.rows(call) for control in self.controls]
        spoken: list[Parts | None] = [None] * len(self.controls)
        groups: dict[Any, list[int]] = {}
        for i, control in enumerate(self.controls):
            if any(rows[i]):
                groups.setdefault(control.batch_key(call), []).append(i)
        for members in groups.values():
            controls = [self.controls[i] for i in members]
            answers = controls[0].parts_together(controls, call, [rows[i] for i in members])
            for i, answer in zip(members, answers, strict=True):
                spoken[i] = answer
        return spoken

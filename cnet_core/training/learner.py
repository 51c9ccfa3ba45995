"""A training in memory: weights, optimizer, moving average, and where in the data it stands."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TrainingError
from ..networks.controlnet import ControlNet
from ..networks.unet import UNet
from .batches import Source
from .config import Settings
from .optimizer import ema_decay, make_optimizer, rate_at, update_average
from .order import mixed
from .processes import Processes
from .shards import checksum
from .start import union_type
from .state import State
from .step import Trainee, draw, losses, moved

# For a training that has run away.
_MEND = (
    "Train with a smaller learning rate, or with bf16 in place of fp16. What was learnt up to the newest "
    "state on disk, if there is one, can be had, and trained further as the initial ControlNet of a new "
    "training: in the shell by export, in the graph by setting the steps to that state's number and running "
    "it again."
)

# Of the loss in fp16: it begins at 65536 and halves at each step whose gradients overflow.
_LEAST_SCALE = 1e-4


class Learner:
    """What a training changes; the base it never changes.

    net: of start.trainable, on the device of `processes`. A step is a pure function of the state: whatever it
    draws comes from the seed and the batch's number.
    """

    def __init__(self, base: UNet, net: ControlNet, settings: Settings, processes: Processes | None = None):
        self.base, self.net, self.settings = base, net, settings
        self.processes = processes or Processes(next(base.parameters()).device)
        self.trainee = Trainee(net, union_type(net, settings), settings.recompute != "none")
        self.control = self.processes.shared(self.trainee)
        self.named = {name: p for name, p in net.named_parameters() if p.requires_grad}
        self.weights = list(self.named.values())
        self.optimizer = make_optimizer(self.weights, settings)
        self.average = [p.detach().clone() for p in self.weights] if settings.ema else []
        # Gradients run through the base too, in its own precision.
        half = settings.precision == "fp16" or next(base.parameters()).dtype == torch.float16
        self.scaler = torch.amp.GradScaler(self.processes.device.type, enabled=half)
        self.step = 0
        # False while weights and optimizer are between two steps.
        self.whole = True

    @cached_property
    def base_hash(self) -> str:
        """The checksum of the base, which no training changes."""
        return checksum(self.base.state_dict())

    def index(self, part: int, rank: int | None = None, step: int | None = None) -> int:
        """The number of a batch in the endless sequence: that of this process's `part` of the next step."""
        step, rank = self.step if step is None else step, self.processes.rank if rank is None else rank
        return (step * self.settings.accumulation + part) * self.processes.count + rank

    def advance(self, source: Source) -> Tensor:
        """One optimizer step: the loss of each of its batches in this process, fp32 [accumulation], on the
        device.

        On a CPU, where that costs nothing, a loss that is no number is an error before it reaches the
        weights; elsewhere the caller looks when it reads losses. Raises TrainingError.
        """
        settings, found = self.settings, []
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(self.step, settings)
        for part in range(settings.accumulation):
            index = self.index(part)
            batch = moved(
                source.batch(index, settings.batch, settings.seed, settings.drop), self.processes.device
            )
            generator = torch.Generator().manual_seed(mixed(settings.seed, index, 1))
            noise, timesteps = draw(batch, generator)
            last = part + 1 == settings.accumulation
            with self.processes.collecting(self.control, last):
                loss = losses(self.base, self.control, batch, noise, timesteps, settings.objective).mean()
                if loss.device.type == "cpu" and self.processes.count == 1:
                    self.check(loss.detach()[None, None, None], source, part)
                self.scaler.scale(loss / settings.accumulation).backward()
            found.append(loss.detach())
        self._update()
        return torch.stack(found)

    def _update(self) -> None:
        self.scaler.unscale_(self.optimizer)
        if self.settings.clip:
            nn.utils.clip_grad_norm_(self.weights, self.settings.clip)
        self.whole = False
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            update_average(self.average, self.weights, ema_decay(self.step, self.settings.ema))
        self.step += 1
        self.whole = True

    def check(self, found: Tensor, source: Source, part: int = 0, step: int | None = None) -> None:
        """Raise TrainingError if a loss is no number, naming the examples of the first such batch.

        found: [processes, steps, accumulation], of the steps from `step` on (by default the next one);
        `part`: of the first batch in it.
        """
        wrong = (~torch.isfinite(found)).nonzero()
        if not len(wrong):
            return
        rank, number, piece = min(wrong.tolist(), key=lambda place: (place[1], place[2], place[0]))
        at = (self.step if step is None else step) + number
        settings = self.settings
        batch = source.batch(self.index(part + piece, rank, at), settings.batch, settings.seed, settings.drop)
        raise TrainingError(
            f"the loss became {float(found[rank, number, piece])} in step {at + 1}, with the examples "
            f"{', '.join(batch.names)}. Look at these pictures. {_MEND}"
        )

    def check_weights(self) -> None:
        """Raise TrainingError if a weight is no number, as gradients of a finite loss can make it, or if in
        fp16 they overflow at any scale, so that nothing is learnt.
        """
        if self.scaler.get_scale() < _LEAST_SCALE:
            raise TrainingError(
                f"the gradients overflow in fp16 at any scale, up to step {self.step}; such steps were left "
                f"out, and nothing was learnt in them. {_MEND}"
            )
        if not all(torch.stack([torch.isfinite(weight).all() for weight in self.weights]).tolist()):
            raise TrainingError(f"the weights are no numbers any more after step {self.step}. {_MEND}")

    def result(self) -> dict[str, Tensor]:
        """The network's state dict as it is to be used: with averaged weights if there are any."""
        averaged = dict(zip(self.named, self.average, strict=True)) if self.average else {}
        return {**self.net.state_dict(), **averaged}

    def swapped(self) -> None:
        """Exchange the weights with their averages, in place; a second time, back again."""
        with torch.no_grad():
            for weight, average in zip(self.weights, self.average, strict=False):
                kept = weight.detach().clone()
                weight.copy_(average)
                average.copy_(kept)

    def state(self) -> State:
        """Everything that the next step depends on, beside base, data and settings."""
        tensors = {f"control.{name}": p.detach() for name, p in self.named.items()}
        tensors |= {f"ema.{name}": t for name, t in zip(self.named, self.average, strict=False)}
        plain: dict[str, dict[str, Any]] = {}
        for name, key, value in self._optimizer_values():
            if isinstance(value, Tensor):
                # Of bitsandbytes' tables all weights have the same two, and no tensors of a file may be one.
                tensors[f"optimizer.{name}.{key}"] = value.clone() if key.startswith("qmap") else value
            else:
                plain.setdefault(name, {})[key] = value
        return State(self.step, tensors, {"optimizer": plain, "scaler": self.scaler.state_dict()})

    def _optimizer_values(self) -> Iterator[tuple[str, str, Any]]:
        for name, parameter in self.named.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                yield name, key, value

    def restore(self, state: State) -> None:
        """Go on from a state. Raises TrainingError if it is of another network."""
        wanted = {f"control.{name}": p.shape for name, p in self.named.items()}
        found = {name: t.shape for name, t in state.tensors.items() if name.startswith("control.")}
        if wanted != found:
            raise TrainingError(
                f"the state holds {len(found)} weights, the network {len(wanted)}, or they differ in shape; "
                "the state is of another network. Resume with what the training began with."
            )
        with torch.no_grad():
            for name, parameter in self.named.items():
                parameter.copy_(state.tensors[f"control.{name}"])
            for name, average in zip(self.named, self.average, strict=False):
                average.copy_(state.tensors[f"ema.{name}"])
        for name, parameter in self.named.items():
            prefix, own = f"optimizer.{name}.", dict(state.facts["optimizer"].get(name, {}))
            for key in (k for k in state.tensors if k.startswith(prefix)):
                own[key.removeprefix(prefix)] = _like(state.tensors[key], parameter)
            if own:
                self.optimizer.state[parameter] = own
        self.scaler.load_state_dict(state.facts["scaler"])
        self.step = state.step


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """The value as the optimizer had it: in the parameter's memory layout where it has its shape."""
    if value.shape != parameter.shape:
        # AdamW counts steps on the CPU or, fused, on the device; its own way is kept by the file's reader.
        return value.clone().to(parameter.device)
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)

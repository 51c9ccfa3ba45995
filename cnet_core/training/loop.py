"""The loop: steps, reports, probes, and states on disk from which it goes on exactly."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CNetError, TrainingError
from .batches import Source
from .curves import History, curves
from .learner import Learner
from .probes import Probe, Prober
from .shards import write_whole
from .state import State, States, alone, check_writable

# Where a training keeps things, below its folder.
STATES, PROBES, CURVES, HISTORY = "states", "probes", "curves.png", "history.json"
_INITIAL = "initial ControlNet"


def probe_file(folder: Path, step: int) -> Path:
    """The picture of the probes of a step, in a training's folder; by name they are in the order of steps."""
    return folder / PROBES / f"step-{step:08}.png"


@dataclass(frozen=True, eq=False)
class Report:
    """What a training says after a step.

    step: steps done, of `steps`. loss: mean since it was last said, None in between (reading it makes a GPU
    wait). rate: the learning rate. speed: steps per second; left: seconds to go, both None until known.
    probe: pictures, when they were drawn. saved: the state, when one was written.
    """

    step: int
    steps: int
    rate: float
    loss: float | None = None
    speed: float | None = None
    left: float | None = None
    probe: Probe | None = None
    saved: Path | None = None


def fit(
    learner: Learner,
    source: Source,
    folder: Path,
    resume: bool = False,
    report: Callable[[Report], None] = lambda report: None,
    stop: Callable[[], bool] = lambda: False,
    prober: Prober | None = None,
    say: Callable[[str], None] = lambda message: None,
    begun: Callable[[], None] = lambda: None,
    start_counts: bool = True,
) -> bool:
    """Train until settings.steps, writing states, probes and curves below the folder; whether it got there.

    report: called after every step by the first process; what it raises (a host's Cancel), as anything else
    that ends the training, does so after a state was written. stop: asked between steps; True writes a state
    and returns. resume: go on from the folder's newest state. say: told of damaged states.
    begun: called in the first process once the training is known to go on in this folder. start_counts:
    whether a resumption must begin with the same network; as a rule its state replaces all of it.
    Raises TrainingError for a folder that cannot be written, one that holds another training or in which
    another process trains, a resumption with other settings, base, data or initial ControlNet, a full disk,
    a loss that is no number.
    """
    run = _Run(learner, source, Path(folder), report, stop, prober, say, start_counts)
    check_owned(run.folder, CURVES, HISTORY)
    check_writable(run.states.folder)
    if not learner.processes.first:
        return run.run(resume)
    with alone(run.folder):
        return run.run(resume, begun)


def check_owned(folder: Path, *names: str) -> None:
    """Raise TrainingError where files of names that a training writes are not its own."""
    found = [name for name in names if (folder / name).is_file()]
    if found and not (folder / STATES).is_dir():
        raise TrainingError(
            f"{folder} has {' and '.join(found)}, but no states of a training, so that other files than its "
            "own would be written over. Choose another folder; nothing was trained."
        )


def identity(learner: Learner, source: Source) -> dict[str, Any]:
    """What a training must share with one that goes on with its state, by name; learner: at its beginning."""
    return {
        **learner.settings.result_dependent,
        "processes": learner.processes.count,
        "base": learner.base_hash,
        _INITIAL: _sizes(learner),
        "data": source.data_hash,
    }


def with_start_of(state: State, current: Mapping[str, Any], learner: Learner) -> dict[str, Any]:
    """An identity that begins with the network that a state's training did, if the state holds all of it."""
    if len(learner.named) < len(list(learner.net.parameters())):
        return dict(current)
    return {**current, _INITIAL: state.facts["identity"].get(_INITIAL)}


def check_identity(state: State, current: Mapping[str, Any]) -> None:
    """Raise TrainingError, naming what differs, unless the state is of a training like the current one."""
    before = state.facts["identity"]
    names = [name for name in {**before, **current} if before.get(name) != current.get(name)]
    if _INITIAL in names and _close(before.get(_INITIAL), current.get(_INITIAL)):
        names.remove(_INITIAL)
    if names:
        listed = "; ".join(
            f"the {n} was another"
            if n == _INITIAL
            else f"{n} was {_short(before.get(n))}, is {_short(current.get(n))}"
            for n in names
        )
        raise TrainingError(
            f"this training cannot go on with another configuration: {listed}. Resume it as it was, or begin "
            "a new one in another folder; its initial ControlNet may be this one's result."
        )


def _sizes(learner: Learner) -> list[float]:
    """The length of each tensor that is trained; what one device multiplied has other last bits elsewhere."""
    return torch.stack([weight.detach().double().norm() for weight in learner.weights]).tolist()


def _close(before: Sequence[float] | None, now: Sequence[float] | None) -> bool:
    """Whether lengths are of the same tensors. Older states do not say them."""
    if before is None or now is None:
        return True
    return len(before) == len(now) and all(map(partial(math.isclose, rel_tol=1e-4), before, now))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 16 else f"{text[:12]}..."


class _Run:
    def __init__(
        self,
        learner: Learner,
        source: Source,
        folder: Path,
        report: Callable[[Report], None],
        stop: Callable[[], bool],
        prober: Prober | None,
        say: Callable[[str], None],
        start_counts: bool,
    ):
        self.learner, self.source, self.folder = learner, source, folder
        self.report, self.stop, self.prober, self.say = report, stop, prober, say
        self.start_counts = start_counts
        self.settings, self.processes = learner.settings, learner.processes
        self.states = States(folder / STATES, self.settings.keep)
        self.history = History()
        # Losses on the device that nobody has read yet.
        self.unread: list[Tensor] = []
        # Which processes were asked to stop, as of the step before.
        self.asked: Tensor | None = None
        self.started, self.timed = time.monotonic(), 0
        self.identity: dict[str, Any] = {}
        # What it begins with needs no state; without one, another try may have other settings.
        self.saved_step = learner.step

    def run(self, resume: bool, begun: Callable[[], None] = lambda: None) -> bool:
        self.identity = identity(self.learner, self.source)
        if resume:
            self.go_on()
        elif self.states.paths():
            newest = self.states.paths()[-1].stem
            raise TrainingError(
                f"{self.folder} holds a training already (up to {newest}). Resume it, or choose another one."
            )
        begun()
        self.started, self.timed = time.monotonic(), self.learner.step
        try:
            return self.steps()
        except TrainingError:
            raise
        except BaseException:
            if self.learner.whole and self.learner.step != self.saved_step:
                # Others may not be there to exchange losses with any more.
                self.read_losses(alone=True)
                self.save()
            raise

    def go_on(self) -> None:
        state, problems = self.states.newest()
        if state is None and problems:
            raise TrainingError(
                f"none of the states in {self.states.folder} can be read, so there is nothing to go on from. "
                f"Begin anew in another folder, or remove this one. {problems[0]}"
            )
        for problem in problems:
            self.say(problem)
        if state is None:
            raise TrainingError(
                f"{self.folder} holds no state of a training to resume. Begin one with fit; states are "
                f"written every {self.settings.save_every} steps and when it is stopped."
            )
        if not self.start_counts:
            self.identity = with_start_of(state, self.identity, self.learner)
        check_identity(state, self.identity)
        self.learner.restore(state)
        self.history = History.of(state)
        self.saved_step = state.step
        if state.step >= self.settings.steps:
            self.say(
                f"{self.folder} holds a training of {state.step} steps already, and "
                f"{self.settings.steps} were asked for: this is its result, and nothing was trained. Raise "
                "the steps to go on with it, or choose another folder to begin anew."
            )

    def steps(self) -> bool:
        learner, settings = self.learner, self.settings
        if self.prober and learner.step == 0 and settings.probe_every:
            self.say_all(probe=self.probe())
        while learner.step < settings.steps:
            self.unread.append(learner.advance(self.source))
            done = learner.step == settings.steps
            loss = None
            if self.due(settings.show_every) or done:
                loss = self.read_losses()
            probe = self.probe() if self.prober and (self.due(settings.probe_every) or done) else None
            stopped = self.stopping()
            saved = self.save() if self.due(settings.save_every) or done or stopped else None
            self.say_all(loss, probe, saved)
            if stopped:
                return done
        return True

    def due(self, every: int) -> bool:
        return every > 0 and self.learner.step % every == 0

    def stopping(self) -> bool:
        """Whether to stop. Several processes must agree: a step later, so that no GPU is waited for."""
        if self.processes.count == 1:
            return self.stop()
        before = self.asked
        own = torch.full((), float(self.stop()), device=self.processes.device)
        self.asked = self.processes.gathered(own)
        return before is not None and bool(before.any())

    def read_losses(self, alone: bool = False) -> float | None:
        """Check the losses since the last time, add them to the history, and give their mean."""
        if not self.unread:
            return None
        found = torch.stack(self.unread)
        everywhere = (found[None] if alone else self.processes.gathered(found)).float().cpu()
        self.unread = []
        self.learner.check(everywhere, self.source, step=self.learner.step - len(found))
        losses = everywhere.mean(dim=(0, 2)).tolist()
        self.history.losses += losses
        return sum(losses) / len(losses)

    def probe(self) -> Probe | None:
        """Drawn by the first process, with the averaged weights if there are any."""
        if self.prober is None or not self.settings.probe_every or not self.processes.first:
            return None
        # Not whole if the exchange itself fails half way, here or back.
        self.learner.whole = False
        self.learner.swapped()
        try:
            probe = self.prober.draw(self.learner.trainee)
        finally:
            self.learner.swapped()
            self.learner.whole = True
        self.history.fidelity.append((self.learner.step, probe.fidelity))
        try:
            _write_picture(probe_file(self.folder, self.learner.step), probe.sheet())
        except CNetError as error:
            # As of the curves: a picture is never worth an end of the training.
            self.say(str(error))
        return probe

    def save(self) -> Path | None:
        if self.unread:
            self.read_losses()
        self.learner.check_weights()
        if not self.processes.first:
            return None
        state = self.history.into(self.learner.state())
        facts = {**state.facts, "identity": self.identity}
        path = self.states.write(State(state.step, state.tensors, facts))
        self.saved_step = state.step
        try:
            self.write_curves()
        except CNetError as error:
            # Never worth an end of the training: another program may hold them open; the state has it all.
            self.say(str(error))
        return path

    def write_curves(self) -> None:
        """Raises CNetError."""
        _write_picture(self.folder / CURVES, curves(self.history, self.folder.name))
        history = {"losses": self.history.losses, "fidelity": self.history.fidelity}
        write_whole(self.folder / HISTORY, json.dumps(history).encode())

    def say_all(
        self, loss: float | None = None, probe: Probe | None = None, saved: Path | None = None
    ) -> None:
        if not self.processes.first:
            return
        step, steps = self.learner.step, self.settings.steps
        taken, passed = step - self.timed, time.monotonic() - self.started
        speed = taken / passed if taken and passed > 0 else None
        rate = self.learner.optimizer.param_groups[0]["lr"]
        left = (steps - step) / speed if speed else None
        self.report(Report(step, steps, rate, loss, speed, left, probe, saved))


def _write_picture(path: Path, picture: Tensor) -> None:
    """A picture [1,H,W,3] in 0..1 as PNG, whole or not at all. Raises DataError."""
    from PIL import Image

    pixels = (picture[0].clamp(0, 1) * 255).round().byte().numpy()
    encoded = BytesIO()
    Image.fromarray(pixels).save(encoded, format="PNG")
    write_whole(path, encoded.getvalue())

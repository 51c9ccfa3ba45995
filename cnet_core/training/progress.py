"""How the shell shows a training: a bar or lines on standard error, and TensorBoard's log."""

import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from tqdm import tqdm

from ..errors import TrainingError
from ..shell import install
from .loop import Report, probe_file


class Progress:
    """Takes the reports of a training whose folder this is: a bar in a terminal, else a line per loss.

    log: a TensorBoard.
    """

    def __init__(self, folder: Path, log: "TensorBoard | None" = None):
        self.folder, self.log = folder, log
        self.bar: tqdm | None = None
        self.tells = sys.stderr.isatty()

    def __call__(self, report: Report) -> None:
        if self.bar is None:
            # The speed is that of the steps from here on, also where a training is resumed.
            self.bar = tqdm(total=report.steps, initial=report.step, unit="it", disable=not self.tells)
        self.bar.update(report.step - self.bar.n)
        if report.loss is not None:
            self.bar.set_postfix_str(f"loss {report.loss:.4f}")
            if not self.tells:
                self.say(_line(report))
        if report.probe is not None:
            picture = probe_file(self.folder, report.step)
            self.say(f"step {report.step}: fidelity {report.probe.fidelity:.3f}, {picture}")
        if self.log is not None:
            self.log.add(report)

    def say(self, message: str) -> None:
        """A line above the bar."""
        tqdm.write(message, file=sys.stderr)
        sys.stderr.flush()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        if self.log is not None:
            self.log.close()


def _line(report: Report) -> str:
    speed = "" if report.speed is None else f"  {report.speed:.2f} it/s"
    left = "" if report.left is None else f"  {tqdm.format_interval(report.left)} left"
    return f"step {report.step}/{report.steps}  loss {report.loss:.4f}{speed}{left}"


class TensorBoard:
    """A log in a folder. step: that of the state a training goes on from; what was logged after it is void.

    Raises TrainingError where tensorboard is not installed.
    """

    def __init__(self, folder: Path, step: int):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise TrainingError(
                "a log for TensorBoard needs tensorboard, which is not installed: "
                f"{install('tensorboard>=2.16')}. Or train without --tensorboard."
            ) from error
        # Made when there is something to log: it voids what was logged before, and a training may be refused.
        self.make: Callable[[], Any] = partial(SummaryWriter, str(folder), purge_step=step + 1)
        self.writer: Any = None

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()

    def add(self, report: Report) -> None:
        self.writer = self.writer or self.make()
        if report.loss is not None:
            self.writer.add_scalar("loss", report.loss, report.step)
            self.writer.add_scalar("rate", report.rate, report.step)
        if report.probe is not None:
            self.writer.add_scalar("fidelity", report.probe.fidelity, report.step)
            self.writer.add_image("probes", report.probe.sheet()[0], report.step, dataformats="HWC")


class Stopping:
    """Within it, Ctrl-C and SIGTERM ask the training to stop; a second Ctrl-C interrupts it at once.

    signal: the one that came, None as long as none did.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stopping":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        return self.signal is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal == number == signal.SIGINT:
            raise KeyboardInterrupt
        # Several processes are sent both by what launched them, so one kind does not count as the other's
        # second.
        self.signal = self.signal or number

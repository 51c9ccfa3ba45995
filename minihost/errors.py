"""Errors of minihost. Each message names the node or the file, says what is wrong, and how to mend it."""

from collections.abc import Sequence


class MinihostError(Exception):
    """Root of the errors that minihost raises on purpose."""


class PackError(MinihostError):
    """The pack cannot be loaded."""


class WorkflowError(MinihostError):
    """A workflow cannot run; `problems` has one line for each thing to mend."""

    def __init__(self, problems: str | Sequence[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class NodeError(MinihostError):
    """A node raised while it ran; `__cause__` is what it raised."""

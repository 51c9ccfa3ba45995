"""`comfy_execution.graph_utils`: outputs that nothing may use."""

from __future__ import annotations


class ExecutionBlocker:
    """In the place of an output: nodes that use it do not run, and `message` says why."""

    def __init__(self, message: str | None):
        self.message = message

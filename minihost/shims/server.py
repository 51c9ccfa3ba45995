"""`server`: what nodes say on themselves while they run, which goes to the terminal."""

from __future__ import annotations

import sys
from typing import Any


class PromptServer:
    """The host's web server; here only the one to which nodes send a line of text."""

    instance: Any

    def send_progress_text(self, text: str, node_id: str, sid: str | None = None) -> None:
        """Show a text on a node."""
        print(f"{node_id}: {text}", file=sys.stderr)


PromptServer.instance = PromptServer()

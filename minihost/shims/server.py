"""`server`: what nodes say on themselves while they run, which goes to the terminal."""

from __future__ import annotations

import html
import sys
from typing import Any


class PromptServer:
    """The host's web server; here only the one to which nodes send a line of text."""

    instance: Any

    def __init__(self) -> None:
        # By node, the last one.
        self.said: dict[str, str] = {}

    def send_progress_text(self, text: str, node_id: str, sid: str | None = None) -> None:
        """Show a text on a node; like browsers, it takes the text for HTML."""
        text = html.unescape(text)
        self.said[node_id] = text
        print(f"{node_id}: {text}", file=sys.stderr)


PromptServer.instance = PromptServer()

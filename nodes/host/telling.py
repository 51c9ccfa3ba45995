"""What nodes say on themselves."""

from server import PromptServer


def tell(node: str | None, text: str) -> None:
    """Show a text on a node of this id, where it stays until the next; browsers show none of those that nodes
    return but on the host's own. Without an id or a server nothing is shown."""
    server = getattr(PromptServer, "instance", None)
    if server is not None and node is not None:
        server.send_progress_text(text, node)

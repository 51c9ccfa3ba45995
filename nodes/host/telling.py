"""What nodes say on themselves."""

from server import PromptServer


def tell(node: str, text: str) -> None:
    """Show a text on a node of this id, where it stays until the next; browsers show none of those that nodes
    return but on the host's own."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.send_progress_text(text, node)

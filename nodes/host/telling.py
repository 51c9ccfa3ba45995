"""What nodes say on themselves."""

from server import PromptServer


def tell(node: str, text: str) -> None:
    """Show a text on a node of this id, where it stays until the next; browsers show none of those that nodes
    return but on the host's own."""
    PromptServer.instance.send_progress_text(text, node)

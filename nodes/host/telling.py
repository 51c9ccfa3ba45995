"""What nodes say on themselves."""

import html

from server import PromptServer


def tell(node: str | None, text: str) -> None:
    """Show a text on a node of this id, where it stays until the next; browsers show none of those that nodes
    return but on the host's own. Without an id or a server nothing is shown."""
    server = getattr(PromptServer, "instance", None)
    if server is not None and node is not None:
        # Names of files need not be Unicode, which the host's messages are. Browsers take the text for HTML,
        # and [[label|address]] for a link.
        encodable = text.encode("utf-8", "backslashreplace").decode()
        server.send_progress_text(html.escape(encodable, quote=False).replace("[[", "[&#91;"), node)

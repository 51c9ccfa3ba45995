"""Finished files, put in their places."""

import os
import time
from pathlib import Path

# Seconds between attempts.
_PAUSES = (0.1, 0.3, 0.6, 1.0)


def put(finished: Path, path: Path) -> None:
    """Rename a finished file, in place of an older one if there is one, at once or not at all.

    On Windows a virus scanner, an indexer or a backup holds files that were just written, for a moment; it is
    waited for. Raises OSError.
    """
    for pause in _PAUSES:
        try:
            os.replace(finished, path)
            return
        except PermissionError:
            time.sleep(pause)
    os.replace(finished, path)

"""A stranger's words, from names and headers of files, made fit to be read."""

import unicodedata

# For people to glance at: training logs of megabytes are found in metadata too.
_LENGTH = 200


def printable(text: object, length: int | None = _LENGTH) -> str:
    """A stranger's text as one line: control characters escaped, and cut to `length` (None: not cut).

    Terminals obey control characters, and bidirectional marks show a text in another order than it has.
    """
    text = str(text)
    cut = text if length is None else text[:length]
    clean = "".join(
        character.encode("unicode_escape").decode("ascii") if _controls(character) else character
        for character in cut
    )
    return clean if len(cut) == len(text) else f"{clean}... ({len(text):,} characters)"


def _controls(character: str) -> bool:
    """Control, format and unassigned characters, and the separators of lines and paragraphs."""
    category = unicodedata.category(character)
    return category.startswith("C") or category in ("Zl", "Zp")

"""Text from files and clients, made safe and short for messages."""

import re
from collections.abc import Sequence

MAX_QUOTED_CHARACTERS = 40


def printable(text: str) -> str:
    """Return text with every character that is not printable as an escape sequence.

    A name inside an archive or a header can hold terminal control codes. Bytes that are not UTF-8 arrive as lone
    surrogates (PEP 383) and are written as the bytes they were.
    """
    if text.isprintable():
        return text
    escaped = "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
    return re.sub(r"\\udc([89a-f][0-9a-f])", r"\\x\1", escaped)


def quote_value(value: object, limit: int = MAX_QUOTED_CHARACTERS) -> str:
    """Return a value in quotes, on one line, with control characters escaped and a long value cut."""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            return repr(value[:limit])[1:] + ("…" if len(value) > limit else "")
    text = str(value)
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    # Bytes that are not UTF-8 are lone surrogates here (PEP 383): show them as the bytes they were.
    return repr(cut) if cut.isascii() else re.sub(r"\\udc([89a-f][0-9a-f])", r"\\x\1", repr(cut))


def quote_names(names: Sequence[str]) -> str:
    """Return the names of columns for a message: escaped, cut, and the first few if there are many."""
    return join_names([quote_value(name)[1:-1] for name in names])


def join_names(names: Sequence[str], limit: int = 10) -> str:
    """Return names joined by commas: the first `limit`, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(printable(name) for name in names[:limit]) + more

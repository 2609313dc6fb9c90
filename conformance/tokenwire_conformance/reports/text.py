"""Text of a peer, made fit to be shown."""

import json
from typing import Final

__all__ = ["clip", "one_line", "printable"]

_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str, keep: str = "") -> str:
    r"""``text`` with an escape such as ``\x1b`` in the place of every character that does not print.

    That takes control sequences from a terminal, marks that turn the direction of writing, half a surrogate pair, and
    whatever XML 1.0 does not allow. Characters in ``keep`` stay.
    """
    if text.isprintable():
        return text
    return text.translate({ord(char): _escape(char) for char in set(text) if not (char.isprintable() or char in keep)})


def one_line(text: str) -> str:
    """Text of the suite's own in one printable line, every run of white space one space."""
    return printable(" ".join(text.split()))


def clip(text: str, limit_chars: int) -> str:
    """``text`` cut to ``limit_chars`` characters, with a remark of how many were cut."""
    if len(text) <= limit_chars:
        return text
    return f"{text[:limit_chars]}… ({len(text) - limit_chars} more characters)"


def _escape(char: str) -> str:
    if char in _SHORT:
        return _SHORT[char]
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return json.dumps(char)[1:-1] if code < 0x10000 else f"\\U{code:08x}"

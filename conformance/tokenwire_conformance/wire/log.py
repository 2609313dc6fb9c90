"""What is kept of a connection for the report: bounded, without secrets."""

import re
from collections import deque
from collections.abc import Iterable
from typing import Final

from tokenwire_conformance.figures import MAX_LOG_CHARS, MAX_LOG_ENTRIES
from tokenwire_conformance.model import LogEntry, WireLog

__all__ = ["LogBuilder", "hide", "redacted", "redacted_command"]

_HALF: Final = MAX_LOG_ENTRIES // 2
_Raw = tuple[float, str, str, bytes | str, int, bool]
_HIDDEN_MIN_CHARS: Final = 6
"""A shorter value of a header is no secret, and would be found in every other word."""
_WORDS: Final = r"(?:auth|cookie|credential|key|passw(?:or)?d|secret|session|token)"
_SECRETS: Final = (
    # Header fields, but for the key of the WebSocket handshake, which is none.
    (re.compile(rf"(?im)^((?!sec-websocket-)[\w-]*{_WORDS}[\w-]*):.*$"), r"\1: …"),
    # A URL's query, but for the parameters of the protocol itself.
    (re.compile(r"(?<=[?&])(?!(?:caps|delivery|seq|attempt)=)([^=&?\s\"#]+)=[^&\s\"#]*"), r"\1=…"),
    (re.compile(r'("session"\s*:\s*)"(?:[^"\\]|\\.)*(?:"|\\?$)'), r'\1"…"'),
    # The same within a JSON string, as a server repeats what it did not understand.
    (re.compile(r'(\\+"session\\+"\s*:\s*\\+")[^"\\]*'), r"\1…"),
)
_OPTION: Final = re.compile(
    rf"(?i)((?:--?[\w-]*{_WORDS}[\w-]*|\b\w*{_WORDS}\w*(?==))(?:=|\s+))(?!['\"]?\{{)(?:'[^']*'|\"[^\"]*\"|[^\s-]\S*)"
)
_hidden: set[str] = set()


def hide(values: Iterable[str]) -> None:
    """From now on, replace these values wherever they occur in what is shown: those of the user's own headers."""
    for value in values:
        _hidden.update(part for part in (value, *value.split()) if len(part) >= _HIDDEN_MIN_CHARS)


def redacted(text: str) -> str:
    """``text`` without what gives access: credentials in headers and queries, the secret of a session."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    for value in sorted(_hidden, key=len, reverse=True):
        text = text.replace(value, "…")
    return text


def redacted_command(text: str) -> str:
    """A command line without the values of options and variables that are named like a secret."""
    return redacted(_OPTION.sub(r"\1…", text))


class LogBuilder:
    """Collects the log of one connection: the first and the last entries, what is between counted."""

    def __init__(self, number: int, url: str, begun_s: float) -> None:
        self._number = number
        self._url = redacted(url)
        self._begun_s = begun_s
        self._first: list[_Raw] = []
        self._last: deque[_Raw] = deque(maxlen=_HALF)
        self._count = 0

    def add(
        self, at_s: float, direction: str, kind: str, payload: bytes | str, *, size: int | None = None,
        compressed: bool = False,
    ) -> None:  # fmt: skip
        """One line; ``payload`` is cut, and its secrets are replaced."""
        self._count += 1
        length = len(payload) if size is None else size
        # Twice the length is redacted before the cut, so that no secret is halved past recognition.
        raw = (at_s, direction, kind, payload[: 2 * MAX_LOG_CHARS], length, compressed)
        (self._first if len(self._first) < _HALF else self._last).append(raw)

    def build(self) -> WireLog:
        """The log so far. Only what is left of a flood is worked on."""
        entries = [self._entry(*raw) for raw in (*self._first, *self._last)]
        return WireLog(self._number, self._url, entries, self._count - len(entries))

    def _entry(
        self, at_s: float, direction: str, kind: str, head: bytes | str, length: int, compressed: bool
    ) -> LogEntry:
        text = redacted(head if isinstance(head, str) else head.decode("utf-8", "backslashreplace"))
        cut = text if len(text) <= MAX_LOG_CHARS else text[:MAX_LOG_CHARS] + "…"
        return LogEntry(round((at_s - self._begun_s) * 1000), direction, kind, length, cut, compressed)

"""What is kept of a connection for the report: bounded, without secrets."""

import re
from collections import deque
from typing import Final

from tokenwire_conformance.figures import MAX_LOG_CHARS, MAX_LOG_ENTRIES
from tokenwire_conformance.model import LogEntry, WireLog

__all__ = ["LogBuilder", "redacted"]

_HALF: Final = MAX_LOG_ENTRIES // 2
_SECRETS: Final = (
    re.compile(r"(?im)^((?:proxy-)?authorization|x-tokenwire-session|cookie|x-api-key): .*$"),
    re.compile(r"([?&](?:session|token|access_token|api_key|apikey|key))=[^&\s\"]*"),
    re.compile(r'("(?:session)"\s*:\s*)"[^"]*"?'),
)
_REPLACEMENTS: Final = (r"\1: …", r"\1=…", r'\1"…"')


def redacted(text: str) -> str:
    """``text`` without what gives access: credentials in headers and queries, the secret of a session."""
    for pattern, replacement in zip(_SECRETS, _REPLACEMENTS, strict=True):
        text = pattern.sub(replacement, text)
    return text


class LogBuilder:
    """Collects the log of one connection: the first and the last entries, what is between counted."""

    def __init__(self, number: int, url: str, begun_s: float) -> None:
        self._number = number
        self._url = redacted(url)
        self._begun_s = begun_s
        self._first: list[LogEntry] = []
        self._last: deque[LogEntry] = deque(maxlen=_HALF)
        self._count = 0

    def add(
        self, at_s: float, direction: str, kind: str, payload: bytes | str, *, size: int | None = None,
        compressed: bool = False,
    ) -> None:  # fmt: skip
        """One line; ``payload`` is cut, and its secrets are replaced."""
        self._count += 1
        length = len(payload) if size is None else size
        # Twice the length is redacted before the cut, so that no secret is halved past recognition.
        head = payload[: 2 * MAX_LOG_CHARS]
        text = redacted(head if isinstance(head, str) else head.decode("utf-8", "backslashreplace"))
        cut = text if len(text) <= MAX_LOG_CHARS else text[:MAX_LOG_CHARS] + "…"
        entry = LogEntry(round((at_s - self._begun_s) * 1000), direction, kind, length, cut, compressed)
        (self._first if len(self._first) < _HALF else self._last).append(entry)

    def build(self) -> WireLog:
        """The log so far."""
        entries = [*self._first, *self._last]
        return WireLog(self._number, self._url, entries, self._count - len(entries))

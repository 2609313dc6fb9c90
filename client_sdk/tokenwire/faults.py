"""What a server sends that is no message: told at most once a second, tolerated ten times a minute."""

from collections import deque
from typing import Final

from tokenwire.cuts import MAX_TEXT_CHARS, cut
from tokenwire.events import Error
from tokenwire_schemas.limits import PROTOCOL_ERRORS_MAX, PROTOCOL_ERRORS_WINDOW_MS

__all__ = ["INVALID_SERVER_MESSAGE", "Faults"]

INVALID_SERVER_MESSAGE: Final = "INVALID_SERVER_MESSAGE"
_NOTICE_INTERVAL_MS: Final = 1_000
_COUNT_CHARS: Final = 50
_ACTION: Final = "Nothing to do; the client reconnects when it goes on. Report it to the server's operator."


class Faults:
    """Counts the invalid messages of one socket and words the events about them."""

    __slots__ = ("_last_told_ms", "_times", "_untold", "_why")

    def __init__(self) -> None:
        self._times: deque[int] = deque(maxlen=PROTOCOL_ERRORS_MAX)
        self._last_told_ms: int | None = None
        self._untold = 0
        self._why = ""

    def new_socket(self) -> None:
        """The tolerance starts over."""
        self._times.clear()

    def add(self, why: str, now: int, *, is_tolerated: bool = False) -> bool:
        """Another one; True when the server has used up its tolerance. One that ``is_tolerated`` is only told."""
        self._untold += 1
        self._why = why
        if is_tolerated:
            return False
        self._times.append(now)
        return len(self._times) == PROTOCOL_ERRORS_MAX and now - self._times[0] < PROTOCOL_ERRORS_WINDOW_MS

    @property
    def due(self) -> int | None:
        """When there is something to tell, in monotonic ms."""
        if not self._untold:
            return None
        return 0 if self._last_told_ms is None else self._last_told_ms + _NOTICE_INTERVAL_MS

    def tell(self, now: int, wall: int, *, at_once: bool = False) -> Error | None:
        """The event about those not told yet, if it is time for one; ``at_once``: this is the last occasion."""
        due = self.due
        if due is None or (now < due and not at_once):
            return None
        count, self._untold = self._untold, 0
        self._last_told_ms = now
        why = cut(self._why, MAX_TEXT_CHARS - _COUNT_CHARS)
        message = why if count == 1 else f"{why} ({count} such messages)"
        return Error(INVALID_SERVER_MESSAGE, message, "error", _ACTION, (), wall)

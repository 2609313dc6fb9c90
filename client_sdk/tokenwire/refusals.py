"""Names that were accepted once and are refused now: they stay wanted, and are asked for again (I-18, I-22).

A server that comes back with a smaller limit, or does not know its tokens yet, must not end a wish for good.
"""

from typing import Final

from tokenwire.tokens import Wanted
from tokenwire_schemas.errors import CATALOGUE, ErrorCode

__all__ = ["Refusals", "may_pass"]

_RETRY_MS: Final = 5_000
_MAX_RETRY_MS: Final = 60_000


def may_pass(code: str) -> bool:
    """Whether what was refused with ``code`` may be accepted later."""
    try:
        return CATALOGUE[ErrorCode(code)].retryable
    except ValueError:
        return False


class Refusals:
    """When to ask again, and what the application is not told yet."""

    __slots__ = ("_delay_ms", "_untold", "due")

    def __init__(self) -> None:
        self._delay_ms = _RETRY_MS
        self._untold: dict[str, dict[str, None]] = {}
        self.due: int | None = None
        """When the refused names are to be asked for once more, in monotonic ms."""

    def restart(self) -> None:
        """There is another session, which is asked for everything anyway, or none."""
        self._delay_ms = _RETRY_MS
        self.due = None

    def add(self, wanted: Wanted, code: str, now: int) -> None:
        """``wanted`` was refused. It is told once, until it is accepted again or refused for another reason."""
        wanted.refused = code
        if wanted.told != code:
            wanted.told = code
            self._untold.setdefault(code, {})[wanted.name] = None
        if self.due is None:
            self.due = now + self._delay_ms
            self._delay_ms = min(2 * self._delay_ms, _MAX_RETRY_MS)

    def take_untold(self) -> dict[str, dict[str, None]]:
        """The names to tell of, by the code of their refusal; each is returned once."""
        untold, self._untold = self._untold, {}
        return untold

    @property
    def has_untold(self) -> bool:
        """There is something to tell."""
        return bool(self._untold)

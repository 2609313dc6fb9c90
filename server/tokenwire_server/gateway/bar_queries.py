"""What a request for bars asks for: the token, the interval, the times and the page."""

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from fastapi import HTTPException

from tokenwire_server.gateway.directory import BarDirectory
from tokenwire_server.gateway.parameters import Parameter, choice, number, text
from tokenwire_server.gateway.prepared import Asked
from tokenwire_server.market.bar_pages import DEFAULT_LIMIT, MAX_LIMIT, BarPage, Fill, Page, PageRequest
from tokenwire_server.market.bars import GRACE_MS
from tokenwire_server.market.instants import MAX_INSTANT_CHARS, parse_instant
from tokenwire_server.market.intervals import Interval, IntervalError, parse_interval
from tokenwire_server.market.market import TokenState
from tokenwire_server.market.registry import AMBIGUOUS_TOKEN, Resolution

__all__ = ["BarQuery", "BarReader", "is_settled", "next_cursor", "no_token", "token_of"]

_DEFAULT_INTERVAL: Final = "1m"
_CURSOR_MS: Final = re.compile(r"[0-9]{1,16}")
_MAX_CURSOR_CHARS: Final = 40
_MAX_SHOWN_CHARS: Final = 60


class BarQuery(NamedTuple):
    """A request for a page of bars of a token that exists."""

    token: TokenState
    page: PageRequest


class BarReader:
    """Reads requests for bars. ``parameters`` describes all of it, ``newest`` what asks for the newest bars."""

    def __init__(self, directory: BarDirectory) -> None:
        self._directory = directory
        default = self._default_interval()
        schema = {"type": "string", "enum": list(directory.bar_plan.index), "default": default.text}
        self._interval = Parameter("interval", self._parse_interval, schema, default, "length of a bar")
        self._limit = number("limit", 1, MAX_LIMIT, DEFAULT_LIMIT, "most bars")
        self._from = _time("from", "first beginning: Unix time in s or ms, or RFC 3339", "2026-03-21T10:30:00Z")
        self._to = _time("to", "last beginning, likewise", None)
        self._fill = choice("fill", Fill, Fill.NONE, "previous: bars without volume where nobody traded")
        self._cursor = text("cursor", _MAX_CURSOR_CHARS, None, "`nextCursor` of the answer before")
        self.newest: Sequence[Parameter[Any]] = (self._interval, self._limit)
        self.parameters: Sequence[Parameter[Any]] = (*self.newest, self._from, self._to, self._fill, self._cursor)

    def read(self, asked: Asked) -> BarQuery:
        """What a request with all parameters asks for.

        Raises:
            HTTPException: 404 or 422, with what there is.
        """
        query = asked.query
        interval, limit, fill = self._interval.of(query), self._limit.of(query), self._fill.of(query)
        from_ms, to_ms, cursor = self._from.of(query), self._to.of(query), self._cursor.of(query)
        if cursor is not None:
            from_ms, to_ms = _continued(cursor, to_ms)
        elif from_ms is not None and to_ms is not None and from_ms > to_ms:
            raise HTTPException(422, "from is later than to")
        token = token_of(self._directory, asked.subject)
        return BarQuery(token, PageRequest(interval, from_ms, to_ms, limit, fill))

    def read_newest(self, asked: Asked) -> BarQuery:
        """What a request for the newest bars asks for. Raises as :meth:`read` does."""
        interval, limit = self._interval.of(asked.query), self._limit.of(asked.query)
        return BarQuery(token_of(self._directory, asked.subject), PageRequest(interval, limit=limit))

    def _default_interval(self) -> Interval:
        intervals = self._directory.bar_plan.intervals
        return next((each for each in intervals if each.text == _DEFAULT_INTERVAL), intervals[0])

    def _parse_interval(self, given: str) -> Interval:
        plan = self._directory.bar_plan
        try:
            interval = parse_interval(given)
        except IntervalError:
            interval = None
        if interval is None or interval.text not in plan.index:
            raise ValueError(f"one of {', '.join(plan.index)}")
        return interval


def token_of(directory: BarDirectory, name: str) -> TokenState:
    """The token that a name means.

    Raises:
        HTTPException: 404: none, or several.
    """
    found = directory.resolve(name)
    token = None if found.address is None else directory.value(found.address)
    if token is None:
        raise no_token(found, name)
    return token


def no_token(found: Resolution, name: str) -> HTTPException:
    """What to tell whoever asked by a name that means no token, or several."""
    shown = name if len(name) <= _MAX_SHOWN_CHARS else f"{name[:_MAX_SHOWN_CHARS]}…"
    if found.code == AMBIGUOUS_TOKEN:
        names = ", ".join(found.candidates)
        return HTTPException(404, f"several tokens are called {shown}: {names}; ask for an address")
    return HTTPException(404, f"no token has this address or symbol: {shown}")


def is_settled(request: PageRequest, answer: BarPage) -> bool:
    """Whether the page lies between two given times and all of it, grace period included, is over."""
    interval, from_ms, to_ms, _, _ = request
    if from_ms is None or to_ms is None:
        return False
    return interval.open_ms(to_ms) + interval.ms + GRACE_MS <= answer.now_ms


def next_cursor(page: Page) -> str | None:
    """What asks for the page after this one; None: there is no more."""
    if page.more_from_ms is not None:
        return _cursor(f"f{page.more_from_ms}")
    return None if page.more_before_ms is None else _cursor(f"b{page.more_before_ms}")


def _time(name: str, description: str, example: str | None) -> Parameter[int | None]:
    schema = {"type": "string", "maxLength": MAX_INSTANT_CHARS}
    return Parameter[int | None](name, parse_instant, schema, None, description, example)


def _cursor(words: str) -> str:
    return base64.urlsafe_b64encode(words.encode()).decode().rstrip("=")


def _continued(cursor: str, to_ms: int | None) -> tuple[int | None, int | None]:
    """The bounds of the page that a cursor stands for."""
    try:
        words = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        words = ""
    if words[:1] not in ("f", "b") or not _CURSOR_MS.fullmatch(words[1:]):
        raise HTTPException(422, "cursor: not one that this server gave; leave it out to begin anew")
    ms = int(words[1:])
    return (ms, to_ms) if words[0] == "f" else (None, ms - 1)

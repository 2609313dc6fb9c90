"""The plain WebSocket paths: which stream a path means.

* ``/ws/transactions/{symbol}``: every trade, prices as decimal strings
* ``/ws/klines/{symbol}/{interval}``: bars, the open one included
* ``/ws/{symbol}``: every trade, prices as plain numbers

Everything is in the path: a query and subprotocols are ignored, compression is not offered (messages are small). A
symbol is percent-encoded where it must be; it may hold slashes.
"""

from typing import Final, Protocol
from urllib.parse import unquote

from tokenwire_server.core.plain_room import RoomKey, StreamForm
from tokenwire_server.market.bar import Bar
from tokenwire_server.market.bars import BarPlan
from tokenwire_server.market.intervals import Interval, IntervalError, parse_interval
from tokenwire_server.market.market import TokenState
from tokenwire_server.market.registry import AMBIGUOUS_TOKEN, Resolution
from tokenwire_server.validation.trades import MAX_ID_CHARS

__all__ = ["PLAIN_PATHS", "LiveMarket", "PathError", "find_room"]

PLAIN_PATHS: Final = "/ws/"
"""What all of them begin with."""

_MAX_SHOWN_CHARS: Final = 60
_FORMS: Final = "/ws/transactions/SYMBOL, /ws/klines/SYMBOL/INTERVAL or /ws/SYMBOL"


class LiveMarket(Protocol):
    """What the plain paths need to know of the market."""

    @property
    def bar_plan(self) -> BarPlan:
        """The intervals that there are."""

    def resolve(self, name: str) -> Resolution:
        """What a name for a token means."""

    def value(self, address: str) -> TokenState | None:
        """The token at exactly this address."""

    def open_bar(self, address: str, interval: Interval) -> Bar | None:
        """A copy of the running bar; None before its first trade. The interval is one of the plan's."""


class PathError(Exception):
    """A path means no stream: the HTTP ``status`` and ``detail`` to answer with."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def find_room(path: str, market: LiveMarket) -> RoomKey:
    """The stream that ``path`` (as requested, without a query) means.

    Raises:
        PathError: 404 for a token that is unknown or named by several, 422 for an interval that is not kept.
    """
    form, name, interval = _parts(path.removeprefix(PLAIN_PATHS))
    text = "" if form is not StreamForm.KLINES else _interval(interval, market.bar_plan)
    return RoomKey(form, _address(name, market), text)


def _parts(rest: str) -> tuple[StreamForm, str, str]:
    """The form, the name of the token, and the interval of klines."""
    first, slash, name = rest.partition("/")
    if not slash or first not in (StreamForm.TRANSACTIONS, StreamForm.KLINES):
        return StreamForm.TRADES, _decoded(rest), ""
    if first == StreamForm.TRANSACTIONS:
        return StreamForm.TRANSACTIONS, _decoded(name), ""
    name, slash, interval = name.rpartition("/")
    if not slash:
        raise PathError(404, f"a stream of bars has an interval: {_FORMS}")
    return StreamForm.KLINES, _decoded(name), _decoded(interval)


def _decoded(part: str) -> str:
    try:
        name = unquote(part, errors="strict")
    except UnicodeDecodeError:
        raise PathError(404, "the path is not percent-encoded UTF-8") from None
    if not name:
        raise PathError(404, f"the path names no token: {_FORMS}")
    if len(name) > MAX_ID_CHARS:
        raise PathError(404, f"no name has more than {MAX_ID_CHARS} characters")
    return name


def _interval(given: str, plan: BarPlan) -> str:
    try:
        text = parse_interval(given).text
    except IntervalError:
        text = ""
    if text not in plan.index:
        raise PathError(422, f"interval: one of {', '.join(plan.index)}, not {_shown(given)}")
    return text


def _address(name: str, market: LiveMarket) -> str:
    found = market.resolve(name)
    if found.address is not None:
        return found.address
    if found.code == AMBIGUOUS_TOKEN:
        names = ", ".join(found.candidates)
        raise PathError(404, f"several tokens are called {_shown(name)}: {names}; ask for an address")
    raise PathError(404, f"no token has this address or symbol: {_shown(name)}")


def _shown(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}…"

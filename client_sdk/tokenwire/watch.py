"""What ``tokenwire watch`` shows: a JSON line or a text line for each event, or a table that stays in place."""

import contextlib
import json
from collections import deque
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Final

import msgspec

from tokenwire.events import (
    Connected,
    Error,
    Event,
    Gap,
    Quote,
    Reconnecting,
    Resumed,
    Snapshot,
    Stale,
    Update,
)

if TYPE_CHECKING:
    from rich.console import Group

__all__ = ["Board", "escaped", "json_line", "printable", "render", "text_line"]

_NOTICES: Final = 5
_ARROWS: Final = {1: "▲", -1: "▼", 0: " "}
_COLOURS: Final = {1: "green", -1: "red", 0: ""}


def json_line(event: Event, *, terminal: bool = False) -> str:
    """``event`` as one line of JSON: its kind in ``event``, a quote's fields beside it, field names as in Python.

    For a ``terminal`` everything that does not print is escaped, which is the same JSON.
    """
    fields = msgspec.structs.asdict(event)
    quote = fields.pop("quote", None)
    line = {"event": type(event).__name__.lower()}
    if isinstance(quote, Quote):
        line |= msgspec.structs.asdict(quote)
    text = msgspec.json.encode(line | fields).decode()
    return escaped(text) if terminal else text


def escaped(text: str) -> str:
    r"""JSON ``text`` with ``\u`` in the place of what does not print: JSON itself asks for that below 0x20 only."""
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def text_line(event: Event) -> str:
    """``event`` for a person, in one line."""
    return printable(_describe(event))


def printable(text: str) -> str:
    """``text`` without what could steer a terminal: it may come from a server that means ill."""
    return (
        text
        if text.isprintable()
        else "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    )


def _describe(event: Event) -> str:
    match event:
        case Update(quote=quote) | Snapshot(quote=quote):
            missed = f"  ({event.missed} conflated)" if event.missed else ""
            kind = " snapshot" if isinstance(event, Snapshot) else " replayed" if event.replayed else ""
            return f"{quote.name}  {quote.price}  volume 24h {quote.volume_h24}{kind}{missed}"
        case Connected():
            extras = ", ".join(event.capabilities) or "strict v1.0, no extensions"
            reason = f" as a new session ({event.reason})" if event.reason else ""
            return f"connected{reason}: {extras}"
        case Resumed():
            count = event.replay_to - event.replay_from + 1
            return f"resumed after {event.outage_ms / 1000:.1f} s, {count} messages come once more, nothing was lost"
        case Reconnecting():
            return f"reconnecting in {event.delay_ms / 1000:.1f} s (try {event.attempt}): {event.cause}"
        case Gap():
            after = {"snapshot": "current values follow", "rest": "fetch them over HTTP", "none": "not repaired"}
            if event.first is None or event.last is None:
                what = "an unknown number of messages lost"
            else:
                what = f"messages {event.first} to {event.last} lost"
            return f"gap: {what} ({event.cause}), {after[event.repair]}"
        case Stale():
            return f"stale: {event.message}"
        case Error():
            return f"{event.level} {event.code}: {event.message}"


class Row(msgspec.Struct):
    """One token of the table."""

    quote: Quote
    first_price: Decimal
    direction: int = 0
    updates: int = 0
    missed: int | None = None
    latency_ms: int | None = None
    changed_ms: int = 0
    stale: bool = False

    @property
    def change_percent(self) -> Decimal:
        """Since the first value seen; 0 while that is 0."""
        if not self.first_price:
            return Decimal(0)
        return (self.quote.price_decimal / self.first_price - 1) * 100


class Board:
    """Folds events into the rows of the table. Pure."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.waiting: dict[str, str] = dict.fromkeys(names, "waiting for a value")
        """Names without a row, and why."""
        self.rows: dict[str, Row] = {}
        self.notices: deque[tuple[int, str]] = deque(maxlen=_NOTICES)
        self.capabilities: tuple[str, ...] | None = None
        self.reconnects = 0
        self.gaps = 0

    def apply(self, event: Event) -> None:
        """Take one event into account."""
        match event:
            case Update(quote=quote) | Snapshot(quote=quote):
                self._value(event, quote)
                return
            case Connected():
                self.capabilities = event.capabilities
            case Reconnecting():
                self.reconnects += 1
            case Gap():
                self.gaps += 1
            case Stale():
                for row in self.rows.values():
                    row.stale = row.stale or row.quote.address in event.tokens or not event.tokens
            case Error():
                for name in event.names:
                    if name in self.waiting:
                        self.waiting[name] = event.code
        self.notices.append((event.received_ms, text_line(event)))

    def _value(self, event: Update | Snapshot, quote: Quote) -> None:
        self.waiting.pop(quote.name, None)
        row = self.rows.get(quote.address)
        if row is None:
            row = self.rows[quote.address] = Row(quote, quote.price_decimal, changed_ms=event.received_ms)
        elif quote.price != row.quote.price:
            row.direction = 1 if quote.price_decimal > row.quote.price_decimal else -1
        row.quote = quote
        row.updates += 1
        row.stale = False
        row.changed_ms = event.received_ms
        row.latency_ms = event.received_ms - (quote.source_time or quote.timestamp)
        if event.missed is not None:
            row.missed = (row.missed or 0) + event.missed


def render(board: Board, heading: Mapping[str, str], now_ms: int) -> "Group":
    """The table for a terminal.

    Raises:
        ModuleNotFoundError: ``rich`` is not installed.
    """
    from rich.console import Group  # noqa: PLC0415 - only the table needs it
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(expand=False)
    for name in ("token", "price", "change", "volume 24h", "latency", "age", "updates", "conflated", "version"):
        table.add_column(name, justify="left" if name == "token" else "right", no_wrap=True)
    for row in board.rows.values():
        colour = _COLOURS[row.direction]
        table.add_row(
            Text(printable(row.quote.name)),
            Text(f"{_ARROWS[row.direction]} {row.quote.price}", colour),
            f"{row.change_percent:+.3f} %",
            _short(row.quote.volume_h24),
            "" if row.latency_ms is None else f"{row.latency_ms} ms",
            f"{max(0, now_ms - row.changed_ms) / 1000:.0f} s",
            str(row.updates),
            "?" if row.missed is None else str(row.missed),
            "" if row.quote.version is None else str(row.quote.version),
            style="dim" if row.stale else "",
        )
    for name, why in board.waiting.items():
        table.add_row(Text(name), Text(why), style="dim")
    head = "  ".join(f"{key} {value}" for key, value in heading.items())
    counts = f"reconnects {board.reconnects}  gaps {board.gaps}"
    notices = "\n".join(f"{_clock(at_ms)}  {text}" for at_ms, text in board.notices)
    return Group(Text(f"{head}  {counts}"), table, Text(notices, "dim"))


def _short(amount: str) -> str:
    """A turnover to three digits: 9120000 as 9.12M."""
    value = Decimal(amount)
    for limit, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k")):
        if value >= limit:
            return f"{value / limit:.2f}{unit}"
    return f"{value:.2f}"


def _clock(at_ms: int) -> str:
    import datetime  # noqa: PLC0415 - the JSON lines do without

    with contextlib.suppress(OverflowError, OSError, ValueError):
        return datetime.datetime.fromtimestamp(at_ms / 1_000).astimezone().strftime("%H:%M:%S")
    return "--:--:--"

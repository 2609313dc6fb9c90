"""What stands in the topics, as JSON: the raw events of collectors, and what the processor makes of them. Pure.

===================  ==========================================================================================
``raw-market-data``  events of sources as they came (those of ``sources.recording_events``, and :class:`State`)
``numbered-trades``  :class:`Logged`: what was applied, in order, every trade with its number. Whoever folds it
                     has the values, versions, windows and bars of everybody else who does
``normalized-ohlcv`` :class:`BarRecord`: every bar that closed or was corrected
``token-state``      compacted: a ``TokenSnapshot`` by address, and one :class:`Cut` for each partition
===================  ==========================================================================================

A record belongs to the partition of its token's address; what concerns a source as a whole is in all partitions.
"""

from decimal import Decimal
from enum import StrEnum
from typing import Final, TypeVar

import msgspec

from tokenwire_server.market.bar import Bar
from tokenwire_server.market.bars import BarChange, BarEvent
from tokenwire_server.market.snapshots import TokenSnapshot
from tokenwire_server.market.trades import TokenInfo, Trade
from tokenwire_server.ports import SourceState
from tokenwire_server.sources import recording_events as raw

__all__ = [
    "CUT_KEY",
    "BarKind",
    "BarRecord",
    "Cut",
    "LogEvent",
    "Logged",
    "Numbered",
    "PoisonError",
    "RawEvent",
    "Standing",
    "State",
    "bar_of",
    "encode",
    "read_bar",
    "read_cut",
    "read_logged",
    "read_raw",
    "read_snapshot",
]

LOG_VERSION: Final = 1  # a reader refuses records of a higher one
_NEWER: Final = "written by a newer version of this program"
CUT_KEY: Final = b""  # no token has this address

T = TypeVar("T")


class PoisonError(ValueError):
    """A record can't be read; the message says why, in one line. ``is_newer``: a later version of this program wrote
    it, so that it must not be thrown away."""

    def __init__(self, message: str, *, is_newer: bool = False) -> None:
        super().__init__(message)
        self.is_newer = is_newer


class State(raw.EventStruct, frozen=True, tag="state"):
    """The source changed its state. ``cadence_ms``: the longest time that it leaves a token unconfirmed while it is
    well (0: not said)."""

    source: str
    state: SourceState
    detail: str = ""
    cadence_ms: int = 0


class Numbered(raw.EventStruct, frozen=True, tag="numbered"):
    """Trades of one token that were applied, numbered ``first``, ``first`` + 1 … ``version`` is that of the token's
    value after them."""

    source: str
    first: int
    version: int
    trades: tuple[Trade, ...]


class Standing(raw.EventStruct, frozen=True, tag="standing"):
    """A token that changed, at the end of a transaction: ``trades`` is the number of its newest trade, ``now_ms`` the
    event time up to which its bars are closed, ``bars`` the ``seq`` of the newest bar of the partition by then."""

    source: str
    info: TokenInfo
    trades: int
    now_ms: int
    price: Decimal
    price_ms: int
    version: int
    bars: int = 0


RawEvent = raw.Tokens | raw.Trades | raw.Values | raw.Clock | raw.Gap | raw.Rejected | State
LogEvent = raw.Tokens | Numbered | raw.Values | raw.Clock | raw.Gap | State | Standing


class Logged(msgspec.Struct, frozen=True, omit_defaults=True):
    """One record of the log: ``seq`` counts those of its partition, 1, 2, 3 … without a hole, but for a
    :class:`Standing`, which has that of the record before it. The last one of a transaction has ``raw_offset``: all
    raw records before it are in the log."""

    seq: int
    event: LogEvent
    raw_offset: int = 0
    v: int = LOG_VERSION


class BarKind(StrEnum):
    """``late``: the bar holds trades that are to be merged into what is stored; of all others the newest counts."""

    CLOSED = "closed"
    REVISED = "revised"
    CORRECTED = "corrected"
    LATE = "late"


_KINDS: Final = {
    BarEvent.CLOSED: BarKind.CLOSED,
    BarEvent.REVISED: BarKind.REVISED,
    BarEvent.CORRECTED: BarKind.CORRECTED,
    BarEvent.BEYOND: BarKind.LATE,
}


class BarRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A bar that is no longer open. ``interval_ms`` and ``interval`` are its length, times are Unix ms, numbers are
    text. ``revision`` counts the trades that came after it had closed; ``seq`` the bars of the partition, 1, 2, 3 …
    without a hole."""

    seq: int
    address: str
    symbol: str
    interval: str
    interval_ms: int
    kind: BarKind
    open_time: int
    close_time: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    turnover: Decimal
    buy_volume: Decimal
    buy_turnover: Decimal
    trades: int
    first_time: int
    last_time: int
    revision: int = 0
    v: int = LOG_VERSION

    @classmethod
    def of(cls, seq: int, address: str, symbol: str, change: BarChange) -> "BarRecord":
        """The record of a change."""
        bar, interval = change.bar, change.interval
        return cls(
            seq, address, symbol, interval.text, interval.ms, _KINDS[change.event],
            bar.open_ms, bar.open_ms + interval.ms,
            bar.open, bar.high, bar.low, bar.close, bar.volume, bar.turnover, bar.buy_volume, bar.buy_turnover,
            bar.trades, bar.first_ms, bar.last_ms, bar.revision,
        )  # fmt: skip


def bar_of(record: BarRecord) -> Bar:
    """The bar that a record holds."""
    return Bar(
        record.open_time, record.open, record.high, record.low, record.close, record.volume, record.turnover,
        record.buy_volume, record.buy_turnover, record.trades, record.first_time, record.last_time, record.revision,
    )  # fmt: skip


class Cut(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a partition stood at some moment between two inputs: no token has changed between its newest snapshot and
    that moment, and whoever has a newer snapshot was changed later.

    ``raw_offset`` is the first raw record after it, of the topic of that ``lineage``. Records of the log up to ``seq``
    are before it, and the next one stands at ``log_offset`` or later. ``clocks`` are the sources' event clocks
    (Unix ms), ``states`` what was said of them last, ``bars`` is the ``seq`` of the newest bar.
    """

    raw_offset: int
    seq: int
    log_offset: int
    clocks: dict[str, int]
    states: tuple[State, ...] = ()
    bars: int = 0
    lineage: str = ""
    v: int = LOG_VERSION


class _Versioned(msgspec.Struct, frozen=True):
    v: int = LOG_VERSION


_encoder: Final = msgspec.json.Encoder()
_raw: Final = msgspec.json.Decoder(RawEvent)
_logged: Final = msgspec.json.Decoder(Logged)
_bar: Final = msgspec.json.Decoder(BarRecord)
_cut: Final = msgspec.json.Decoder(Cut)
_snapshot: Final = msgspec.json.Decoder(TokenSnapshot)
_versioned: Final = msgspec.json.Decoder(_Versioned)


def encode(record: RawEvent | Logged | BarRecord | Cut | TokenSnapshot) -> bytes:
    """A record as it stands in its topic."""
    return _encoder.encode(record)


def read_raw(value: bytes) -> RawEvent:
    """A raw event. Raises PoisonError."""
    event: RawEvent = _read(_raw, value)
    return event


def read_logged(value: bytes) -> Logged:
    """A record of the log. Raises PoisonError."""
    return _read(_logged, value)


def read_bar(value: bytes) -> BarRecord:
    """A bar. Raises PoisonError."""
    return _read(_bar, value)


def read_cut(value: bytes) -> Cut:
    """A cut. Raises PoisonError."""
    return _read(_cut, value)


def read_snapshot(value: bytes) -> TokenSnapshot:
    """A token's snapshot. Raises PoisonError."""
    return _read(_snapshot, value)


def _read(decoder: "msgspec.json.Decoder[T]", value: bytes) -> T:
    try:
        record: T = decoder.decode(value)
    except (msgspec.MsgspecError, ArithmeticError, UnicodeDecodeError, RecursionError) as error:
        newer = _version(value) > LOG_VERSION
        reason = _NEWER if newer else str(error)
        raise PoisonError(reason[:200], is_newer=newer) from None
    if getattr(record, "v", LOG_VERSION) > LOG_VERSION:
        raise PoisonError(_NEWER, is_newer=True)
    return record


def _version(value: bytes) -> int:
    try:
        return _versioned.decode(value).v
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return 0

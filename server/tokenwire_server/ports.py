"""What the server asks of its surroundings, as Protocols a few lines long; each has an embedded default.

A source feeds the market through a :class:`Sink`; data flows one way: source (I/O), normaliser (pure),
market (pure), board and hub (pure), gateway (I/O).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Final, NamedTuple, Protocol, runtime_checkable

from tokenwire_server.market.book import BookCondition, BookUpdate, OrderBook
from tokenwire_server.market.trades import TokenInfo, Trade
from tokenwire_server.market.values import TokenValue

__all__ = [
    "DELIVERING",
    "BookSink",
    "BookSource",
    "FollowStatus",
    "PartState",
    "Replay",
    "Resumable",
    "Sink",
    "Source",
    "SourceState",
    "Tallied",
]


class PartState(StrEnum):
    """How something is that a role needs. ``waiting``: nothing is wrong, and it is not yet this process's turn."""

    OK = "ok"
    STARTING = "starting"
    WAITING = "waiting"
    FAILING = "failing"


class SourceState(StrEnum):
    """Life of a source. ``ended`` is the good end of a finite one (a tape), ``failed`` is final."""

    STARTING = "starting"
    LIVE = "live"
    RECONNECTING = "reconnecting"
    ENDED = "ended"
    FAILED = "failed"


DELIVERING: Final = frozenset({SourceState.LIVE, SourceState.ENDED})
"""States of a source whose data are what there is."""


class FollowStatus(NamedTuple):
    """How it is with following a log: ``reason`` is why what is here is not what everybody else has (empty: it is),
    ``lag_records`` how many records of the log were not applied when that was last asked. ``skew_ms`` is how far the
    brokers' clock is ahead of ours."""

    reason: str
    lag_records: int
    skew_ms: int = 0


class LoadingError(Exception):
    """What is asked for is still being read; it will be there soon."""


class Sink(Protocol):
    """Where a source delivers. Calls are synchronous (but for :meth:`room`), cheap and never raise for bad data: what
    fails validation is counted under its reason and dropped."""

    def tokens(self, source: str, tokens: Sequence[TokenInfo]) -> None:
        """Announce tokens before their first trade, so that names resolve; idempotent."""

    def trades(self, source: str, trades: Sequence[Trade]) -> None:
        """Deliver trades in the order of the source."""

    def values(self, source: str, values: Sequence[TokenValue]) -> None:
        """Deliver values that the source states (an aggregator's), in its order. A token gets trades or stated
        values, never both: the first that arrives decides."""

    def before_tick(self, callback: Callable[[float], None]) -> None:
        """Have ``callback(planned)`` called right before each tick, which then sends what it delivers.

        ``planned`` is the instant the tick was planned for, in seconds of the event loop's clock
        (``CLOCK_MONOTONIC``); the tick itself may run late. A skipped tick has no call. The callback must be
        quick; if it raises, that is counted as a defect and the tick goes on.
        """

    def clock(self, source: str, event_time_ms: int) -> None:
        """The source's own event time moved on (rolling windows follow it), and the source is alive."""

    def rejected(self, source: str, reason: str, detail: str) -> None:
        """A frame of the source could not be used; ``reason`` is a short constant name."""

    def gap(self, source: str, token: str, missed: int) -> None:
        """The source's own numbering skipped: ``missed`` trades of ``token`` never arrived."""

    def state(self, source: str, state: SourceState, detail: str = "") -> None:
        """The source changed its state."""

    def offset(self, source: str, position: str) -> None:
        """Everything up to ``position`` has been delivered: after a restart the source goes on behind it.

        Called right after what it covers, with nothing awaited in between: it is stored together with that, or not
        at all. ``position`` is a short text that the source alone understands (see :class:`Resumable`).
        """

    async def room(self) -> None:
        """Return when there is room for more; awaited before each delivery by every source that can wait.

        A source that waits reads nothing more from where it has its data, so that what it holds stays bounded. It costs
        next to nothing while there is room.
        """


class Source(Protocol):
    """A feed. ``cadence_ms`` is the longest time a healthy source leaves any token unconfirmed;
    tokens older than three cadences (at least 15 s) are announced as UPSTREAM_STALE."""

    @property
    def name(self) -> str:
        """Unique, stable name, used in metrics and logs."""

    @property
    def cadence_ms(self) -> int: ...

    async def run(self, sink: Sink) -> None:
        """Deliver until cancelled, or until a finite source ends. Reconnects by itself."""


@runtime_checkable
class Resumable(Protocol):
    """A source that can go on where it was when the process ended, however it ended."""

    def resume(self, positions: Sequence[str]) -> None:
        """Go on behind the last position that each process stored under this source's name, the oldest first; called
        before ``run``, and not without any. One of them may have gone on where another ended, or each had tokens of its
        own: so of each token the furthest counts, and of those that can't be compared the last. A position that means
        nothing here (another file) is left aside. What comes twice all the same is dropped by its ids.

        A source whose clock is not the wall clock tells it again first, as it stood at that position."""


@runtime_checkable
class Tallied(Protocol):
    """A source that counts what it did."""

    def tally(self) -> Iterable[tuple[str, str, int]]:
        """Names of the source, or of one of its parts, of an event, and how often it happened until now."""


@runtime_checkable
class Replay(Protocol):
    """A source of trades that were recorded: none of them is refused for its time."""

    @property
    def is_replay(self) -> bool: ...


class BookSink(Protocol):
    """Where a source delivers order books: those that somebody wants, and no others. Never raises."""

    def offer(self, source: str, addresses: Sequence[str]) -> None:
        """These tokens have books at ``source``; the first source to offer one has it."""

    def wanted(self, source: str) -> Mapping[str, OrderBook]:
        """The books to keep up to date now, by address; a view that follows what is wanted."""

    def apply(self, source: str, address: str, update: BookUpdate) -> BookCondition:
        """Deliver a snapshot, or what changed since the update before; what became of it."""

    def lose(self, source: str, address: str) -> None:
        """Changes of this book may have been missed: it is stale until the next snapshot."""


@runtime_checkable
class BookSource(Protocol):
    """A source that also has order books."""

    def use_books(self, books: BookSink) -> None:
        """Where to deliver them; called before ``run``."""

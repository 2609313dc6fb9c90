"""A history put in order for the rules: by session, by socket, by life of a client."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from loadtests.faults.history import (
    Asked,
    BarDelivered,
    Began,
    Checkpointed,
    Closed,
    Converged,
    Delivered,
    Entry,
    Faulted,
    Folded,
    Followed,
    Gapped,
    Opened,
    Overflowed,
    Produced,
    Retrying,
    Sample,
    Sent,
    Started,
    Stepped,
    Stopped,
    Traded,
    TradeDelivered,
    Wanted,
)

__all__ = ["Index", "Life", "Reading", "Stretch", "Violation"]


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that did not hold, where, and the numbers that show it."""

    invariant: str
    client: str
    session: str
    numbers: tuple[int, ...]
    text: str
    t: int = 0

    def __str__(self) -> str:
        where = " ".join(part for part in (self.client, self.session) if part)
        numbers = ",".join(map(str, self.numbers))
        return f"[{self.invariant}] at {self.t} ms, {where}{f' #{numbers}' if numbers else ''}: {self.text}"


@dataclass(slots=True)
class Stretch:
    """A part of a client's life in one session: everything up to ``base`` was consumed before it."""

    session: str | None
    base: int
    delivered: list[Delivered] = field(default_factory=list)
    gaps: list[Gapped] = field(default_factory=list)


@dataclass(slots=True)
class Life:
    """One process of a client, from its start to its end or that of the history."""

    client: str
    run: int
    every: bool = False
    inherited: dict[str, int] = field(default_factory=dict)  # the newest values that its checkpoint covers, by age
    stopped: int | None = None
    stretches: list[Stretch] = field(default_factory=list)
    wanted: list[Wanted] = field(default_factory=list)
    steps: list[Stepped] = field(default_factory=list)
    retries: list[Retrying] = field(default_factory=list)
    checkpoints: list[tuple[Checkpointed, Stretch | None, int]] = field(default_factory=list)
    overflowed: int = 0
    converged: Converged | None = None
    strays: list[Delivered] = field(default_factory=list)  # delivered outside any session


@dataclass(slots=True)
class Reading:
    """What a reader was to get of one token: its trades, or its bars of one length."""

    client: str
    address: str
    interval_ms: int  # 0: trades
    whole: bool = False
    trades: list[TradeDelivered] = field(default_factory=list)
    bars: list[BarDelivered] = field(default_factory=list)


class Index:
    """One pass over the history, and what the rules look up in it. Frames are kept in the order of their sending."""

    def __init__(self, history: Iterable[Entry], *, exact: bool, quiet: bool) -> None:
        self.exact = exact
        self.quiet = quiet
        self.by_session: dict[str, list[Sent]] = {}
        self.by_socket: dict[int, list[Sent | Asked]] = {}
        self.opened: dict[int, Opened] = {}
        self.closed: dict[int, Closed] = {}
        self.sessions: dict[str, str] = {}  # connection id to session
        self.streams: dict[str, str] = {}  # session to stream, where told
        self.first_sent: dict[str, dict[int, Sent]] = {}
        self.produced: dict[tuple[str, str], dict[int, str]] = {}  # (stream, address): price by version
        self.newest: dict[str, Produced] = {}  # address
        self.order: dict[str, dict[str, int]] = {}  # address: when which price was produced, counted from 0
        self.lives: dict[tuple[str, int], Life] = {}
        self.samples: dict[str, list[Sample]] = {}
        self.traded: dict[str, dict[int, str]] = {}  # address: id by number
        self.folded: dict[tuple[str, int], dict[int, tuple[str, ...]]] = {}  # (address, length): figures by beginning
        self.readings: dict[tuple[str, str, int], Reading] = {}  # (client, address, length)
        self.faults: list[Faulted] = []
        for entry in history:
            _TAKE[type(entry)](self, entry)

    def life(self, client: str, run: int) -> Life:
        """The life of that number, begun if it is new."""
        life = self.lives.get((client, run))
        if life is None:
            life = self.lives[(client, run)] = Life(client, run)
        return life

    def price_of(self, session: str, address: str, version: int) -> str | None:
        """The price that this version of the token truly had in the session's stream; None if there was none."""
        stream = self.streams.get(session)
        if stream is None:
            return None
        return self.produced.get((stream, address), {}).get(version)

    def _sent(self, entry: Sent) -> None:
        frames = self.by_session.get(entry.session)
        if frames is None:
            frames = self.by_session[entry.session] = []
            self.first_sent[entry.session] = {}
        frames.append(entry)
        self.by_socket.setdefault(entry.socket, []).append(entry)
        if entry.numbered:
            self.first_sent[entry.session].setdefault(entry.sequence, entry)
        if entry.connection_id is not None:
            self.sessions.setdefault(entry.connection_id, entry.session)
            if entry.stream is not None:
                self.streams[entry.session] = entry.stream

    def _asked(self, entry: Asked) -> None:
        self.by_socket.setdefault(entry.socket, []).append(entry)

    def _opened(self, entry: Opened) -> None:
        self.opened[entry.socket] = entry

    def _closed(self, entry: Closed) -> None:
        self.closed[entry.socket] = entry

    def _produced(self, entry: Produced) -> None:
        self.produced.setdefault((entry.stream, entry.address), {})[entry.version] = entry.price
        self.newest[entry.address] = entry
        order = self.order.setdefault(entry.address, {})
        order[entry.price] = len(order)

    def _started(self, entry: Started) -> None:
        life = self.life(entry.client, entry.run)
        life.every = entry.every
        if entry.sequence is not None:
            life.inherited = self._known_at(entry.client, entry.run, entry.session, entry.sequence)
        if entry.session is not None:
            life.stretches.append(Stretch(entry.session, entry.sequence or 0))

    def _known_at(self, client: str, run: int, session: str | None, sequence: int) -> dict[str, int]:
        """How old the values were that ``client`` had been delivered when it took that checkpoint."""
        for former in range(run - 1, -1, -1):
            life = self.lives.get((client, former))
            for entry, stretch, count in reversed(life.checkpoints if life is not None else ()):
                if life is not None and stretch is not None and (entry.session, entry.sequence) == (session, sequence):
                    return self.newest_before(life, stretch, count)
        return {}

    def newest_before(self, life: Life, stretch: Stretch, count: int) -> dict[str, int]:
        """The age of the newest value of each token delivered before the ``count``-th of ``stretch``."""
        newest = dict(life.inherited)
        for part in life.stretches:
            for event in part.delivered if part is not stretch else part.delivered[:count]:
                newest[event.address] = self.order.get(event.address, {}).get(event.price, -1)
            if part is stretch:
                break
        return newest

    def _stopped(self, entry: Stopped) -> None:
        self.life(entry.client, entry.run).stopped = entry.t

    def _began(self, entry: Began) -> None:
        life = self.life(entry.client, entry.run)
        session = self.sessions.get(entry.connection_id)
        current = life.stretches[-1] if life.stretches else None
        if current is not None and current.session == session:
            return
        life.stretches.append(Stretch(session, 0))

    def _delivered(self, entry: Delivered) -> None:
        life = self.life(entry.client, entry.run)
        if life.stretches:
            life.stretches[-1].delivered.append(entry)
        else:
            life.strays.append(entry)

    def _gapped(self, entry: Gapped) -> None:
        life = self.life(entry.client, entry.run)
        if life.stretches:
            life.stretches[-1].gaps.append(entry)

    def _checkpointed(self, entry: Checkpointed) -> None:
        life = self.life(entry.client, entry.run)
        stretch = next((part for part in reversed(life.stretches) if part.session == entry.session), None)
        if entry.session is None and life.stretches:
            stretch = life.stretches[-1]  # there is nothing to resume, but its values are known
        life.checkpoints.append((entry, stretch, len(stretch.delivered) if stretch is not None else 0))

    def _retrying(self, entry: Retrying) -> None:
        self.life(entry.client, entry.run).retries.append(entry)

    def _stepped(self, entry: Stepped) -> None:
        self.life(entry.client, entry.run).steps.append(entry)

    def _wanted(self, entry: Wanted) -> None:
        self.life(entry.client, entry.run).wanted.append(entry)

    def _overflowed(self, entry: Overflowed) -> None:
        self.life(entry.client, entry.run).overflowed += entry.count

    def _converged(self, entry: Converged) -> None:
        self.life(entry.client, entry.run).converged = entry

    def _sample(self, entry: Sample) -> None:
        self.samples.setdefault(entry.of, []).append(entry)

    def _traded(self, entry: Traded) -> None:
        self.traded.setdefault(entry.address, {})[entry.number] = entry.trade_id

    def _folded(self, entry: Folded) -> None:
        self.folded.setdefault((entry.address, entry.interval_ms), {})[entry.open_ms] = entry.figures

    def _reading(self, client: str, address: str, interval_ms: int) -> Reading:
        key = client, address, interval_ms
        reading = self.readings.get(key)
        if reading is None:
            reading = self.readings[key] = Reading(client, address, interval_ms)
        return reading

    def _followed(self, entry: Followed) -> None:
        self._reading(entry.client, entry.address, entry.interval_ms).whole = entry.whole

    def _trade_delivered(self, entry: TradeDelivered) -> None:
        self._reading(entry.client, entry.address, 0).trades.append(entry)

    def _bar_delivered(self, entry: BarDelivered) -> None:
        self._reading(entry.client, entry.address, entry.interval_ms).bars.append(entry)

    def _faulted(self, entry: Faulted) -> None:
        self.faults.append(entry)


_TAKE: Final[dict[type, Callable[[Index, Any], None]]] = {
    Sent: Index._sent,
    Delivered: Index._delivered,
    Produced: Index._produced,
    Asked: Index._asked,
    Opened: Index._opened,
    Closed: Index._closed,
    Started: Index._started,
    Stopped: Index._stopped,
    Began: Index._began,
    Gapped: Index._gapped,
    Checkpointed: Index._checkpointed,
    Retrying: Index._retrying,
    Stepped: Index._stepped,
    Wanted: Index._wanted,
    Overflowed: Index._overflowed,
    Converged: Index._converged,
    Traded: Index._traded,
    Folded: Index._folded,
    Followed: Index._followed,
    TradeDelivered: Index._trade_delivered,
    BarDelivered: Index._bar_delivered,
    Faulted: Index._faulted,
    Sample: Index._sample,
}

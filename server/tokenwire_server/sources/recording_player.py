"""Plays the lines of a tape into a sink: pure but for the calls of the sink. ``tape`` paces it."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, TypeVar

from tokenwire_server.market.trades import TokenInfo, Trade
from tokenwire_server.market.values import TokenValue
from tokenwire_server.ports import Sink
from tokenwire_server.sources import recording_events as events
from tokenwire_server.sources.continuity import Continuity
from tokenwire_server.sources.frames import FormatError, Frame, TradesFrame, VenueTrade, shown
from tokenwire_server.sources.tape_file import TapeError, TapeLine
from tokenwire_server.validation.trades import MAX_SKEW_MS

__all__ = ["FramePlayer", "NewerTape", "Parse", "Player", "RecordingPlayer"]

MAX_SOURCES: Final = 64  # of one tape
MAX_OWNED_TOKENS: Final = 1_000_000  # beyond it nobody looks whose a token is

MAX_REASONS: Final = 100  # of recorded rejections: they become labels of metrics
_REASON: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")

Parse = Callable[[str | bytes], Frame]
T = TypeVar("T", TokenInfo, Trade, TokenValue)
U = TypeVar("U", TokenInfo, Trade, TokenValue, str)


class NewerTape(TapeError):  # noqa: N818 - it is a TapeError by name and kind
    """The tape was recorded by a newer version than this."""


class Player(Protocol):
    """Delivers lines in order. ``again``: the line was delivered before the last restart, and only tells what comes
    next. ``clock_ms`` is the event time as the tape tells it; None: the times of its lines are all there is."""

    gaps: int
    missed: int

    @property
    def ignored(self) -> int: ...

    @property
    def clock_ms(self) -> int | None: ...

    def tokens_of(self, line: TapeLine) -> Sequence[TokenInfo]:
        """Tokens that the line tells of; looked at before anything is delivered. Never raises for bad data."""

    def play(self, sink: Sink, line: TapeLine, *, again: bool) -> int:
        """Deliver a line; how many trades and values that were."""


class FramePlayer:
    """Captured frames of one exchange. Of a symbol captured as both aggTrade and trade, the channel that comes first
    counts. ``tells_gaps``: holes are those that the trades' numbers show."""

    clock_ms: int | None = None

    def __init__(self, name: str, parse: Parse, *, tells_gaps: bool = True) -> None:
        self.ignored = 0
        self.gaps = 0
        self.missed = 0
        self._name = name
        self._parse = parse
        self._tells_gaps = tells_gaps
        self._channels: dict[str, str] = {}  # symbol -> the channel that counts
        self._continuity = Continuity()

    def tokens_of(self, line: TapeLine) -> Sequence[TokenInfo]:
        """As of :class:`Player`."""
        try:
            frame = self._parse(line.frame)
        except FormatError:
            return ()
        return [_token(item) for item in frame.trades] if isinstance(frame, TradesFrame) else ()

    def play(self, sink: Sink, line: TapeLine, *, again: bool) -> int:
        """As of :class:`Player`."""
        return self.play_frame(sink, line.number, line.frame, again=again)

    def play_frame(self, sink: Sink, number: int, text: str | bytes, *, again: bool) -> int:
        """Deliver a frame that came with the line of this number."""
        try:
            frame = self._parse(text)
        except FormatError as error:
            _reject(sink, self._name, number, error, again=again)
            return 0
        if not isinstance(frame, TradesFrame):
            self.ignored += 1
            return 0
        for refusal in frame.refused:
            _reject(sink, self._name, number, refusal, again=again)
        # As it was read live: a snapshot may come in any order.
        ordered = sorted(frame.trades, key=lambda item: item.number or 0)
        counting = [item for item in ordered if self._counts(sink, item, frame.channel)]
        if self._tells_gaps:
            for item in counting:
                hole = self._continuity.observe(item)
                if hole is not None and not again:
                    self.gaps += 1
                    self.missed += hole.size
                    sink.gap(self._name, hole.address, hole.size)
        if counting and not again:
            sink.trades(self._name, [item.trade for item in counting])
        return len(counting)

    def _counts(self, sink: Sink, item: VenueTrade, channel: str) -> bool:
        """Whether trades of this channel count for the symbol; the first one decides."""
        counting = self._channels.get(item.symbol)
        if counting is None:
            self._channels[item.symbol] = channel
            sink.tokens(self._name, [_token(item)])
        elif counting != channel:
            self.ignored += 1
            return False
        return True


class RecordingPlayer:
    """A recorded tape (see ``recording_events``). All its sources are one source here, ``name``: a token of those
    without frames belongs to the first that tells of it. ``formats`` are the exchanges' normalisers.

    Raises:
        NewerTape: this version does not know what it says.
    """

    def __init__(self, name: str, beginning: events.Recorded, formats: Mapping[str, Parse]) -> None:
        _check_version(beginning)
        self.clock_ms: int | None = 0
        self.gaps = 0
        self.missed = 0
        self._name = name
        self._formats = formats
        self._several = len(beginning.sources) > 1
        self._players: dict[str, FramePlayer] = {}
        self._speaker = ""
        self._owners: dict[str, str] = {}
        self._reasons: set[str] = set()

    @property
    def ignored(self) -> int:
        """Frames that are no trades."""
        return sum(player.ignored for player in self._players.values())

    def tokens_of(self, line: TapeLine) -> Sequence[TokenInfo]:
        """As of :class:`Player`: what the recording announced."""
        if line.frame.startswith(events.EVENT_MARK):
            try:
                event = events.read_event(line.frame)
            except FormatError:
                return ()
            if isinstance(event, events.Tokens):
                return self._own(event.source, event.tokens)
        return ()

    def play(self, sink: Sink, line: TapeLine, *, again: bool) -> int:
        """As of :class:`Player`."""
        try:
            if not line.frame.startswith(events.EVENT_MARK):
                return self._player(self._speaker).play_frame(sink, line.number, line.frame, again=again)
            return self._event(sink, line, events.read_event(line.frame), again=again)
        except FormatError as error:
            _reject(sink, self._name, line.number, error, again=again)
            return 0

    def _event(self, sink: Sink, line: TapeLine, event: events.Event, *, again: bool) -> int:
        match event:
            case events.Trades():
                if event.clock_ms is not None:
                    self._clock(sink, line, event.clock_ms, again=again)
                return self._items(sink.trades, self._own(event.source, event.trades), again=again)
            case events.Values():
                return self._items(sink.values, self._own(event.source, event.values), again=again)
            case events.Clock():
                self._clock(sink, line, event.time_ms, again=again)
            case events.Frames():
                self._speaker = event.source
                self._begin(event)
            case events.OddFrame():
                text = event.data if event.text is None else event.text
                return self._player(event.source).play_frame(sink, line.number, text or "", again=again)
            case events.Tokens():
                sink.tokens(self._name, self._own(event.source, event.tokens))
            case events.Gap():
                self._gap(sink, event, again=again)
            case events.Rejected():
                if not again:
                    sink.rejected(self._name, self._reason(event.reason), shown(event.detail))
            case events.Recorded():
                _check_version(event)
        return 0

    def _gap(self, sink: Sink, event: events.Gap, *, again: bool) -> None:
        if event.missed < 0:
            raise FormatError("bad_event", event.missed)
        if not again and self._own(event.source, [event.token]):
            self.gaps += 1
            self.missed += event.missed
            sink.gap(self._name, event.token, event.missed)

    def _reason(self, reason: str) -> str:
        if _REASON.fullmatch(reason) and len(self._reasons) < MAX_REASONS:
            self._reasons.add(reason)
        return reason if reason in self._reasons else "recorded"

    def _items(self, deliver: Callable[[str, Sequence[T]], None], items: Sequence[T], *, again: bool) -> int:
        if items and not again:
            deliver(self._name, items)
        return len(items)

    def _clock(self, sink: Sink, line: TapeLine, clock_ms: int, *, again: bool) -> None:
        # A clock far ahead would expire everything for good.
        if not 0 < clock_ms <= line.time_ms + MAX_SKEW_MS:
            _reject(sink, self._name, line.number, FormatError("clock_out_of_bounds", clock_ms), again=again)
        elif clock_ms > (self.clock_ms or 0):
            self.clock_ms = clock_ms
            if not again:
                sink.clock(self._name, clock_ms)

    def _begin(self, event: events.Frames) -> None:
        if event.source in self._players:
            return
        parse = self._formats.get(event.format)
        if parse is None:
            raise FormatError("unknown_format", event.format)
        if len(self._players) >= MAX_SOURCES:
            raise FormatError("too_many_sources", event.source)
        self._players[event.source] = FramePlayer(self._name, parse, tells_gaps=False)

    def _player(self, source: str) -> FramePlayer:
        player = self._players.get(source)
        if player is None:
            raise FormatError("frame_without_source", source)
        return player

    def _own(self, source: str, items: Sequence[U]) -> Sequence[U]:
        """Those items whose token no other source of the tape told of before."""
        if not self._several:
            return items
        owned = []
        for item in items:
            address = item if isinstance(item, str) else item.address
            if len(self._owners) < MAX_OWNED_TOKENS:
                self._owners.setdefault(address, source)
            if self._owners.get(address, source) == source:
                owned.append(item)
        return owned


def _check_version(event: events.Recorded) -> None:
    if event.version > events.RECORDING_VERSION:
        raise NewerTape("the tape was recorded by a newer version of this program; update it")


def _token(item: VenueTrade) -> TokenInfo:
    return TokenInfo(item.trade.address, item.symbol, item.symbol)


def _reject(sink: Sink, name: str, number: int, error: FormatError, *, again: bool) -> None:
    if not again:
        sink.rejected(name, error.reason, f"line {number}: {error.detail}")

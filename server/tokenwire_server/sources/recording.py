"""The sink that records: what sources deliver becomes lines of a tape, exactly as another run would need it.

Of a source with frames the frames are written, verbatim and with the time of their arrival, and of the rest only what
no frame tells: tokens, its event clock, holes, and trades that were fetched. Of any other source everything is.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from tokenwire_server.market.trades import TokenInfo, Trade
from tokenwire_server.market.values import TokenValue
from tokenwire_server.ports import Source, SourceState
from tokenwire_server.sources import recording_events as events
from tokenwire_server.sources.recording_tap import Framed
from tokenwire_server.sources.tape_file import MAX_LINE_BYTES
from tokenwire_server.sources.tape_writer import TapeWriteError, TapeWriter
from tokenwire_server.telemetry.logs import get_log

__all__ = ["Recording", "wall_us"]

_log = get_log(__name__)

MAX_ITEMS_PER_LINE: Final = 200
CLOCK_INTERVAL_MS: Final = 1_000  # of a clock that moves on without trades
MAX_TEXT_BYTES: Final = MAX_LINE_BYTES - 64  # the rest is the time

T = TypeVar("T", TokenInfo, Trade, TokenValue)


def wall_us() -> int:
    """The wall clock, Unix us."""
    return time.time_ns() // 1_000


class Recording:
    """A sink on top of ``writer``. ``clock_us`` is when things arrive (Unix us).

    Counters: ``frames``, ``trades``, ``values``, ``gaps``; ``rejected`` by reason; ``unwritable`` (what no line can
    hold). After ``limit`` frames, trades and values nothing more is written (``is_full``). Calls never raise:
    ``failure`` is why writing failed, and nothing is written after that.
    """

    def __init__(
        self,
        writer: TapeWriter,
        sources: Sequence[str],
        *,
        clock_us: Callable[[], int] = wall_us,
        limit: int | None = None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self.frames = 0
        self.trades_taken = 0
        self.values_taken = 0
        self.gaps = 0
        self.rejected_by_reason: Counter[str] = Counter()
        self.unwritable = 0
        self.states: dict[str, SourceState] = {}
        self.failure: TapeWriteError | None = None
        self.tick_callbacks: list[Callable[[float], None]] = []
        self._writer = writer
        self._clock_us = clock_us
        self._limit = limit
        self._ended = ended
        self._formats: dict[str, str] = {}  # of sources with frames
        self._speaker = ""  # whose frames the lines are
        self._frame: tuple[str, int, str | bytes] | None = None  # came, and is written when its clock was told
        self._clocks: dict[str, int] = {}  # told, and not yet written
        self._clocks_written: dict[str, int] = {}
        self._latest_us = 0
        self._put(events.Recorded(events.RECORDING_VERSION, tuple(sources)))

    @property
    def taken(self) -> int:
        """Frames, trades and values so far."""
        return self.frames + self.trades_taken + self.values_taken

    @property
    def is_full(self) -> bool:
        """As much as was wanted has been written."""
        return self._limit is not None and self.taken >= self._limit

    @property
    def size_bytes(self) -> int:
        """Of the file so far."""
        return self._writer.size_bytes

    def add_source(self, source: Source) -> None:
        """Record this source; called before it runs."""
        if isinstance(source, Framed):
            self._formats[source.name] = source.frame_format
            source.use_tap(_Tap(self, source.name))

    def flush(self) -> None:
        """Have everything so far outlive the end of the process; called every second or so."""
        self._write_frame()
        for source in list(self._clocks):
            self._write_clock(source)
        self._guard(self._writer.flush)

    def tick(self, planned_s: float) -> None:
        """What sources want to be called for before each tick of a server."""
        for callback in self.tick_callbacks:
            callback(planned_s)

    # --- Frames ----------------------------------------------------------------------------------------------

    def frame(self, source: str, frame: str | bytes) -> None:
        """A frame came. It is written behind the clock that is told for it: so it was read live."""
        self._write_frame()
        if not self._is_over:
            self.frames += 1
            self._frame = source, self._now_us(), frame
            self._check_limit()

    def fetched(self, source: str, trades: Sequence[Trade]) -> None:
        """Trades that stand in no frame."""
        self._write_frame()
        self._write_items(source, trades)

    def _write_frame(self) -> None:
        if self._frame is None:
            return
        (source, time_us, frame), self._frame = self._frame, None
        if source != self._speaker:
            self._speaker = source
            self._put(events.Frames(source, self._formats[source]), time_us)
        text = _line(frame)
        if text is not None:
            self._put_text(text, time_us)
        elif isinstance(frame, str):
            self._put(events.OddFrame(source, text=frame), time_us)
        else:
            self._put(events.OddFrame(source, data=frame), time_us)

    # --- Sink ------------------------------------------------------------------------------------------------

    def tokens(self, source: str, tokens: Sequence[TokenInfo]) -> None:
        """Write descriptions."""
        self._write_frame()
        self._write_items(source, tokens)

    def trades(self, source: str, trades: Sequence[Trade]) -> None:
        """Write trades, unless they stand in frames."""
        self._write_frame()
        if source not in self._formats:
            chosen = self._within_limit(trades)
            self.trades_taken += len(chosen)
            self._write_items(source, chosen)
            self._check_limit()

    def values(self, source: str, values: Sequence[TokenValue]) -> None:
        """Write stated values."""
        self._write_frame()
        chosen = self._within_limit(values)
        self.values_taken += len(chosen)
        self._write_items(source, chosen)
        self._check_limit()

    def before_tick(self, callback: Callable[[float], None]) -> None:
        """Have it called by :meth:`tick`."""
        self.tick_callbacks.append(callback)

    def clock(self, source: str, event_time_ms: int) -> None:
        """Write the clock, before the frame that moved it; of a source without frames, with its next trades."""
        if event_time_ms <= 0:  # a sign of life
            return
        self._clocks[source] = event_time_ms
        is_due = event_time_ms - self._clocks_written.get(source, 0) >= CLOCK_INTERVAL_MS
        if source in self._formats:
            self._write_clock(source, None if self._frame is None else self._frame[1])
        elif is_due and source in self._clocks_written:
            self._write_frame()
            self._write_clock(source)

    def rejected(self, source: str, reason: str, detail: str) -> None:
        """Count; write it, unless the frames show it again."""
        self.rejected_by_reason[reason] += 1
        if source not in self._formats:
            self._write_frame()
            self._put(events.Rejected(source, reason, detail))

    def gap(self, source: str, token: str, missed: int) -> None:
        """Write a hole, before the frame that showed it: so it was told live, ahead of the frame's trades."""
        self.gaps += 1
        if self._frame is not None and self._frame[0] == source:
            self._put(events.Gap(source, token, missed), self._frame[1])
        else:
            self._write_frame()
            self._put(events.Gap(source, token, missed))

    def state(self, source: str, state: SourceState, detail: str = "") -> None:
        """Remember the state, and tell of it: a tape has one of its own."""
        self.states[source] = state
        tell = _log.warning if state in (SourceState.RECONNECTING, SourceState.FAILED) else _log.info
        tell("source state", source=source, state=state, **({"detail": detail} if detail else {}))

    def offset(self, source: str, position: str) -> None:
        """Of no use: a tape has its own."""

    async def room(self) -> None:
        """There always is: what comes is written at once."""

    # --- Lines -----------------------------------------------------------------------------------------------

    @property
    def _is_over(self) -> bool:
        return self.failure is not None or self.is_full

    def _within_limit(self, items: Sequence[T]) -> Sequence[T]:
        return items if self._limit is None else items[: max(0, self._limit - self.taken)]

    def _check_limit(self) -> None:
        if self.is_full:
            self._ended()

    def _write_items(self, source: str, items: Sequence[T]) -> None:
        for at in range(0, len(items), MAX_ITEMS_PER_LINE):
            self._write_some(source, items[at : at + MAX_ITEMS_PER_LINE])

    def _write_some(self, source: str, items: Sequence[T]) -> None:
        event = self._event(source, items)
        text = _text(event)
        if text is not None:
            self._put_text(text)
            return
        if isinstance(event, events.Trades) and event.clock_ms is not None:
            self._clocks[source] = event.clock_ms
        if len(items) == 1:
            self.unwritable += 1
        else:
            middle = len(items) // 2
            self._write_some(source, items[:middle])
            self._write_some(source, items[middle:])

    def _event(self, source: str, items: Sequence[Any]) -> events.Event:
        first = items[0]
        if isinstance(first, Trade):
            clock_ms = self._clocks.pop(source, None)
            if clock_ms is not None:
                self._clocks_written[source] = clock_ms
            return events.Trades(source, tuple(items), clock_ms)
        if isinstance(first, TokenInfo):
            return events.Tokens(source, tuple(items))
        self._write_clock(source)
        return events.Values(source, tuple(items))

    def _write_clock(self, source: str, time_us: int | None = None) -> None:
        clock_ms = self._clocks.pop(source, None)
        if clock_ms is not None:
            self._clocks_written[source] = clock_ms
            self._put(events.Clock(source, clock_ms), time_us)

    def _put(self, event: events.Event, time_us: int | None = None) -> None:
        text = _text(event)
        if text is not None:
            self._put_text(text, time_us)
        else:
            self.unwritable += 1

    def _put_text(self, text: bytes, time_us: int | None = None) -> None:
        when = self._now_us() if time_us is None else time_us
        self._guard(lambda: self._writer.write(when, text))

    def _now_us(self) -> int:
        """Times on a tape never go back, whatever the clock does."""
        self._latest_us = max(self._latest_us, self._clock_us())
        return self._latest_us

    def _guard(self, act: Callable[[], None]) -> None:
        if self.failure is None:
            try:
                act()
            except TapeWriteError as error:
                self.failure = error
                self._ended()


class _Tap:
    def __init__(self, recording: Recording, source: str) -> None:
        self._recording = recording
        self._source = source

    def frame(self, frame: str | bytes) -> None:
        self._recording.frame(self._source, frame)

    def fetched(self, trades: Sequence[Trade]) -> None:
        self._recording.fetched(self._source, trades)


def _text(event: events.Event) -> bytes | None:
    """The event as it stands on a line; None if it does not fit, or no text can say it (half a character)."""
    try:
        text = events.event_text(event)
    except UnicodeEncodeError:
        return None
    return text if len(text) <= MAX_TEXT_BYTES else None


def _line(frame: str | bytes) -> bytes | None:
    """The frame as a line that reads back as the same text; None if there is no such line."""
    if isinstance(frame, bytes) or not frame or frame != frame.strip() or frame.startswith(("#", events.EVENT_MARK)):
        return None
    try:
        text = frame.encode()
    except UnicodeEncodeError:
        return None
    return text if len(text) <= MAX_TEXT_BYTES and b"\n" not in text else None

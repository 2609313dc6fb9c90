"""A tape as a source: captured frames through the real normalisers, or what was recorded, on the tape's own clock."""

import asyncio
import json
import math
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import sha256
from itertools import islice
from typing import Any, BinaryIO, Final, Protocol, runtime_checkable

from tokenwire_server.history.port import HistoryError
from tokenwire_server.market.trades import TokenInfo
from tokenwire_server.ports import Sink, SourceState
from tokenwire_server.source_spec import MAX_TAPE_SPEED
from tokenwire_server.sources import binance_format, bybit_format, coinbase_format, kraken_format, okx_format
from tokenwire_server.sources.frames import FormatError
from tokenwire_server.sources.recording_events import EVENT_MARK, Recorded, read_event
from tokenwire_server.sources.recording_player import FramePlayer, Parse, Player, RecordingPlayer
from tokenwire_server.sources.tape_file import TapeError, TapeLine, read_tape

__all__ = ["FORMATS", "Tape", "TapeError", "UnsupportedTape", "tape_format"]

CADENCE_MS: Final = 5_000  # the clock is told every second, whatever the tape holds
TICK_S: Final = 1.0
_MARK_DIGITS: Final = 16
_MAX_DIGITS: Final = 15
SCAN_LINES: Final = 5_000  # looked at before the start for the format and the tokens
LINES_PER_TURN: Final = 100  # read without letting others run
TRADES_PER_TURN: Final = 200  # delivered likewise
MAX_UNSTORED_ROWS: Final = 20_000  # beyond so many that wait for the history, the tape waits
STORE_RETRY_S: Final = 0.5
FORMATS: Final[Mapping[str, Parse]] = {
    "binance": binance_format.parse_frame,
    "coinbase": coinbase_format.parse_frame,
    "kraken": kraken_format.parse_frame,
    "bybit": bybit_format.parse_frame,
    "okx": okx_format.parse_frame,
}
"""The normalisers."""


class UnsupportedTape(TapeError):  # noqa: N818 - it is a TapeError by name and kind
    """The frames are in no format that has a normaliser."""


def tape_format(frame: str) -> str:
    """Whose frame this is: binance, coinbase, okx, kraken, bybit or unknown."""
    try:
        message: Any = json.loads(frame)
    except (ValueError, RecursionError):
        return "unknown"
    if not isinstance(message, dict):
        return "unknown"
    keys = message.keys()
    for name, marks in _MARKS:
        if marks <= keys:
            return name
    return "unknown"


_MARKS: Final[tuple[tuple[str, frozenset[str]], ...]] = (
    ("binance", frozenset({"stream", "data"})),
    ("binance", frozenset({"e", "E"})),
    ("okx", frozenset({"arg"})),
    ("bybit", frozenset({"topic", "data"})),
    ("coinbase", frozenset({"type", "product_id"})),
    ("coinbase", frozenset({"type", "channels"})),
    ("coinbase", frozenset({"channel", "sequence_num"})),
    ("kraken", frozenset({"channel", "data"})),
    ("binance", frozenset({"result", "id"})),
)


class _Ledger(Protocol):
    @property
    def builder(self) -> "_Waiting": ...

    async def settled(self) -> None: ...


class _Waiting(Protocol):
    @property
    def rows(self) -> int: ...


@runtime_checkable
class _Stores(Protocol):
    """A sink that keeps what it is given, if it has a recorder: a tape is faster than any disk."""

    @property
    def recorder(self) -> _Ledger | None: ...


class Tape:
    """Replays a file paced by its receive times. ``speed`` is a factor; 0 is as fast as possible.

    The beginning of the file is read at once, so that a file that cannot be replayed is refused before
    anything starts, and the names of its tokens resolve from the first moment. Raises :class:`TapeError`,
    :class:`UnsupportedTape`, or ValueError for a speed out of range. A tape that turns out damaged later ends
    as FAILED. Of a symbol captured as both aggTrade and trade, the channel that comes first counts. A recorded tape
    (see ``recording_events``) brings its sources' own event clocks; any other has the times of its lines.
    """

    def __init__(
        self,
        path: str,
        *,
        speed: float = 1.0,
        name: str | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        if not math.isfinite(speed) or not 0 <= speed <= MAX_TAPE_SPEED:
            raise ValueError(f"the speed of a tape is 0 to {MAX_TAPE_SPEED:.0f}, not {speed}")
        self.lines = 0  # read so far; the last one's number
        self.played_ms = 0  # time on the tape between the first and the latest line that were delivered
        self.problem = ""  # why the tape could not be read to its end
        self._path = path
        self._speed = speed
        self._name = name or f"tape:{os.path.basename(path)}"
        self._sleep = sleep
        self._monotonic = monotonic
        self._stored: BinaryIO | None = None
        self._mark = ""  # tells this tape from others: what it begins with
        self._player, self._first_tokens = self._scan()
        self._skipped = 0  # lines at the beginning that were delivered before

    @property
    def name(self) -> str:
        """Unique name."""
        return self._name

    @property
    def cadence_ms(self) -> int:
        """How often its clock is told, with room."""
        return CADENCE_MS

    @property
    def is_replay(self) -> bool:
        """Yes: whatever the times are, the trades were made."""
        return True

    @property
    def ignored(self) -> int:
        """Frames that are no trades."""
        return self._player.ignored

    @property
    def gaps(self) -> int:
        """Holes in the trade ids."""
        return self._player.gaps

    @property
    def missed(self) -> int:
        """Trades in those holes."""
        return self._player.missed

    @property
    def skipped(self) -> int:
        """Lines at the beginning that were delivered before a restart."""
        return self._skipped

    def progress(self) -> float:
        """How much of the file has been read, from 0 to 1."""
        if self._stored is None or self._stored.closed:
            return 1.0 if self.lines else 0.0
        return self._stored.tell() / max(1, os.fstat(self._stored.fileno()).st_size)

    def resume(self, positions: Sequence[str]) -> None:
        """Go on behind the furthest of those lines that are of this tape."""
        for position in positions:
            number, _, mark = position.partition(" ")
            if mark == self._mark and number.isascii() and number.isdigit():
                self._skipped = max(self._skipped, int(number[:_MAX_DIGITS]))

    async def run(self, sink: Sink) -> None:
        """Deliver the tape once, then end."""
        name = self._name
        await sink.room()
        sink.tokens(name, self._first_tokens)
        sink.state(name, SourceState.LIVE)
        try:
            await self._play(sink)
        except TapeError as error:
            self.problem = str(error)
            sink.state(name, SourceState.FAILED, str(error))
            return
        sink.state(name, SourceState.ENDED, "end of the tape")

    async def _play(self, sink: Sink) -> None:
        monotonic = self._monotonic or asyncio.get_running_loop().time
        player = self._player
        recorder = _recorder(sink)
        start_s = monotonic()
        first_ms: int | None = None
        clock_ms = skipped_ms = 0
        turn_lines = turn_trades = 0
        for line in read_tape(self._path, lambda n, why: self._reject(sink, n, why), self._opened):
            turn_lines += 1
            if turn_lines >= LINES_PER_TURN or turn_trades >= TRADES_PER_TURN:
                turn_lines = turn_trades = 0
                await asyncio.sleep(0)
                if recorder is not None and recorder.builder.rows > MAX_UNSTORED_ROWS:
                    await _settled(recorder)
            await sink.room()
            if line.number <= self._skipped:
                skipped_ms = line.time_ms
                player.play(sink, line, again=True)
                continue
            if skipped_ms:  # where it stood
                sink.clock(self._name, skipped_ms if player.clock_ms is None else player.clock_ms)
                skipped_ms = 0
            if first_ms is None:
                first_ms = clock_ms = line.time_ms
                if player.clock_ms is None:
                    sink.clock(self._name, clock_ms)
            if self._speed:
                due_s = start_s + (line.time_ms - first_ms) / 1_000 / self._speed
                while (wait_s := due_s - monotonic()) > 0:
                    await self._sleep(min(wait_s, TICK_S))
                    passed_ms = first_ms + int((monotonic() - start_s) * 1_000 * self._speed)
                    clock_ms = self._tick(sink, clock_ms, min(passed_ms, line.time_ms))
            clock_ms = self._tick(sink, clock_ms, line.time_ms)
            turn_trades += player.play(sink, line, again=False)
            self.lines, self.played_ms = line.number, line.time_ms - first_ms
            sink.offset(self._name, f"{line.number} {self._mark}")

    def _opened(self, stored: BinaryIO) -> None:
        self._stored = stored

    def _tick(self, sink: Sink, clock_ms: int, now_ms: int) -> int:
        """Time passed. A recorded tape's own clock is told as it stands: a sign of life."""
        if now_ms <= clock_ms:
            return clock_ms
        told_ms = self._player.clock_ms
        if told_ms is None:
            sink.clock(self._name, now_ms)
        elif now_ms - clock_ms >= TICK_S * 1_000:
            sink.clock(self._name, told_ms)
        else:
            return clock_ms
        return now_ms

    def _reject(self, sink: Sink, number: int, reason: str) -> None:
        if number > self._skipped:
            sink.rejected(self._name, reason, f"line {number}")

    def _scan(self) -> tuple[Player, list[TokenInfo]]:
        """Look at the beginning: is it a tape, whose, and of which tokens."""
        tokens: dict[str, TokenInfo] = {}
        player: Player | None = None
        found = "unknown"
        try:
            for line in islice(read_tape(self._path), SCAN_LINES):
                if player is None:
                    self._mark = self._mark or _mark(line)
                    player, found = self._player_for(line)
                if player is not None:
                    for info in player.tokens_of(line):
                        tokens.setdefault(info.address, info)
        except TapeError:
            if player is None:
                raise
        if player is None:
            raise UnsupportedTape(
                f"tape {self._path}: its frames are in {found} format; supported are {', '.join(FORMATS)}"
            )
        return player, list(tokens.values())

    def _player_for(self, line: TapeLine) -> tuple[Player | None, str]:
        """Who plays a tape that has this line; or whose format it is in."""
        if line.frame.startswith(EVENT_MARK):
            try:
                event = read_event(line.frame)
            except FormatError as error:
                raise TapeError(f"tape {self._path}: it was recorded by another program ({error})") from None
            if isinstance(event, Recorded):
                return RecordingPlayer(self._name, event, FORMATS), "recording"
        found = tape_format(line.frame)
        return (FramePlayer(self._name, FORMATS[found]), found) if found in FORMATS else (None, found)


def _recorder(sink: Sink) -> _Ledger | None:
    return sink.recorder if isinstance(sink, _Stores) else None


async def _settled(recorder: _Ledger) -> None:
    while True:
        try:
            return await recorder.settled()
        except HistoryError:  # a full disk, say: nothing of the tape is lost by waiting
            await asyncio.sleep(STORE_RETRY_S)


def _mark(line: TapeLine) -> str:
    return sha256(f"{line.time_ms} {line.frame}".encode()).hexdigest()[:_MARK_DIGITS]

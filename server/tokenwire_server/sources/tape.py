"""A captured tape as a source: real frames through the real normalisers, on the tape's own clock."""

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Final

from tokenwire_server.market.trades import TokenInfo
from tokenwire_server.ports import Sink, SourceState
from tokenwire_server.sources import binance_format, bybit_format, coinbase_format, kraken_format, okx_format
from tokenwire_server.sources.continuity import Continuity
from tokenwire_server.sources.frames import FormatError, Frame, TradesFrame, VenueTrade
from tokenwire_server.sources.tape_file import TapeError, TapeLine, read_tape

__all__ = ["FORMATS", "Tape", "TapeError", "UnsupportedTape", "tape_format"]

MAX_SPEED: Final = 1_000_000.0
CADENCE_MS: Final = 5_000  # the clock is told every second, whatever the tape holds
TICK_S: Final = 1.0
_MARK_DIGITS: Final = 16
_MAX_DIGITS: Final = 15
SCAN_LINES: Final = 5_000  # looked at before the start for the format and the tokens
LINES_PER_TURN: Final = 100  # read without letting others run
FORMATS: Final[Mapping[str, Callable[[str], Frame]]] = {
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


class Tape:
    """Replays a file paced by its receive times. ``speed`` is a factor; 0 is as fast as possible.

    The beginning of the file is read at once, so that a file that cannot be replayed is refused before
    anything starts, and the names of its tokens resolve from the first moment. Raises :class:`TapeError`,
    :class:`UnsupportedTape`, or ValueError for a speed out of range. A tape that turns out damaged later ends
    as FAILED. Of a symbol captured as both aggTrade and trade, the channel that comes first counts.
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
        if not math.isfinite(speed) or not 0 <= speed <= MAX_SPEED:
            raise ValueError(f"the speed of a tape is 0 to {MAX_SPEED:.0f}, not {speed}")
        self.ignored = 0  # frames that are no trades
        self.gaps = 0  # holes in the trade ids
        self.missed = 0  # trades in those holes
        self._path = path
        self._speed = speed
        self._name = name or f"tape:{Path(path).name}"
        self._sleep = sleep
        self._monotonic = monotonic
        self._channels: dict[str, str] = {}  # symbol -> the channel that counts
        self._continuity = Continuity()
        self._mark = ""  # tells this tape from others: what it begins with
        self._parse, self._first_tokens = self._scan()
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

    def resume(self, position: str) -> None:
        """Go on behind this line, if it is a line of this tape."""
        number, _, mark = position.partition(" ")
        if mark == self._mark and number.isascii() and number.isdigit():
            self._skipped = int(number[:_MAX_DIGITS])

    async def run(self, sink: Sink) -> None:
        """Deliver the tape once, then end."""
        name = self._name
        monotonic = self._monotonic or asyncio.get_running_loop().time
        sink.tokens(name, self._first_tokens)
        sink.state(name, SourceState.LIVE)
        start_s = monotonic()
        first_ms: int | None = None
        clock_ms = skipped_ms = 0
        try:
            for turn, line in enumerate(read_tape(self._path, lambda n, why: self._reject(sink, n, why))):
                if turn % LINES_PER_TURN == 0:
                    await asyncio.sleep(0)
                if line.number <= self._skipped:
                    skipped_ms = line.time_ms
                    self._deliver(sink, line, again=True)
                    continue
                if skipped_ms:
                    sink.clock(name, skipped_ms)  # where it stood
                    skipped_ms = 0
                if first_ms is None:
                    first_ms = clock_ms = line.time_ms
                    sink.clock(name, clock_ms)
                if self._speed:
                    due_s = start_s + (line.time_ms - first_ms) / 1_000 / self._speed
                    while (wait_s := due_s - monotonic()) > 0:
                        await self._sleep(min(wait_s, TICK_S))
                        passed_ms = first_ms + int((monotonic() - start_s) * 1_000 * self._speed)
                        clock_ms = self._tick(sink, clock_ms, min(passed_ms, line.time_ms))
                clock_ms = self._tick(sink, clock_ms, line.time_ms)
                self._deliver(sink, line)
                sink.offset(name, f"{line.number} {self._mark}")
        except TapeError as error:
            sink.state(name, SourceState.FAILED, str(error))
            return
        sink.state(name, SourceState.ENDED, "end of the tape")

    def _tick(self, sink: Sink, clock_ms: int, now_ms: int) -> int:
        if now_ms <= clock_ms:
            return clock_ms
        sink.clock(self._name, now_ms)
        return now_ms

    def _reject(self, sink: Sink, number: int, reason: str, detail: str = "") -> None:
        if number > self._skipped:
            sink.rejected(self._name, reason, f"line {number}: {detail}" if detail else f"line {number}")

    def _deliver(self, sink: Sink, line: TapeLine, *, again: bool = False) -> None:
        """Deliver a line; one that was delivered before only tells what comes next."""
        try:
            frame = self._parse(line.frame)
        except FormatError as error:
            self._reject(sink, line.number, error.reason, error.detail)
            return
        if not isinstance(frame, TradesFrame):
            self.ignored += 1
            return
        for refusal in frame.refused:
            self._reject(sink, line.number, refusal.reason, refusal.detail)
        counting = [item for item in frame.trades if self._counts(sink, item, frame.channel)]
        for item in counting:
            hole = self._continuity.observe(item)
            if hole is not None and not again:
                self.gaps += 1
                self.missed += hole.size
                sink.gap(self._name, hole.address, hole.size)
        if counting and not again:
            sink.trades(self._name, [item.trade for item in counting])

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

    def _scan(self) -> tuple[Callable[[str], Frame], list[TokenInfo]]:
        """Look at the beginning: is it a tape, whose, and of which tokens."""
        tokens: dict[str, TokenInfo] = {}
        found = "unknown"
        for line in islice(read_tape(self._path), SCAN_LINES):
            self._mark = self._mark or sha256(f"{line.time_ms} {line.frame}".encode()).hexdigest()[:_MARK_DIGITS]
            if found == "unknown":
                found = tape_format(line.frame)
                if found == "unknown":
                    continue
            try:
                frame = FORMATS[found](line.frame)
            except FormatError:
                continue
            for item in frame.trades if isinstance(frame, TradesFrame) else ():
                tokens.setdefault(item.symbol, _token(item))
        if found not in FORMATS:
            raise UnsupportedTape(
                f"tape {self._path}: its frames are in {found} format; supported are {', '.join(FORMATS)}"
            )
        return FORMATS[found], list(tokens.values())


def _token(item: VenueTrade) -> TokenInfo:
    return TokenInfo(item.trade.address, item.symbol, item.symbol)

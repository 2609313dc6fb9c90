"""A captured tape as a source: real frames through the real normaliser, on the tape's own clock."""

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from itertools import islice
from pathlib import Path
from typing import Any, Final

from tokenwire_server.market.trades import TokenInfo, Trade
from tokenwire_server.ports import Sink, SourceState
from tokenwire_server.sources.binance_format import (
    FormatError,
    TradeFrame,
    TradeIds,
    parse_frame,
    token_info,
)
from tokenwire_server.sources.tape_file import TapeError, TapeLine, read_tape

__all__ = ["FORMATS", "Tape", "TapeError", "UnsupportedTape", "tape_format"]

MAX_SPEED: Final = 1_000_000.0
CADENCE_MS: Final = 5_000  # the clock is told every second, whatever the tape holds
TICK_S: Final = 1.0
SCAN_LINES: Final = 5_000  # looked at before the start for the format and the tokens
LINES_PER_TURN: Final = 100  # read without letting others run
FORMATS: Final = ("binance",)
"""The formats that have a normaliser."""


class UnsupportedTape(TapeError):  # noqa: N818 - it is a TapeError by name and kind
    """The frames are an exchange's whose format has no normaliser yet."""


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
    as FAILED. Of a symbol captured as both aggTrade and trade, the kind that comes first counts.
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
        self._kinds: dict[str, str] = {}  # symbol -> the event kind that counts
        self._ids = TradeIds()
        self._first_tokens = self._scan()

    @property
    def name(self) -> str:
        """Unique name."""
        return self._name

    @property
    def cadence_ms(self) -> int:
        """How often its clock is told, with room."""
        return CADENCE_MS

    async def run(self, sink: Sink) -> None:
        """Deliver the tape once, then end."""
        name = self._name
        monotonic = self._monotonic or asyncio.get_running_loop().time
        sink.tokens(name, self._first_tokens)
        sink.state(name, SourceState.LIVE)
        start_s = monotonic()
        first_ms: int | None = None
        clock_ms = 0
        try:
            for turn, line in enumerate(read_tape(self._path, lambda n, why: sink.rejected(name, why, f"line {n}"))):
                if first_ms is None:
                    first_ms = clock_ms = line.time_ms
                    sink.clock(name, clock_ms)
                if self._speed:
                    due_s = start_s + (line.time_ms - first_ms) / 1_000 / self._speed
                    while (wait_s := due_s - monotonic()) > 0:
                        await self._sleep(min(wait_s, TICK_S))
                        passed_ms = first_ms + int((monotonic() - start_s) * 1_000 * self._speed)
                        clock_ms = self._tick(sink, clock_ms, min(passed_ms, line.time_ms))
                if turn % LINES_PER_TURN == 0:
                    await asyncio.sleep(0)
                clock_ms = self._tick(sink, clock_ms, line.time_ms)
                self._deliver(sink, line)
        except TapeError as error:
            sink.state(name, SourceState.FAILED, str(error))
            return
        sink.state(name, SourceState.ENDED, "end of the tape")

    def _tick(self, sink: Sink, clock_ms: int, now_ms: int) -> int:
        if now_ms <= clock_ms:
            return clock_ms
        sink.clock(self._name, now_ms)
        return now_ms

    def _deliver(self, sink: Sink, line: TapeLine) -> None:
        try:
            frame = parse_frame(line.frame)
        except FormatError as error:
            sink.rejected(self._name, error.reason, f"line {line.number}: {error.detail}")
            return
        if not isinstance(frame, TradeFrame):
            self.ignored += 1
            return
        kind = self._kinds.get(frame.symbol)
        if kind is None:
            self._kinds[frame.symbol] = frame.kind
            sink.tokens(self._name, [token_info(frame.symbol)])
        elif kind != frame.kind:
            self.ignored += 1
            return
        missed = self._ids.observe(frame.symbol, frame.number)
        if missed:
            self.gaps += 1
            self.missed += missed
            sink.gap(self._name, frame.trade.address, missed)
        trades: list[Trade] = [frame.trade]
        sink.trades(self._name, trades)

    def _scan(self) -> list[TokenInfo]:
        """Look at the beginning: is it a tape, whose, and of which tokens."""
        symbols: dict[str, None] = {}
        found = "unknown"
        for line in islice(read_tape(self._path), SCAN_LINES):
            if found == "unknown":
                found = tape_format(line.frame)
                if found != "unknown" and found not in FORMATS:
                    break
            try:
                frame = parse_frame(line.frame)
            except FormatError:
                continue
            if isinstance(frame, TradeFrame):
                symbols[frame.symbol] = None
        if found not in FORMATS:
            raise UnsupportedTape(
                f"tape {self._path}: its frames are in {found} format; supported so far: {', '.join(FORMATS)}"
            )
        return [token_info(symbol) for symbol in symbols]

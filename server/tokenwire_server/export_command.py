"""What ``tokenwire-server export`` does: bars or trades of a history into a file, beside a running server."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tokenwire_server.errors import UserError
from tokenwire_server.history.export import ExportToken, Reader
from tokenwire_server.history.service import open_reader
from tokenwire_server.history.tables import Column, TableFormat, writing
from tokenwire_server.market.instants import parse_instant, rfc3339
from tokenwire_server.market.intervals import IntervalError, parse_interval
from tokenwire_server.settings import Settings

__all__ = ["ExportRequest", "What", "export"]

_END_OF_TIME_MS: Final = 1 << 53
_UNITS: Final = ((604_800_000, "w"), (86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"))

_TRADES: Final[Mapping[str, Column]] = {
    "symbol": Column.TEXT,
    "address": Column.TEXT,
    "number": Column.WHOLE,
    "id": Column.TEXT,
    "price": Column.NUMBER,
    "amount": Column.NUMBER,
    "side": Column.TEXT,
    "timestamp": Column.TIME,
}
_BARS: Final[Mapping[str, Column]] = {
    "symbol": Column.TEXT,
    "address": Column.TEXT,
    "interval": Column.TEXT,
    "open_time": Column.TIME,
    "open": Column.NUMBER,
    "high": Column.NUMBER,
    "low": Column.NUMBER,
    "close": Column.NUMBER,
    "volume": Column.NUMBER,
    "turnover": Column.NUMBER,
    "buy_volume": Column.NUMBER,
    "buy_turnover": Column.NUMBER,
    "trades": Column.WHOLE,
    "revision": Column.WHOLE,
}


class What(StrEnum):
    """What is exported."""

    BARS = "bars"
    TRADES = "trades"


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What to write where. ``symbol`` is a symbol or an address, ``begin`` and ``end`` are texts of times.
    Without ``data`` the settings name the history."""

    data: Path | None
    settings: Settings
    what: What
    table_format: TableFormat
    output: Path
    symbol: str | None = None
    interval: str | None = None
    begin: str | None = None
    end: str | None = None
    as_text: bool = False


def export(request: ExportRequest) -> int:
    """Write the file; how many rows it has. Trades are in order of their number, closed bars in order of time, one
    token after the other.

    Raises:
        UserError: nothing is stored there, it or the file can't be used, or a number does not fit.
    """
    from_ms, to_ms = _instant(request.begin, "--from", 0), _instant(request.end, "--to", _END_OF_TIME_MS)
    if from_ms > to_ms:
        raise UserError("--from is later than --to")
    if request.interval is not None and request.what is What.TRADES:
        raise UserError("--interval is for bars only: --what bars")
    reader = open_reader(request.settings, request.data)
    console = Console(stderr=True)
    columns = (
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("tokens")),
        *(TextColumn("{task.fields[rows]:,} rows"), TimeElapsedColumn()),
    )
    try:
        tokens = reader.tokens(request.symbol)
        lengths = _lengths(reader, request.interval) if request.what is What.BARS else []
        rows = 0
        header = _BARS if request.what is What.BARS else _TRADES
        with (
            writing(request.output, request.table_format, header, as_text=request.as_text) as table,
            Progress(*columns, console=console, disable=not console.is_terminal) as progress,
        ):
            task = progress.add_task("exporting", total=len(tokens), rows=0)
            for token in tokens:
                if request.what is What.BARS:
                    pieces = _bars(reader, token, lengths, from_ms, to_ms)
                else:
                    pieces = _trades(reader, token, from_ms, to_ms)
                for piece in pieces:
                    table.write(piece)
                    rows += len(piece)
                    progress.update(task, rows=rows)
                progress.advance(task)
        return rows
    finally:
        reader.close()


def _instant(text: str | None, name: str, default: int) -> int:
    if text is None:
        return default
    try:
        return parse_instant(text)
    except ValueError as error:
        raise UserError(f"{name}: {error}, not {text[:40]!r}") from None


def _lengths(reader: Reader, text: str | None) -> list[tuple[int, str]]:
    """The intervals to export: length in ms, and name."""
    stored = [(ms, _name(ms)) for ms in reader.intervals_ms()]
    if text is None:
        return stored
    try:
        interval = parse_interval(text)
    except IntervalError as error:
        raise UserError(f"--interval: {error}") from None
    found = [each for each in stored if each[0] == interval.ms]
    if not found:
        names = ", ".join(name for _, name in stored) or "none yet"
        raise UserError(f"--interval: no bars of {interval.text} are stored; there are {names}")
    return found


def _name(interval_ms: int) -> str:
    unit_ms, unit = next((ms, unit) for ms, unit in _UNITS if interval_ms % ms == 0)
    return f"{interval_ms // unit_ms}{unit}"


def _bars(
    reader: Reader, token: ExportToken, lengths: Sequence[tuple[int, str]], from_ms: int, to_ms: int
) -> Iterator[list[tuple[Any, ...]]]:
    for interval_ms, name in lengths:
        for piece in reader.bars(token, interval_ms, from_ms, to_ms):
            yield [(token.symbol, token.address, name, (ms, rfc3339(ms)), *rest) for ms, *rest in piece]


def _trades(reader: Reader, token: ExportToken, from_ms: int, to_ms: int) -> Iterator[list[tuple[Any, ...]]]:
    for piece in reader.trades(token, from_ms, to_ms):
        yield [(token.symbol, token.address, *rest, (ms, rfc3339(ms))) for *rest, ms in piece]

"""What ``tokenwire-server import`` does: trades from a file into a history, each once, its bars with it."""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from tokenwire_server.errors import UserError
from tokenwire_server.history.port import HistoryError
from tokenwire_server.history.recorder import Recorder
from tokenwire_server.history.service import open_history
from tokenwire_server.history.trade_files import FileRow, read_trades
from tokenwire_server.intake import POSTED
from tokenwire_server.market.bars import BarChange
from tokenwire_server.market.market import Market, TokenState
from tokenwire_server.market.market_bars import MarketBars
from tokenwire_server.market.posted import Refusal, read_trade
from tokenwire_server.market.trades import TokenInfo, Trade
from tokenwire_server.settings import Settings
from tokenwire_server.validation.trades import MAX_ID_CHARS

__all__ = ["Imported", "import_trades", "import_with_progress", "print_imported"]

MAX_REJECTS_NAMED: Final = 20
_CHUNK_ROWS: Final = 5_000


@dataclass
class Imported:
    """What became of the rows. ``rejected`` counts reasons, ``named`` holds the first ones: line and message."""

    accepted: int = 0
    duplicates: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    named: list[tuple[int, str]] = field(default_factory=list)

    def reject(self, line: int, reason: str, message: str) -> None:
        """Count one row, and name it if it is among the first."""
        self.rejected[reason] += 1
        if len(self.named) < MAX_REJECTS_NAMED:
            self.named.append((line, message))


class _Importer:
    """Folds rows into a market whose history is open. A trade that is stored, or came before in the file, is left
    aside; of a token that other sources write too, trades are added all the same: nobody else runs now."""

    def __init__(self, market: Market, recorder: Recorder, venue: str, now_ms: int) -> None:
        self.outcome = Imported()
        self._market = market
        self._recorder = recorder
        self._venue = venue
        self._now_ms = now_ms
        self._newest_ms: dict[str, int] = {}  # the latest trade's time, by source

    async def take(self, rows: Iterable[FileRow]) -> None:
        """Store some rows. Raises HistoryError if that is not possible; those before are stored."""
        read = [(row.line, trade) for row in rows if (trade := self._read(row)) is not None]
        asked: dict[str, list[str]] = {}
        for _, trade in read:
            token = self._market.find(trade.address)
            if token is not None:
                asked.setdefault(token.address, []).append(trade.trade_id)
        known = {
            (address, trade_id)
            for address, ids in asked.items()
            for trade_id in await self._recorder.known_ids(address, ids)
        }
        for line, trade in read:
            token = self._token(line, trade)
            if token is None:
                continue
            key = token.address, trade.trade_id
            if key in known or not self._market.apply(token.source, trade):
                self.outcome.duplicates += 1
            else:
                self.outcome.accepted += 1
                self._newest_ms[token.source] = max(trade.time_ms, self._newest_ms.get(token.source, 0))
            known.add(key)
        await self._recorder.settled()

    async def close_bars(self) -> None:
        """Store bars that ended before the newest trade as closed, as a source does whose clock goes on."""
        for source, newest_ms in self._newest_ms.items():
            self._market.advance(source, newest_ms)
        await self._recorder.settled()

    def _read(self, row: FileRow) -> Trade | None:
        if row.problem:
            self.outcome.reject(row.line, "row_unreadable", row.problem)
            return None
        given = {name: text for name, text in row.fields.items() if text != ""}
        read = read_trade(msgspec.Raw(msgspec.json.encode(given)), self._venue, self._now_ms)
        if isinstance(read, Refusal):
            self.outcome.reject(row.line, read.reason, read.message)
            return None
        address = given.get("address", read.trade.address)
        if len(address) > MAX_ID_CHARS or not address.isprintable():
            self.outcome.reject(row.line, "address_invalid", f"address: 1 to {MAX_ID_CHARS} printable characters")
            return None
        if self._market.find(address) is None:
            self._market.add_tokens(POSTED, [TokenInfo(address, read.symbol)])
        return msgspec.structs.replace(read.trade, address=address)

    def _token(self, line: int, trade: Trade) -> TokenState | None:
        token = self._market.find(trade.address)
        if token is None:
            self.outcome.reject(line, "too_many_tokens", "the history holds as many tokens as it may")
        return token


async def import_trades(
    settings: Settings,
    data: Path | None,
    file: Path,
    *,
    now_ms: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Imported:
    """Store the trades of ``file`` in the history of ``data``, else in that which the settings name; trades without an
    address become those of ``ingest_venue:SYMBOL``. Repeating it changes nothing.

    Raises:
        UserError: a server holds the history, or that or the file can't be used. What was read up to then
            is stored.
    """
    rows = read_trades(file, progress)
    chunk = list(islice(rows, _CHUNK_ROWS))  # before the directory: a file that can't be read leaves nothing behind
    kept = await open_history(settings, data)
    if kept is None:
        raise UserError("name where to import to: --data DIR, or TIMESCALE_HOST")
    try:

        def traded(token: TokenState, number: int, trade: Trade) -> None:
            recorder.builder.traded(token, number, trade)

        def bar_changed(address: str, change: BarChange) -> None:
            recorder.builder.bar_changed(address, change)

        market = Market(lambda token: None, 0, settings.max_tokens, bars=MarketBars(tell=bar_changed), on_trade=traded)
        sources = {token.source for token in await kept.history.tokens()}
        recorder, _ = await kept.attach(market, sources)
        importer = _Importer(
            market, recorder, settings.ingest_venue, time.time_ns() // 1_000_000 if now_ms is None else now_ms
        )
        while chunk:
            await importer.take(chunk)
            chunk = list(islice(rows, _CHUNK_ROWS))
        await importer.close_bars()
        return importer.outcome
    except HistoryError as error:
        raise UserError(str(error)) from None
    finally:
        await kept.close()


async def import_with_progress(settings: Settings, data: Path | None, file: Path) -> Imported:
    """As :func:`import_trades`, with a bar on a terminal."""
    console = Console(stderr=True)
    columns = TextColumn("importing"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as shown:
        task = shown.add_task("importing", total=None)
        return await import_trades(
            settings,
            data,
            file,
            progress=lambda done, total: shown.update(task, completed=done, total=total),
        )


def print_imported(imported: Imported) -> None:
    """What became of the rows: a line on standard output; rejected ones, the first with their lines, on standard
    error."""
    rejected = imported.rejected.total()
    Console(soft_wrap=True).print(
        f"{imported.accepted} trades imported, {imported.duplicates} were there already, {rejected} rejected",
        highlight=False,
        markup=False,
    )
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    for line, message in imported.named:
        errors.print(f"line {line}: {message}")
    if rejected > len(imported.named):
        errors.print(f"… and {rejected - len(imported.named)} more")
    for reason, count in imported.rejected.most_common():
        errors.print(f"rejected as {reason}: {count}")

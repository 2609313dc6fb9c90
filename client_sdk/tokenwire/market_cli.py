"""The commands ``tokenwire klines``, ``trades`` and ``tokens``: what a server knows, and with --follow what comes."""

import argparse
import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import msgspec

from tokenwire.aio import TokenClient
from tokenwire.channels import Bar, Trade, bar_of_row, trade_of_row
from tokenwire.rest import RestError
from tokenwire.streams import wall_ms
from tokenwire.watch import escaped, printable

__all__ = ["COMMANDS", "add_commands", "run"]

_T = TypeVar("_T")

_MAX_ROWS: Final = 1_000  # of one request
COMMANDS: Final = frozenset({"klines", "trades", "tokens"})
_KLINES: Final = """\
examples:
  tokenwire klines PEPE                           the newest bars of a minute
  tokenwire klines PEPE --interval 5m --limit 500 --json
  tokenwire klines PEPE --from 2026-03-21T00:00:00Z --to 2026-03-21T01:00:00Z
  tokenwire klines PEPE --follow                  … and each bar as it changes and closes, until Ctrl-C
"""
_TRADES: Final = """\
examples:
  tokenwire trades PEPE                           the newest trades
  tokenwire trades PEPE --after 4711 --json       those numbered above 4711
  tokenwire trades PEPE DOGE --follow --limit 0   every trade from now on, without a hole
"""
_TOKENS: Final = """\
examples:
  tokenwire tokens                                by volume
  tokenwire tokens --sort marketCap --limit 10
  tokenwire tokens --query pep --json
"""


def add_commands(commands: Any, common: argparse.ArgumentParser, default_url: str, url_help: str) -> None:
    """Add the three to a parser's sub-commands."""
    raw = argparse.RawDescriptionHelpFormatter

    def command(name: str, help_text: str, epilog: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = commands.add_parser(
            name, parents=[common], help=help_text, description=f"{help_text.capitalize()}.", epilog=epilog,
            formatter_class=raw,
        )  # fmt: skip
        parser.add_argument("--url", default=default_url, help=url_help)
        return parser

    klines = command("klines", "show the bars of a token", _KLINES)
    klines.add_argument("symbols", nargs="+", metavar="SYMBOL", help="symbol or address of a token")
    klines.add_argument("--interval", default="1m", metavar="I", help="length of a bar (default: 1m)")
    klines.add_argument("--limit", type=_limit, default=20, metavar="N", help="how many (default: 20, at most 1000)")
    klines.add_argument("--from", dest="begin", metavar="TIME", help="first beginning: s, ms or RFC 3339")
    klines.add_argument("--to", dest="end", metavar="TIME", help="last beginning, likewise")
    klines.add_argument("--follow", action="store_true", help="go on with what comes")

    trades = command("trades", "show the trades of a token", _TRADES)
    trades.add_argument("symbols", nargs="+", metavar="SYMBOL", help="symbol or address of a token")
    trades.add_argument("--limit", type=_limit, default=20, metavar="N", help="how many (default: 20, at most 1000)")
    trades.add_argument("--after", type=_limit_free, metavar="NUMBER", help="those numbered above")
    trades.add_argument("--follow", action="store_true", help="go on with what comes")

    tokens = command("tokens", "list the tokens of a server", _TOKENS)
    tokens.add_argument("--sort", default="volume", metavar="FIELD", help="volume, marketCap, price, name … (volume)")
    tokens.add_argument("--query", metavar="TEXT", help="only those whose symbol, name or address has it")
    tokens.add_argument("--limit", type=_limit, default=20, metavar="N", help="how many (default: 20, at most 1000)")


async def run(client: TokenClient, arguments: argparse.Namespace) -> None:
    """Carry out one of the three.

    Raises:
        RestError: the server has not what was asked for.
        TokenwireError: as the streams.
    """
    show = _json_line if arguments.json else _text_line
    heading = None if arguments.json else _HEADINGS[arguments.command]
    found: Mapping[str, AsyncIterator[Any]] = {
        "klines": _klines(client, arguments),
        "trades": _trades(client, arguments),
        "tokens": _tokens(client, arguments),
    }
    async for row in found[arguments.command]:
        if heading is not None:  # only now: what fails has no table
            print(heading)
            heading = None
        print(show(row), flush=True)


async def _klines(client: TokenClient, arguments: argparse.Namespace) -> AsyncIterator[Bar]:
    is_part = arguments.begin is not None or arguments.end is not None
    shown: dict[str, int] = {}  # where what was listed ends
    for symbol in arguments.symbols if is_part or not arguments.follow else ():
        query = {"from": arguments.begin, "to": arguments.end}
        for row in await _page(client, "klines", symbol, interval=arguments.interval, limit=arguments.limit, **query):
            bar = bar_of_row(symbol, symbol, row, wall_ms())
            shown[symbol] = bar.open_ms
            yield bar
    if arguments.follow:
        history = _MAX_ROWS if is_part else arguments.limit
        async with client:
            symbols = dict.fromkeys(arguments.symbols)
            streams = [client.klines(symbol, arguments.interval, history=history) for symbol in symbols]
            async for bar in _merged(streams):
                if not bar.fetched or bar.open_ms > shown.get(bar.name, -1):
                    yield bar


async def _trades(client: TokenClient, arguments: argparse.Namespace) -> AsyncIterator[Trade]:
    after: dict[str, int | None] = dict.fromkeys(arguments.symbols, arguments.after)
    for symbol in arguments.symbols if arguments.limit else ():
        after[symbol] = arguments.after or 0
        for row in await _page(client, "trades", symbol, after=arguments.after, limit=arguments.limit):
            trade = trade_of_row(symbol, row, wall_ms())
            after[symbol] = trade.number
            yield trade
    if arguments.follow:
        async with client:
            async for trade in _merged([client.trades(symbol, after=last) for symbol, last in after.items()]):
                yield trade


async def _merged(streams: Sequence[AsyncIterator[_T]]) -> AsyncIterator[_T]:
    """What comes of any of them, until one of them ends."""
    tasks: dict[asyncio.Task[_T], AsyncIterator[_T]] = {asyncio.create_task(_next(each)): each for each in streams}
    try:
        while True:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                stream = tasks.pop(task)
                try:
                    found = task.result()
                except StopAsyncIteration:
                    return
                yield found
                tasks[asyncio.create_task(_next(stream))] = stream
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _next(stream: AsyncIterator[_T]) -> _T:
    return await anext(stream)


async def _tokens(client: TokenClient, arguments: argparse.Namespace) -> AsyncIterator[dict[str, Any]]:
    for row in await _page(client, "tokens", sort=arguments.sort, q=arguments.query, limit=arguments.limit):
        yield row


async def _page(client: TokenClient, *path: str, **query: str | int | None) -> list[Any]:
    limit = query.get("limit")
    page = await client.rest.get(*path, **{**query, "limit": None if limit == 0 else limit})
    if not isinstance(page, dict) or not isinstance(page.get("data"), list):
        raise RestError("INVALID_ANSWER", "the answer is no page", "Check the address of the server", 200)
    return list(page["data"])


_HEADINGS: Final = {
    "klines": f"{'TOKEN':<10} {'BEGINS':<20} {'OPEN':>14} {'HIGH':>14} {'LOW':>14} {'CLOSE':>14} {'VOLUME':>18}",
    "trades": f"{'TOKEN':<10} {'TIME':<24} {'NUMBER':>10} {'SIDE':<4} {'PRICE':>16} {'VOLUME':>18}",
    "tokens": f"{'SYMBOL':<10} {'PRICE':>16} {'VOLUME 24 H':>20} {'MARKET CAP':>22}  ADDRESS",
}


def _text_line(row: Any) -> str:
    if isinstance(row, Bar):
        form = ("" if row.closed else "  (open)") + ("  (some before it may be missing)" if row.missed else "")
        prices = " ".join(f"{price:>14}" for price in (row.open, row.high, row.low, row.close))
        return printable(f"{row.name:<10} {_moment(row.open_ms)[:19] + 'Z':<20} {prices} {row.volume:>18}{form}")
    if isinstance(row, Trade):
        gap = "" if row.missed == 0 else f"  ({'some' if row.missed is None else row.missed} before it are missing)"
        number = "" if row.number is None else row.number
        what = f"{row.side:<4} {row.price:>16} {row.volume:>18}"
        return printable(f"{row.name:<10} {_moment(row.time_ms):<24} {number:>10} {what}{gap}")
    volume = row.get("volume")
    h24 = volume.get("h24", "") if isinstance(volume, dict) else ""
    return printable(
        f"{row.get('symbol', ''):<10} {row.get('price') or '':>16} {h24:>20} {row.get('marketCap') or '':>22}"
        f"  {row.get('address', '')}"
    )


def _json_line(row: Any) -> str:
    return escaped(msgspec.json.encode(row).decode())


def _moment(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _limit_free(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 0 or more")
    return value


def _limit(text: str) -> int:
    value = _limit_free(text)
    if value > _MAX_ROWS:
        raise argparse.ArgumentTypeError(f"{text} is more than {_MAX_ROWS}")
    return value

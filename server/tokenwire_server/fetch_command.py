"""What ``tokenwire-server fetch`` does: ask every polled API once, and show what each says or what it amounts to."""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tokenwire_server.errors import UserError
from tokenwire_server.market.decimals import canonical
from tokenwire_server.market.values import TokenFacts, TokenValue
from tokenwire_server.settings import Settings
from tokenwire_server.sources.poller import Poller
from tokenwire_server.sources.poller_findings import Findings
from tokenwire_server.sources.poller_http import poll_session
from tokenwire_server.sources.pollers import POLLED, build_aggregator

__all__ = ["Fetched", "fetch_once", "print_fetched"]

_PIPED_WIDTH: Final = 240
_FACT_COLUMNS: Final = ("source", "chain", "symbol", "price", "quote", "liquidity", "market_cap", "h24", "address")
_VALUE_COLUMNS: Final = ("sources", "price", "market_cap", "h24", "h1", "m5", "address")


class Fetched(msgspec.Struct, frozen=True):
    """``facts`` as the APIs state them (prices converted to USD where a rate is known), ``values`` merged from them,
    ``reports`` a line for each poller, ``answered`` whether any API answered at all."""

    facts: tuple[TokenFacts, ...]
    values: tuple[TokenValue, ...]
    reports: tuple[str, ...]
    answered: bool


async def fetch_once(
    settings: Settings, *, wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
) -> Fetched:
    """One poll cycle of every polled source of the settings. ``wall_ms`` gives Unix time.

    Raises:
        UserError: nothing in the settings is polled.
    """
    specs = [spec for spec in settings.sources if spec.kind in POLLED]
    if not specs:
        raise UserError("nothing to fetch: give --source dexscreener:ADDRESS, dexscreener:search=QUERY or jupiter:MINT")
    aggregator = build_aggregator(specs, settings, wall_ms=wall_ms)
    async with poll_session() as session:
        cycles = await asyncio.gather(*(poller.cycle(session) for poller in aggregator.pollers))
    _, values = aggregator.merger.take([fact for findings, _ in cycles for fact in findings.facts], wall_ms())
    book = aggregator.merger.book
    return Fetched(
        facts=tuple(fact for key in sorted(book) for fact in book.facts(key)),
        values=tuple(values),
        reports=tuple(
            _report(poller, findings) for poller, (findings, _) in zip(aggregator.pollers, cycles, strict=True)
        ),
        answered=any(answered for _, answered in cycles),
    )


def print_fetched(fetched: Fetched, *, merged: bool, as_json: bool) -> None:
    """A table of what the APIs say or, ``merged``, of what it amounts to; or one JSON object a line. What each poller
    did follows on standard error."""
    columns = _VALUE_COLUMNS if merged else _FACT_COLUMNS
    items: Sequence[TokenFacts | TokenValue] = fetched.values if merged else fetched.facts
    rows = [{column: _cell(item, column) for column in columns} for item in items]
    if as_json:
        for row in rows:
            print(json.dumps(row))
    else:
        table = Table(header_style="bold", box=None, pad_edge=False)
        for column in columns:
            table.add_column(column, overflow="fold")  # an address is of use as a whole only
        for row in rows:
            # Text, not str: a symbol in brackets is no markup.
            table.add_row(*(Text("" if cell is None else cell) for cell in row.values()))
        Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH).print(table)
    errors = Console(stderr=True, soft_wrap=True)
    for report in fetched.reports:
        errors.print(Text(report))


def _cell(item: TokenFacts | TokenValue, column: str) -> str | None:
    if isinstance(item, TokenValue) and column == "sources":
        return "+".join(fact.source for fact in item.facts)
    value = getattr(item, column)
    return canonical(value) if isinstance(value, Decimal) else value


def _report(poller: Poller, findings: Findings) -> str:
    """One line: how long it took, and what went wrong."""
    parts = [f"{poller.name}: {len(findings.facts)} tokens in {poller.cycle_ms} ms, {poller.requests} requests"]
    if findings.missing:
        parts.append(f"{findings.missing} unknown to it")
    parts += [f"{count} times {reason}" for reason, count in poller.failures.items()]
    if poller.problem:
        parts.append(f"the last: {poller.problem}")
    if findings.rejections:
        reason, detail = findings.rejections[0]
        parts.append(f"{len(findings.rejections)} unusable, the first {reason}: {detail}")
    return "; ".join(parts)

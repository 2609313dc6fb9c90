"""From what is asked for to the aggregator: a poller for every text, the rate of each API shared among its pollers."""

import time
from collections.abc import Callable, Sequence
from typing import Final

from tokenwire_server.errors import UserError
from tokenwire_server.settings import Settings
from tokenwire_server.source_spec import SourceKind, SourceSpec
from tokenwire_server.sources.aggregator import Aggregator
from tokenwire_server.sources.dexscreener import DexScreener
from tokenwire_server.sources.jupiter import Jupiter
from tokenwire_server.sources.poller import Poller
from tokenwire_server.sources.poller_findings import Api
from tokenwire_server.sources.poller_http import Pace

__all__ = ["POLLED", "build_aggregator"]

POLLED: Final[tuple[SourceKind, ...]] = ("dexscreener", "jupiter")
"""The kinds of sources that are polled, and merged into one."""


def build_aggregator(
    specs: Sequence[SourceSpec],
    settings: Settings,
    *,
    wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
) -> Aggregator:
    """One source for all ``specs``, which are of the kinds in ``POLLED``; ``wall_ms`` gives Unix time.

    Raises:
        UserError: the API key can't be sent.
    """
    pollers: list[Poller] = []
    paces: dict[str, Pace] = {}
    numbers: dict[str, int] = {}
    for spec in specs:
        api, default_url = _api(spec, settings)
        url = spec.rest_url or default_url
        number = numbers[spec.kind] = numbers.get(spec.kind, 0) + 1
        pace = paces.setdefault(url, Pace(api.requests_per_minute))
        name = spec.kind if number == 1 else f"{spec.kind}#{number}"
        pollers.append(Poller(name, api, url, settings.poll_interval_ms, pace=pace, wall_ms=wall_ms))
    return Aggregator(
        pollers,
        poll_interval_ms=settings.poll_interval_ms,
        janitor_interval_ms=settings.janitor_interval_ms,
        fallbacks={} if settings.sol_price_usd is None else {"SOL": settings.sol_price_usd},
        max_tokens=settings.max_tokens,
        wall_ms=wall_ms,
    )


def _api(spec: SourceSpec, settings: Settings) -> tuple[Api, str]:
    if spec.kind == "dexscreener":
        return DexScreener(spec.symbols, spec.search), settings.dexscreener_api_url
    secret = settings.jupiter_api_key
    key = "" if secret is None else secret.get_secret_value().strip()
    if not (key.isascii() and (key.isprintable() or not key)):
        raise UserError("JUPITER_API_KEY has characters that no HTTP header can carry; copy the key once more")
    return Jupiter(spec.symbols, key), settings.jupiter_api_url

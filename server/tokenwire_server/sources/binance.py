"""Binance-format streams: what distinguishes them.

Of the venue's rules it honours: at most 1024 streams a connection, at most 5 messages a second to the venue, a
connection's life of 24 hours (renewed before), ``serverShutdown`` (reconnect at once). Trade ids rise by one per
symbol. Only aggregate trades are fetched again: others have no page that begins at an id without a key.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from random import Random
from typing import Final

from tokenwire_server.ports import BookSink, Sink
from tokenwire_server.sources.binance_depth_feed import BinanceDepth
from tokenwire_server.sources.binance_format import TRADE_KINDS, page_path, parse_frame, read_page
from tokenwire_server.sources.exchange import Exchange
from tokenwire_server.sources.http_get import HttpGet, http_client
from tokenwire_server.sources.profile import Backfill, Profile, Request

__all__ = ["DEFAULT_URL", "MAX_STREAMS", "Binance", "binance"]

DEFAULT_URL: Final = "wss://stream.binance.com:9443"
DEFAULT_REST_URL: Final = "https://api.binance.com"
MAX_STREAMS: Final = 1_024  # of one connection
STREAMS_PER_REQUEST: Final = 200
REQUEST_INTERVAL_S: Final = 0.25  # 4 messages a second, pings have room below the venue's 5
REST_INTERVAL_S: Final = 0.25  # aggTrades weighs 4 of 6,000 a minute
MAX_AGE_S: Final = 23.5 * 3_600  # the venue cuts at 24 h


def binance(stream: str = "aggTrade") -> Profile:
    """The profile for ``aggTrade`` or ``trade``. Raises ValueError for another stream."""
    if stream not in TRADE_KINDS:
        raise ValueError(f"stream must be one of {', '.join(TRADE_KINDS)}, not {stream!r}")

    def requests(symbols: Sequence[str], first: int) -> list[Request]:
        streams = [f"{symbol.lower()}@{stream}" for symbol in symbols]
        parts = [streams[at : at + STREAMS_PER_REQUEST] for at in range(0, len(streams), STREAMS_PER_REQUEST)]
        return [_subscribe(part, number) for number, part in enumerate(parts, first)]

    return Profile(
        kind="binance",
        channel=stream,
        default_url=DEFAULT_URL,
        endpoint=lambda url: f"{url}/stream",
        requests=requests,
        parse=parse_frame,
        max_symbols=MAX_STREAMS,
        request_interval_s=REQUEST_INTERVAL_S,
        max_age_s=MAX_AGE_S,
        backfill=_BACKFILL if stream == "aggTrade" else None,
    )


_BACKFILL: Final = Backfill(
    default_url=DEFAULT_REST_URL,
    interval_s=REST_INTERVAL_S,
    page=page_path,
    read=read_page,
    newest_first=False,
)


def _subscribe(streams: Sequence[str], number: int) -> Request:
    request = {"method": "SUBSCRIBE", "params": streams, "id": number}
    return Request(json.dumps(request, separators=(",", ":")), (str(number),))


class Binance(Exchange):
    """Trades of ``symbols`` (like BTCUSDT) at ``binance:SYMBOL``. ``stream`` is aggTrade or trade.

    The rest is as with every :class:`~tokenwire_server.sources.exchange.Exchange`.
    """

    def __init__(
        self,
        symbols: Sequence[str],
        url: str | None = None,
        rest_url: str | None = None,
        *,
        stream: str = "aggTrade",
        name: str = "binance",
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        rng: Random | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        http: Callable[[], AbstractAsyncContextManager[HttpGet]] = http_client,
    ) -> None:
        super().__init__(
            binance(stream), symbols, url, rest_url, name=name, clock=clock, rng=rng, sleep=sleep, http=http
        )
        self._depth: BinanceDepth | None = None

    def use_books(self, books: BookSink) -> None:
        """Deliver order books there, if it is known where snapshots come from (``rest_url``)."""
        if self._rest_url is not None:
            self._depth = BinanceDepth(
                *(self._symbols, self._url, self._rest_url, books),
                name=self._name,
                clock=self._clock,
                rng=self._rng,
                sleep=self._sleep,
                http=self._http,
            )

    async def run(self, sink: Sink) -> None:
        """Deliver until cancelled; trades and books do not disturb each other."""
        books = None if self._depth is None else asyncio.create_task(self._depth.run(sink))
        try:
            await super().run(sink)
        finally:
            if books is not None:
                books.cancel()
                await asyncio.wait((books,))

"""OKX v5: what distinguishes it.

At most 480 subscription requests an hour and 64 KiB each; a connection on which nothing was sent for 30 s is cut, so
after 25 s a ping asks for a word. History allows 20 requests in 2 s.
"""

import json
from collections.abc import Sequence
from typing import Final

from tokenwire_server.sources.okx_format import CHANNEL, page_path, parse_frame, read_page
from tokenwire_server.sources.profile import Backfill, Ping, Profile, Request, with_path

__all__ = ["OKX"]

ARGUMENTS_PER_REQUEST: Final = 50


def _requests(symbols: Sequence[str], first: int) -> list[Request]:
    del first  # its requests have no numbers: every pair is answered by name
    parts = [symbols[at : at + ARGUMENTS_PER_REQUEST] for at in range(0, len(symbols), ARGUMENTS_PER_REQUEST)]
    return [_subscribe(part) for part in parts]


def _subscribe(symbols: Sequence[str]) -> Request:
    arguments = [{"channel": CHANNEL, "instId": symbol} for symbol in symbols]
    return Request(json.dumps({"op": "subscribe", "args": arguments}, separators=(",", ":")), tuple(symbols))


OKX: Final = Profile(
    kind="okx",
    channel=CHANNEL,
    default_url="wss://ws.okx.com:8443/ws/v5/public",
    endpoint=with_path("/ws/v5/public"),
    requests=_requests,
    parse=parse_frame,
    max_symbols=500,
    request_interval_s=0.5,
    ping=Ping("ping", 25.0, only_when_idle=True),
    backfill=Backfill(
        default_url="https://www.okx.com",
        interval_s=0.15,
        page=page_path,
        read=read_page,
        newest_first=True,
    ),
)
"""Trades of OKX's spot pairs such as BTC-USDT."""

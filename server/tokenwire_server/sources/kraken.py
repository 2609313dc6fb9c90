"""Kraken (spot, WebSocket v2): what distinguishes it.

Subscribed connections get a heartbeat every second; public REST allows about one request a second.
"""

import json
from collections.abc import Sequence
from typing import Final

from tokenwire_server.sources.kraken_format import CHANNEL, page_path, parse_frame, read_page
from tokenwire_server.sources.profile import Backfill, Ping, Profile, Request, with_path

__all__ = ["KRAKEN"]

SYMBOLS_PER_REQUEST: Final = 100


def _requests(symbols: Sequence[str], first: int) -> list[Request]:
    parts = [symbols[at : at + SYMBOLS_PER_REQUEST] for at in range(0, len(symbols), SYMBOLS_PER_REQUEST)]
    return [_subscribe(part, number) for number, part in enumerate(parts, first)]


def _subscribe(symbols: Sequence[str], number: int) -> Request:
    parameters = {"channel": CHANNEL, "symbol": list(symbols), "snapshot": True}
    request = {"method": "subscribe", "params": parameters, "req_id": number}
    return Request(json.dumps(request, separators=(",", ":")), tuple(symbols))


KRAKEN: Final = Profile(
    kind="kraken",
    channel=CHANNEL,
    default_url="wss://ws.kraken.com/v2",
    endpoint=with_path("/v2"),
    requests=_requests,
    parse=parse_frame,
    max_symbols=500,
    request_interval_s=0.5,
    ping=Ping('{"method":"ping"}', 30.0, only_when_idle=True),
    backfill=Backfill(
        default_url="https://api.kraken.com",
        interval_s=1.0,
        page=page_path,
        read=read_page,
        newest_first=False,
    ),
)
"""Trades of Kraken's spot pairs such as BTC/USD."""

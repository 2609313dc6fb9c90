"""Coinbase Exchange: what distinguishes it.

A connection must subscribe within 5 s, may send 100 messages a second; REST allows 10 requests a second.
"""

import json
from collections.abc import Sequence
from typing import Final

from tokenwire_server.sources.coinbase_format import CHANNEL, page_path, parse_frame, read_page
from tokenwire_server.sources.profile import Backfill, Profile, Request

__all__ = ["COINBASE"]

PRODUCTS_PER_REQUEST: Final = 100


def _requests(symbols: Sequence[str], first: int) -> list[Request]:
    del first  # its requests have no numbers: the answer lists everything that is subscribed to
    parts = [symbols[at : at + PRODUCTS_PER_REQUEST] for at in range(0, len(symbols), PRODUCTS_PER_REQUEST)]
    return [
        Request(
            json.dumps({"type": "subscribe", "product_ids": list(part), "channels": [CHANNEL]}, separators=(",", ":")),
            tuple(part),
        )
        for part in parts
    ]


COINBASE: Final = Profile(
    kind="coinbase",
    channel=CHANNEL,
    default_url="wss://ws-feed.exchange.coinbase.com",
    endpoint=lambda url: url,
    requests=_requests,
    parse=parse_frame,
    max_symbols=500,
    request_interval_s=0.25,
    backfill=Backfill(
        default_url="https://api.exchange.coinbase.com",
        interval_s=0.2,
        page=page_path,
        read=read_page,
        newest_first=True,
    ),
)
"""Trades of Coinbase Exchange products such as BTC-USD."""

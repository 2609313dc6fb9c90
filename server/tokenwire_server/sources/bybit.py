"""Bybit v5: what distinguishes it.

At most 10 topics a request and 500 connections in 5 minutes; it wants a ping of its own every 20 s. The stream's path
ends with the category: spot unless a URL says linear.
"""

import json
from collections.abc import Sequence
from functools import partial
from typing import Final

from tokenwire_server.sources.bybit_format import CHANNEL, page_path, parse_frame, read_page
from tokenwire_server.sources.profile import Backfill, Ping, Profile, Request, with_path

__all__ = ["bybit"]

TOPICS_PER_REQUEST: Final = 10
_CATEGORIES: Final = ("spot", "linear")


def bybit(url: str | None = None) -> Profile:
    """The profile for the category that ``url`` ends with; spot if it names none.

    Raises:
        ValueError: a category whose amounts are counted in contracts.
    """
    last = (url or "").rstrip("/").rpartition("/")[2]
    if last in ("inverse", "option"):
        raise ValueError(f"bybit's {last} trades are counted in contracts; use {' or '.join(_CATEGORIES)}")
    return Profile(
        kind="bybit",
        channel=CHANNEL,
        default_url="wss://stream.bybit.com/v5/public/spot",
        endpoint=with_path("/v5/public/spot"),
        requests=_requests,
        parse=parse_frame,
        max_symbols=200,
        request_interval_s=0.25,
        ping=Ping('{"op":"ping"}', 20.0),
        backfill=Backfill(
            default_url="https://api.bybit.com",
            interval_s=0.1,
            page=partial(page_path, last if last in _CATEGORIES else _CATEGORIES[0]),
            read=read_page,
            newest_first=True,
        ),
    )


def _requests(symbols: Sequence[str], first: int) -> list[Request]:
    topics = [f"{CHANNEL}.{symbol}" for symbol in symbols]
    parts = [topics[at : at + TOPICS_PER_REQUEST] for at in range(0, len(topics), TOPICS_PER_REQUEST)]
    return [_subscribe(part, str(number)) for number, part in enumerate(parts, first)]


def _subscribe(topics: Sequence[str], number: str) -> Request:
    request = {"op": "subscribe", "args": list(topics), "req_id": number}
    return Request(json.dumps(request, separators=(",", ":")), (number,))

"""What a server's message tells, pure. Parsing the JSON of 100 prices for every user would cost more than all the rest.

So only the first message of each tick is parsed whole (:func:`read_fully`); those whose ``data`` has the same bytes
are the same. Others are searched for what a probe's batch is about: its first price, and the addresses it has.
"""

import json
import re
from typing import Any, Final, NamedTuple

__all__ = ["Message", "Reader", "planned_us", "read_fully"]

UNNUMBERED: Final = frozenset({"heartbeat", "gap"})

_HEAD: Final = re.compile(rb'\{"type":"(token_update|token_batch)","sequence":(\d+),"timestamp":\d+,"data":')
_PRICE: Final = re.compile(rb'"price":"([0-9.]+)"')
_ADDRESS: Final = re.compile(rb'"address":"([^"]*)"')
_PLACES: Final = 6


class Message(NamedTuple):
    """``planned_us`` is 0 where there is no price, ``updates`` counts values, ``tokens`` are those that they are of,
    ``data`` is only there for the rest."""

    type: str
    sequence: int
    planned_us: int
    updates: int
    tokens: frozenset[bytes]
    data: dict[str, Any]

    @property
    def is_numbered(self) -> bool:
        """Whether ``sequence`` is a number of its own."""
        return self.type not in UNNUMBERED


def planned_us(price: bytes) -> int:
    """The instant that a probe's price tells, in microseconds. Raises ValueError if it can be no probe's price."""
    whole, _, fraction = price.partition(b".")
    if len(fraction) > _PLACES:
        raise ValueError(f"{price[:40].decode('ascii', 'replace')} is finer than a microsecond: not a probe's price")
    return int(whole) * 1_000_000 + (int(fraction.ljust(_PLACES, b"0")) if fraction else 0)


class Reader:
    """Reads messages of one server. One for all users of a process, since they get the same ticks."""

    def __init__(self) -> None:
        self._body = b""
        self._known = Message("", 0, 0, 0, frozenset(), {})

    def read(self, payload: bytes) -> Message:
        """Read a message. Raises ValueError if it is none of a probe's."""
        head = _HEAD.match(payload)
        if head is None:
            return read_fully(payload)
        known = self._known
        body = payload[head.end() :]
        if body == self._body:
            return Message(known.type, int(head[2]), known.planned_us, known.updates, known.tokens, {})
        price = _PRICE.search(body)
        updates = body.count(b'"address":')
        if price is None or updates >= known.updates or planned_us(price[1]) != known.planned_us:
            message = read_fully(payload)
            self._known, self._body = message, body
            return message
        tokens = frozenset(_ADDRESS.findall(body))
        return Message(head[1].decode(), int(head[2]), known.planned_us, updates, tokens, {})


def read_fully(payload: bytes) -> Message:
    """Parse all of a message. Raises ValueError if it is none, or its prices differ from each other."""
    message = json.loads(payload)
    try:
        kind, sequence, data = message["type"], message["sequence"], message["data"]
        if kind == "token_batch":
            updates = data["updates"]
        elif kind == "token_update":
            updates = [data]
        else:
            return Message(kind, sequence, 0, 0, frozenset(), data)
        prices = {update["price"] for update in updates}
        tokens = frozenset(update["address"].encode() for update in updates)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not a message of the protocol: {error!r}") from None
    if len(prices) != 1:
        raise ValueError(f"{len(prices)} different prices in one message of a probe")
    return Message(kind, sequence, planned_us(prices.pop().encode()), len(updates), tokens, {})

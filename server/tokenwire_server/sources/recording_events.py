"""What stands on the lines of a recorded tape beside captured frames: one JSON object each, pure.

A recorded tape is a captured one (``<receive time>: <text>`` a line, see ``tape_file``) that begins with a
:class:`Recorded`. A text that begins with ``{"tokenwire":`` is one of the events below; every other text is a frame,
verbatim, of the source that the latest :class:`Frames` names. Sources without frames (the simulator, ccxt, pollers,
another tape) have what they delivered in :class:`Trades`, :class:`Values` and the others instead. Numbers are text.

An exchange's holes are those that it told of (:class:`Gap`): what was fetched to fill one stands in a
:class:`Trades` behind the frames that showed it. Order books are not recorded.
"""

from typing import Final

import msgspec

from tokenwire_server.market.trades import TokenInfo, Trade
from tokenwire_server.market.values import TokenValue
from tokenwire_server.sources.frames import FormatError

__all__ = [
    "EVENT_MARK",
    "RECORDING_VERSION",
    "Clock",
    "Event",
    "EventStruct",
    "Frames",
    "Gap",
    "OddFrame",
    "Recorded",
    "Rejected",
    "Tokens",
    "Trades",
    "Values",
    "event_text",
    "read_event",
]

RECORDING_VERSION: Final = 1
EVENT_MARK: Final = '{"tokenwire":'


class EventStruct(msgspec.Struct, frozen=True, tag_field="tokenwire", omit_defaults=True):
    """One of them; its tag stands under ``tokenwire``."""


class Recorded(EventStruct, frozen=True, tag="recording"):
    """The first line: of which sources the tape is, by name. A reader refuses a higher ``version`` than it knows."""

    version: int
    sources: tuple[str, ...]


class Frames(EventStruct, frozen=True, tag="frames"):
    """The frames that follow are those of ``source``, in the format of this exchange."""

    source: str
    format: str


class OddFrame(EventStruct, frozen=True, tag="frame"):
    """A frame of ``source`` that is no single line of text: as ``text``, or as ``data`` if it was binary."""

    source: str
    text: str | None = None
    data: bytes | None = None


class Tokens(EventStruct, frozen=True, tag="tokens"):
    """Descriptions of tokens, before their first trade."""

    source: str
    tokens: tuple[TokenInfo, ...]


class Trades(EventStruct, frozen=True, tag="trades"):
    """Trades in the order of the source, while its event clock showed ``clock_ms`` (if it moved on)."""

    source: str
    trades: tuple[Trade, ...]
    clock_ms: int | None = None


class Values(EventStruct, frozen=True, tag="values"):
    """Values that the source states."""

    source: str
    values: tuple[TokenValue, ...]


class Clock(EventStruct, frozen=True, tag="clock"):
    """The source's event time moved on to ``time_ms`` (Unix ms)."""

    source: str
    time_ms: int


class Gap(EventStruct, frozen=True, tag="gap"):
    """``missed`` trades of the token never arrived."""

    source: str
    token: str
    missed: int


class Rejected(EventStruct, frozen=True, tag="rejected"):
    """Something that a source without frames could not use."""

    source: str
    reason: str
    detail: str


Event = Recorded | Frames | OddFrame | Tokens | Trades | Values | Clock | Gap | Rejected

_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(Event)


def event_text(event: Event) -> bytes:
    """The event on one line, without its end."""
    return _encoder.encode(event)


def read_event(text: str) -> Event:
    """The event that a text says. Raises FormatError ``bad_event``."""
    try:
        event: Event = _decoder.decode(text)
    except (msgspec.MsgspecError, ArithmeticError, RecursionError) as error:
        raise FormatError("bad_event", error) from None
    return event

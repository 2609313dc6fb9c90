"""What a Socket.IO client may send, checked before the library sees it. Pure.

The library takes every shape of packet, nests as deep as the text does, and logs a traceback for most of what it
can't read. So each message is read here first, and what is passed on is written anew: the heartbeat, the connect
and disconnect of a namespace, and events of the four known names with one flat list of names.

Engine.IO 4: the first character is the packet's type, ``3`` a pong, ``1`` a close, ``4`` a message. Socket.IO 5: the
second one is the type within a message, ``0`` connect, ``1`` disconnect, ``2`` event, ``3`` acknowledgement.
"""

import json
import re
from typing import Final

from websockets.frames import Frame, Opcode

from tokenwire_schemas.errors import ErrorCode
from tokenwire_schemas.limits import MAX_BATCH
from tokenwire_server.validation.messages import RequestError

__all__ = ["ACTIONS", "CLOSE", "INVALID", "PONG", "event_frame", "read_packet"]

CLOSE: Final = "1"
PONG: Final = "3"
INVALID: Final = "invalid"
"""The event that a malformed one is passed on as, so that its acknowledgement can say what was wrong."""
ACTIONS: Final = {"join": "join", "subscribe": "join", "leave": "leave", "unsubscribe": "leave"}
"""The events that are understood, and what each means."""

_CONNECT: Final = re.compile(r"40(/[^,?{]{1,128},)?")
_DISCONNECT: Final = "41"
_EVENT: Final = re.compile(r"42(\d{0,15})(\[.*)", re.DOTALL)
_ACKNOWLEDGEMENT: Final = "43"


def event_frame(event: str, data: bytes) -> bytes:
    """The WebSocket frame of one event; ``data`` is JSON, as is ``event`` once it stands in quotes."""
    return bytes(Frame(Opcode.TEXT, b'42["%b",%b]' % (event.encode(), data)).serialize(mask=False))


def read_packet(text: str) -> str:
    """The text to hand on to the library; empty if the packet needs no answer.

    Raises:
        RequestError: INVALID_MESSAGE or INVALID_JSON, for what is no packet of a client.
    """
    if text.startswith(PONG):
        return PONG
    if text in (CLOSE, _DISCONNECT):
        return text
    if (connect := _CONNECT.match(text)) is not None:
        return connect[0]  # without what a client says of itself: nothing here asks for it
    if text.startswith(_ACKNOWLEDGEMENT):
        return ""  # nothing sent here asks for one
    event = _EVENT.fullmatch(text)
    if event is None:
        raise RequestError(ErrorCode.INVALID_MESSAGE, "not a Socket.IO packet that a client sends here")
    try:
        # Numbers are no names, and may have a million digits.
        arguments = json.loads(event[2], parse_int=_nothing, parse_float=_nothing, parse_constant=_nothing)
    except (ValueError, RecursionError):
        raise RequestError(ErrorCode.INVALID_JSON, "the event is not JSON") from None
    return f"42{event[1]}{json.dumps(_checked(arguments))}"


def _checked(arguments: list[object]) -> list[object]:
    try:
        name = arguments[0] if arguments else None
        if not isinstance(name, str) or name not in ACTIONS:
            names = ", ".join(ACTIONS)
            raise RequestError(ErrorCode.UNKNOWN_TYPE, f"unknown event; this server accepts {names}")
        return [name, _names(arguments[1:])]
    except RequestError as error:
        return [INVALID, error.code, str(error)]


def _names(arguments: list[object]) -> list[str | None]:
    names: list[object] = []
    for argument in arguments:
        given = argument.get("tokens") if isinstance(argument, dict) else argument
        if isinstance(given, list):
            names += given
        else:
            names.append(given)
    if not any(name is not None for name in names):
        raise RequestError(ErrorCode.INVALID_MESSAGE, "give a token, a list of tokens, or {tokens: […]}")
    if len(names) > MAX_BATCH:
        raise RequestError(ErrorCode.BATCH_LIMIT, f"at most {MAX_BATCH} tokens in one message, not {len(names)}")
    return [name if isinstance(name, str) else None for name in names]


def _nothing(_: str) -> None:
    return None

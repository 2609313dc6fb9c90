"""What a server's text means, read as liberally as it can be understood (I-24, I-31).

The typed decoder is the fast way. What it refuses is looked at once more: an unknown type is survived and keeps its
number, an optional field with a value of the future is left out, and only the rest is invalid.
"""

from typing import Any, Final

import msgspec
from msgspec import UNSET

from tokenwire_schemas.codec import CodecError, decode_extended_message
from tokenwire_schemas.extension_messages import (
    ExtendedConnection,
    ExtendedConnectionData,
    ExtendedError,
    ExtendedErrorData,
    ExtendedServerMessage,
    ExtendedSubscription,
    ExtendedSubscriptionData,
    ExtendedTokenUpdateData,
    Gap,
    GapData,
    Heartbeat,
    HeartbeatData,
    Kline,
    Transaction,
)
from tokenwire_schemas.limits import MAX_SEQUENCE

__all__ = ["Unread", "read"]


class Unread(msgspec.Struct, frozen=True):
    """A message whose content is of no use. ``problem`` is None when it is merely of an unknown type.

    ``sequence`` is the number it takes in the stream, None when it has none that can be relied on.
    """

    problem: str | None
    sequence: int | None = None
    timestamp: int = 0


class _Shell(msgspec.Struct, frozen=True):
    type: str
    sequence: int
    timestamp: int
    data: dict[str, Any]


class _Numbered(msgspec.Struct, frozen=True):
    type: str
    sequence: int


_shell: Final = msgspec.json.Decoder(_Shell)
_numbered: Final = msgspec.json.Decoder(_Numbered)

_KNOWN: Final = frozenset(str(kind.__struct_config__.tag) for kind in ExtendedServerMessage.__args__)
_UNNUMBERED: Final = frozenset({"heartbeat", "gap"})
_DATA: Final[dict[str, type[msgspec.Struct]]] = {
    "connection": ExtendedConnectionData,
    "subscription": ExtendedSubscriptionData,
    "token_update": ExtendedTokenUpdateData,
    "error": ExtendedErrorData,
    "heartbeat": HeartbeatData,
    "gap": GapData,
}
_INTEGERS: Final[dict[type, tuple[str, ...]]] = {
    ExtendedConnection: (
        "max_subscriptions",
        "replay_from",
        "heartbeat_ms",
        "idle_timeout_ms",
        "resume_window_ms",
        "max_message_bytes",
        "max_batch",
        "update_interval_ms",
    ),
    ExtendedSubscription: ("active",),
    ExtendedError: ("retry_after_ms",),
    Heartbeat: ("pending",),
    Gap: ("first", "last"),
    Transaction: ("version",),
    Kline: ("version",),
}
"""What is checked of each kind; values of tokens are checked one by one where they are applied."""
_MAX_PROBLEM_CHARS: Final = 300


def read(text: str | bytes) -> ExtendedServerMessage | Unread:
    """The message in ``text``; never raises. Its integers, save those of single values, are in their ranges."""
    try:
        message = decode_extended_message(text)
    except CodecError as error:
        found = _salvage(text, str(error)[:_MAX_PROBLEM_CHARS])
        if isinstance(found, Unread):
            return found
        message = found
    if not 0 <= message.sequence <= MAX_SEQUENCE:
        return Unread("sequence is out of range")
    kind = type(message)
    if 0 <= message.timestamp <= MAX_SEQUENCE:
        names = _INTEGERS.get(kind)
        if names is None or all(_is_in_range(getattr(message.data, name)) for name in names):
            return message
    tag = str(kind.__struct_config__.tag)
    numbered = message.sequence if message.sequence > 0 and tag not in _UNNUMBERED else None
    return Unread(f"{tag}: an integer is out of range", numbered)


def _is_in_range(value: object) -> bool:
    return not isinstance(value, int) or 0 <= value <= MAX_SEQUENCE


def _salvage(text: str | bytes, problem: str) -> ExtendedServerMessage | Unread:
    try:
        numbered = _numbered.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return Unread(problem)
    kind, sequence = numbered.type, numbered.sequence
    if not 1 <= sequence <= MAX_SEQUENCE:
        return Unread("sequence is out of range")
    if kind not in _KNOWN:
        return Unread(None, sequence)
    number = None if kind in _UNNUMBERED else sequence
    try:
        shell = _shell.decode(text)
        return _without_strangers(shell, problem, number)
    except (msgspec.DecodeError, UnicodeError, RecursionError, OverflowError):
        return Unread(problem, number)


def _without_strangers(shell: _Shell, problem: str, number: int | None) -> ExtendedServerMessage | Unread:
    """The message without those optional fields whose values cannot be read."""
    kind = _DATA.get(shell.type)
    if kind is None:
        return Unread(problem, number)
    data = dict(shell.data)
    for field in msgspec.structs.fields(kind):
        name = field.encode_name
        if name not in data or field.default is not UNSET:
            continue
        try:
            msgspec.convert(data[name], field.type)
        except msgspec.ValidationError:
            del data[name]
    whole = {"type": shell.type, "sequence": shell.sequence, "timestamp": shell.timestamp, "data": data}
    message: ExtendedServerMessage = msgspec.convert(whole, type=ExtendedServerMessage)
    return message

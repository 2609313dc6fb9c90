"""Validation of what clients send. Liberal in, exact out: unknown fields are ignored, wrong types are not."""

from typing import Final, Literal, Protocol

import msgspec

from tokenwire_schemas.errors import ErrorCode
from tokenwire_schemas.limits import (
    MAX_BATCH,
    MAX_CHANNEL_CHARS,
    MAX_CHANNELS,
    MAX_ECHO_CHARS,
    MAX_KNOWN,
    MAX_REQUEST_ID_CHARS,
    MAX_SEQUENCE,
    MAX_TOKEN_NAME_CHARS,
)

__all__ = [
    "AckRequest",
    "Granted",
    "PingRequest",
    "ReplayRequest",
    "Request",
    "RequestError",
    "SubscriptionRequest",
    "check_request",
    "is_usable_name",
]

_ECHO_CHARS: Final = 64
_ACTIONS: Final[dict[str, Literal["subscribe", "unsubscribe"]]] = {
    "subscribe": "subscribe",
    "unsubscribe": "unsubscribe",
}


class RequestError(ValueError):
    """A message that is JSON but no valid request; ``code`` and text go to the client."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class SubscriptionRequest(msgspec.Struct, frozen=True):
    """A valid subscription message; a name in ``tokens`` may still be anything.

    ``known`` are versions that the client has of ``stream`` (I-55), ``after`` the numbers of its newest trades;
    ``request_id`` comes back with details (I-53). ``channels`` is None where none are named (I-60).
    """

    action: Literal["subscribe", "unsubscribe"]
    tokens: list[object]
    sequence: int | None = None
    request_id: str | None = None
    known: dict[str, int] | None = None
    stream: str | None = None
    channels: tuple[str, ...] | None = None
    after: dict[str, int] | None = None


class Granted(Protocol):
    """What a client was granted, as far as it decides what it may ask for."""

    @property
    def resume(self) -> bool: ...
    @property
    def details(self) -> bool: ...
    @property
    def channels(self) -> bool: ...


class AckRequest(msgspec.Struct, frozen=True):
    """Everything up to ``number`` has arrived (I-59)."""

    number: int
    sequence: int | None = None


class ReplayRequest(msgspec.Struct, frozen=True):
    """Numbers ``first`` to ``last`` are wanted once more (I-58)."""

    first: int
    last: int
    sequence: int | None = None


class PingRequest(msgspec.Struct, frozen=True):
    """Wants a heartbeat with this ``echo`` (I-57)."""

    echo: str | int | float | None
    sequence: int | None = None


Request = SubscriptionRequest | AckRequest | ReplayRequest | PingRequest


def check_request(message: dict[str, object], granted: Granted) -> Request:
    """The request that ``message`` (a decoded JSON object) makes.

    Raises:
        RequestError: INVALID_MESSAGE, UNKNOWN_TYPE, INVALID_ACTION or BATCH_LIMIT, naming the field.
    """
    kind = message.get("type")
    if not isinstance(kind, str):
        raise _invalid("type", kind, "a string")
    accepted = ["subscription", "ack", "ping", *(["replay"] if granted.resume else [])]
    if kind not in accepted:
        names = f"{', '.join(accepted[:-1])} and {accepted[-1]}"
        raise RequestError(ErrorCode.UNKNOWN_TYPE, f"unknown type {_echo(kind)}; this server accepts {names}")
    sequence = _whole_number(message, "sequence", MAX_SEQUENCE)
    _whole_number(message, "timestamp", MAX_SEQUENCE)
    data = message.get("data", {} if kind == "ping" else None)
    if not isinstance(data, dict):
        raise _invalid("data", data, "an object")
    if kind == "ack":
        return AckRequest(_number_in(data, "sequence", 0), sequence)
    if kind == "ping":
        return PingRequest(_echo_of(data), sequence)
    if kind == "replay":
        first, last = _number_in(data, "from", 1), _number_in(data, "to", 1)
        if first > last:
            raise RequestError(ErrorCode.INVALID_MESSAGE, f"data.from {first} is above data.to {last}")
        return ReplayRequest(first, last, sequence)
    return _subscription(data, sequence, granted)


def _subscription(data: dict[str, object], sequence: int | None, granted: Granted) -> SubscriptionRequest:
    action = data.get("action")
    if not isinstance(action, str):
        raise _invalid("data.action", action, "a string")
    if action not in _ACTIONS:
        raise RequestError(ErrorCode.INVALID_ACTION, f"unknown action {_echo(action)}; use subscribe or unsubscribe")
    tokens = data.get("tokens")
    if not isinstance(tokens, list) or not tokens:
        raise _invalid("data.tokens", tokens, "a list of at least one address or symbol")
    if len(tokens) > MAX_BATCH:
        raise RequestError(
            ErrorCode.BATCH_LIMIT,
            f"{len(tokens)} tokens in one message; at most {MAX_BATCH}, nothing was applied",
        )
    request_id = _text_in(data, "requestId", MAX_REQUEST_ID_CHARS) if granted.details else None
    stream = _text_in(data, "stream", MAX_TOKEN_NAME_CHARS)
    return SubscriptionRequest(
        _ACTIONS[action],
        tokens,
        sequence,
        request_id,
        _numbers_of(data, "known"),
        stream,
        _channels(data) if granted.channels else None,
        _numbers_of(data, "after") if granted.channels else None,
    )


def _numbers_of(data: dict[str, object], field: str) -> dict[str, int] | None:
    if field not in data:
        return None
    numbers = data[field]
    if not isinstance(numbers, dict):
        raise _invalid(f"data.{field}", numbers, "an object from addresses to numbers")
    if len(numbers) > MAX_KNOWN:
        raise RequestError(ErrorCode.INVALID_MESSAGE, f"data.{field} has {len(numbers)} entries; at most {MAX_KNOWN}")
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= MAX_SEQUENCE:
            raise _invalid(f"data.{field}[{_echo(name)}]", number, "an integer from 0 to 2^53-1")
    return numbers


def _channels(data: dict[str, object]) -> tuple[str, ...] | None:
    if "channels" not in data:
        return None
    channels = data["channels"]
    wanted = f"a list of 1 to {MAX_CHANNELS} names"
    if not isinstance(channels, list) or not channels:
        raise _invalid("data.channels", channels, wanted)
    if len(channels) > MAX_CHANNELS:
        raise RequestError(ErrorCode.INVALID_MESSAGE, f"data.channels has {len(channels)} names; it must be {wanted}")
    names: dict[str, None] = {}
    for number, name in enumerate(channels):
        if not isinstance(name, str) or not 0 < len(name) <= MAX_CHANNEL_CHARS or not name.isprintable():
            raise _invalid(f"data.channels[{number}]", name, f"a string of 1 to {MAX_CHANNEL_CHARS} characters")
        names[name] = None
    return tuple(names)


def _text_in(data: dict[str, object], field: str, most: int) -> str | None:
    if field not in data:
        return None
    value = data[field]
    if not isinstance(value, str) or not 0 < len(value) <= most or not _is_encodable(value):
        raise _invalid(f"data.{field}", value, f"a string of 1 to {most} characters")
    return value


def _number_in(data: dict[str, object], field: str, least: int) -> int:
    value = data.get(field)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_SEQUENCE:
        raise _invalid(f"data.{field}", value, f"an integer from {least} to 2^53-1")
    return value


def _echo_of(data: dict[str, object]) -> str | int | float | None:
    if "echo" not in data:
        return None
    echo = data["echo"]
    if isinstance(echo, str) and len(echo) <= MAX_ECHO_CHARS and _is_encodable(echo):
        return echo
    if isinstance(echo, (int, float)) and not isinstance(echo, bool) and abs(echo) <= MAX_SEQUENCE:
        return echo
    raise _invalid("data.echo", echo, f"a string of at most {MAX_ECHO_CHARS} characters or a number within 2^53-1")


def _is_encodable(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def is_usable_name(name: object) -> bool:
    """Whether ``name`` can be a token's address or symbol: 1 to 256 printable characters."""
    return isinstance(name, str) and 0 < len(name) <= MAX_TOKEN_NAME_CHARS and name.isprintable()


def _whole_number(message: dict[str, object], field: str, largest: int) -> int | None:
    value = message.get(field)
    if value is None and field not in message:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= largest:
        raise _invalid(field, value, "an integer from 0 to 2^53-1")
    return value


def _invalid(field: str, value: object, wanted: str) -> RequestError:
    found = "is missing" if value is None else f"is {_JSON_NAMES.get(type(value), 'something else')}"
    if isinstance(value, (list, str)) and not value:
        found = "is empty"
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and wanted.startswith("an integer"):
        found = "has a fraction" if isinstance(value, float) and abs(value) < MAX_SEQUENCE else "is out of range"
    return RequestError(ErrorCode.INVALID_MESSAGE, f"{field} {found}; it must be {wanted}")


_JSON_NAMES: Final[dict[type, str]] = {
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}


def _echo(text: str) -> str:
    shown = text if len(text) <= _ECHO_CHARS else text[:_ECHO_CHARS] + "…"
    return ascii(shown) if not shown.isprintable() else f"'{shown}'"

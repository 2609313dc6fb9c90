"""Validation of what clients send. Liberal in, exact out: unknown fields are ignored, wrong types are not."""

from typing import Final, Literal

import msgspec

from tokenwire_schemas.errors import ErrorCode
from tokenwire_schemas.limits import MAX_BATCH, MAX_SEQUENCE, MAX_TOKEN_NAME_CHARS

__all__ = ["RequestError", "SubscriptionRequest", "check_request", "is_usable_name"]

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
    """A valid subscription message; a name in ``tokens`` may still be anything."""

    action: Literal["subscribe", "unsubscribe"]
    tokens: list[object]
    sequence: int | None


def check_request(message: dict[str, object]) -> SubscriptionRequest:
    """The request that ``message`` (a decoded JSON object) makes.

    Raises:
        RequestError: INVALID_MESSAGE, UNKNOWN_TYPE, INVALID_ACTION or BATCH_LIMIT, naming the field.
    """
    kind = message.get("type")
    if not isinstance(kind, str):
        raise _invalid("type", kind, "a string")
    if kind != "subscription":
        raise RequestError(ErrorCode.UNKNOWN_TYPE, f"unknown type {_echo(kind)}; this server accepts subscription")
    sequence = _whole_number(message, "sequence", MAX_SEQUENCE)
    _whole_number(message, "timestamp", MAX_SEQUENCE)
    data = message.get("data")
    if not isinstance(data, dict):
        raise _invalid("data", data, "an object")
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
    return SubscriptionRequest(_ACTIONS[action], tokens, sequence)


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

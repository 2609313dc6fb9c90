"""What the messages of one connection must look like: pure functions over what was received.

Each yields a ``Finding`` for every mistake that it sees, in the order of the messages, and says nothing about what
another one judges: a message with a wrong number is a finding of ``sequence_contiguous`` only.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from tokenwire_conformance.figures import (
    COMPRESSION_THRESHOLD_BYTES,
    CONNECTION_TIMEOUT_S,
    MAX_BATCH,
    MAX_MESSAGE_BYTES,
    SLACK_S,
)
from tokenwire_conformance.wire.frames import Opcode
from tokenwire_conformance.wire.messages import Received, shown
from tokenwire_schemas.schema_files import SCHEMAS

__all__ = [
    "TYPES", "Checker", "Finding", "after_fatal", "batch_sizes", "compression", "connection_data", "distinct_ids",
    "end_status", "envelope", "error_data", "four_keys", "greeting", "mistake_text", "only_subscribed",
    "sequence_contiguous", "sequence_first", "sizes", "strict_json", "strict_types", "subscription_data", "text_frames",
    "timestamps_near_now", "timestamps_ordered", "update_data",
]  # fmt: skip

TYPES: Final = ("connection", "token_update", "subscription", "error")
"""Of the specification: what a server may send with nothing negotiated."""
CLOCK_SKEW_MS: Final = 60_000
"""What the clocks of the suite and the server may differ by, together with the way of a message."""

_KEYS: Final = frozenset({"type", "sequence", "timestamp", "data"})
_DECIMAL: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\Z")
"""What can be read as a decimal number, canonical or not."""

_SHORT_BYTES: Final = 4_096
"""Of a message whose mistakes are kept."""

_HUGE: Final = 10**300  # what is larger cannot be computed with; 1e400 even reads as infinity


@dataclass(frozen=True, slots=True)
class Finding:
    """A mistake in what a connection received."""

    clause: str
    message: str
    index: int
    """Of the message, from 0."""


Checker = Callable[[Sequence[Received]], Iterator[Finding]]


# --- the envelope ------------------------------------------------------------------------------------------
def text_frames(messages: Sequence[Received]) -> Iterator[Finding]:
    """Every message is a text message."""
    for index, message in enumerate(messages):
        if message.opcode is not Opcode.TEXT:
            yield Finding("MB.text-frame", f"a binary message of {len(message.payload)} bytes", index)


def strict_json(messages: Sequence[Received]) -> Iterator[Finding]:
    """No byte order mark, and no other encoding than UTF-8."""
    for index, message in enumerate(messages):
        if message.payload.startswith(b"\xef\xbb\xbf"):
            yield Finding("MB.strict-json", "the text begins with a byte order mark", index)
        elif b"\0" in message.payload:
            yield Finding("MB.strict-json", "the text holds zero bytes, as UTF-16 does", index)


def envelope(messages: Sequence[Received]) -> Iterator[Finding]:
    """One JSON object; what it has of the four keys is of the right type. A missing key is up to ``four_keys``."""
    for index, message in enumerate(messages):
        fields = message.json
        if not isinstance(fields, dict):
            yield Finding("MB.object", f"not a JSON object (of 200 levels at most): {message.brief()}", index)
            continue
        if "data" in fields and not isinstance(fields["data"], dict):
            yield Finding("MB.object", f"data is {_shown(fields['data'])} and not an object", index)
        if "type" in fields and not isinstance(fields["type"], str):
            yield Finding("MB.type", f"type is {_shown(fields['type'])} and not a string", index)
        for key in ("sequence", "timestamp"):
            if key in fields and _number(fields[key]) is None:
                yield Finding(f"MB.{key}", f"{key} is {_shown(fields[key])} and not a number", index)


def four_keys(messages: Sequence[Received]) -> Iterator[Finding]:
    """An object has the keys type, sequence, timestamp and data, all of them and no other."""
    for index, message in enumerate(messages):
        if isinstance(message.json, dict) and (keys := frozenset(message.json)) != _KEYS:
            missing, further = sorted(_KEYS - keys), sorted(keys - _KEYS)
            told = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has {', '.join(further)}"] * bool(further)
            yield Finding("MB.four-keys", f"a message {' and '.join(told)}: {message.brief()}", index)


def strict_types(messages: Sequence[Received]) -> Iterator[Finding]:
    """No type but the four of the specification."""
    for index, message in enumerate(messages):
        if message.type is not None and message.type not in TYPES:
            yield Finding("MB.strict-types", f"a message of the type {_shown(message.type)}", index)


def sequence_first(messages: Sequence[Received]) -> Iterator[Finding]:
    """The first message has the number 1."""
    for index, message in enumerate(messages[:1]):
        number = _number(message.envelope.get("sequence"))
        if number != 1:
            told = "no number" if number is None else f"the number {number}"
            yield Finding("MB.sequence-first", f"the first message has {told}", index)


def sequence_contiguous(messages: Sequence[Received]) -> Iterator[Finding]:
    """Each number is the one before plus one, whatever the types. What has no number breaks the row as well."""
    last: float | None = None
    for index, message in enumerate(messages):
        number = _number(message.envelope.get("sequence"))
        if number is None:
            yield Finding("MB.sequence", f"a message without a number: {message.brief()}", index)
        elif last is not None and number <= last:
            yield Finding("MB.sequence", f"number {number} ({message.type}) came after {last}", index)
        elif last is not None and number != last + 1:
            told = f"number {number} ({message.type}) came after {last}, where {last + 1} was due"
            yield Finding("MB.sequence-contiguous", told, index)
        last = last if number is None else number


def timestamps_near_now(messages: Sequence[Received]) -> Iterator[Finding]:
    """The timestamp is the time of receipt in milliseconds, give or take ``CLOCK_SKEW_MS``."""
    for index, message in enumerate(messages):
        stamp = _number(message.envelope.get("timestamp"))
        if stamp is not None and abs(stamp - message.wall_ms) > CLOCK_SKEW_MS:
            told = f"the timestamp {stamp} came at {message.wall_ms:.0f}"
            for unit, factor in (("seconds", 1000), ("microseconds", 1e-3), ("nanoseconds", 1e-6)):
                if abs(stamp * factor - message.wall_ms) <= CLOCK_SKEW_MS:
                    told += f": it counts {unit}"
            yield Finding("MB.timestamp-near-now", told, index)


def timestamps_ordered(messages: Sequence[Received]) -> Iterator[Finding]:
    """Timestamps are whole numbers and never decrease."""
    last: float | None = None
    for index, message in enumerate(messages):
        stamp = _number(message.envelope.get("timestamp"))
        if stamp is None:
            continue
        if stamp != int(stamp):
            yield Finding("MB.timestamp-order", f"the timestamp {stamp} is no whole number", index)
        elif last is not None and stamp < last:
            yield Finding("MB.timestamp-order", f"the timestamp {stamp} came after {last}", index)
        last = stamp


# --- data --------------------------------------------------------------------------------------------------
_FIELDS: Final = {"connection": "MC.fields", "token_update": "MU.fields", "subscription": "MS.fields",
                  "error": "ME.fields"}  # fmt: skip
_CLAUSES: Final[Mapping[tuple[str, str, str], str | None]] = {
    ("connection", "status", "enum"): "MC.status",
    ("connection", "connectionId", "type"): "MC.connection-id",
    ("connection", "connectionId", "pattern"): "MC.connection-id",
    ("connection", "maxSubscriptions", "type"): "MC.max-subscriptions",
    # Zero, or -1 for no limit, is a whole number too.
    ("connection", "maxSubscriptions", "minimum"): None,
    ("token_update", "address", "type"): "MU.address",
    ("token_update", "address", "minLength"): "MU.address-form",
    ("token_update", "address", "maxLength"): "MU.address-form",
    ("token_update", "price", "type"): "MU.price",
    ("token_update", "price", "pattern"): "MU.price",
    ("token_update", "marketCap", "type"): "MU.market-cap",
    ("token_update", "marketCap", "pattern"): "MU.market-cap",
    ("token_update", "volume", "type"): "MU.volume",
    ("token_update", "volume", "pattern"): "MU.volume-decimal",
    ("subscription", "action", "enum"): "MS.action",
    ("subscription", "tokens", "type"): "MS.tokens",
    ("subscription", "tokens", "minItems"): "MS.answer-order",
    # Up to ``batch_sizes``.
    ("subscription", "tokens", "maxItems"): None,
    ("subscription", "tokens", "maxLength"): "MS.refused-echo",
    ("subscription", "status", "enum"): "MS.status",
    ("error", "code", "type"): "ME.code",
    ("error", "code", "pattern"): "ME.catalogue",
    ("error", "message", "type"): "ME.message",
    # An empty text is a string too.
    ("error", "message", "minLength"): None,
    ("error", "level", "enum"): "ME.level",
}
"""Type of the message, field of data, keyword of the schema → clause. The specification's are cited only for what it
says; where the schema says more, the Interpretation's."""


def connection_data(messages: Sequence[Received]) -> Iterator[Finding]:
    """Of connection messages: exactly the three fields, in their types."""
    yield from _data("connection", messages)


def update_data(messages: Sequence[Received]) -> Iterator[Finding]:
    """Of token updates: exactly the fields, in their types, decimals canonical."""
    yield from _data("token_update", messages)


def subscription_data(messages: Sequence[Received]) -> Iterator[Finding]:
    """Of answers to subscriptions: exactly the three fields, in their types."""
    yield from _data("subscription", messages)


def error_data(messages: Sequence[Received]) -> Iterator[Finding]:
    """Of error messages: exactly the three fields, in their types."""
    yield from _data("error", messages)


@cache
def _validator(kind: str) -> Draft202012Validator:
    schema: Any = SCHEMAS[f"strict/server/{kind}"]
    return Draft202012Validator(_inlined(schema, schema.get("$defs", {})))


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """The schema with its definitions in place of references to them, which are slow to follow."""
    if isinstance(schema, list):
        return [_inlined(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    name = schema.get("$ref")
    if isinstance(name, str):
        return _inlined(definitions[name.removeprefix("#/$defs/")], definitions)
    return {key: _inlined(value, definitions) for key, value in schema.items() if key != "$defs"}


def _data(kind: str, messages: Sequence[Received]) -> Iterator[Finding]:
    for index, message in enumerate(messages):
        if message.type != kind or not isinstance(message.envelope.get("data"), dict):
            continue
        judge = _mistakes if len(message.payload) <= _SHORT_BYTES else _mistakes.__wrapped__
        for clause, text in judge(kind, message.payload):
            yield Finding(clause, text, index)


@lru_cache(maxsize=20_000)
def _mistakes(kind: str, payload: bytes) -> tuple[tuple[str, str], ...]:
    """Clause and text of each; kept, since several cases judge the same messages."""
    found = []
    try:
        errors = list(_validator(kind).iter_errors(json.loads(payload)))
    except RecursionError:
        return ((_FIELDS[kind], f"{kind}: nested so deeply that it cannot be judged"),)
    for error in errors:
        clause = _clause(kind, error)
        if clause is not None:
            where = ".".join(map(str, error.absolute_path))
            found.append((clause, f"{kind}, {where}: {mistake_text(error)}"))
    return tuple(found)


def mistake_text(error: ValidationError) -> str:
    """What is wrong, with the value as JSON."""
    value, wanted = shown(error.instance, 120), error.validator_value
    if error.validator == "type":
        return f"{value} is not of the type {wanted if isinstance(wanted, str) else shown(wanted)}"
    if error.validator == "enum":
        return f"{value} is none of {shown(wanted)}"
    if error.validator == "const":
        return f"{value} is not {shown(wanted)}"
    if error.validator == "pattern":
        return f"{value} does not match {wanted}"
    return error.message[:200]


def _clause(kind: str, error: ValidationError) -> str | None:
    path = list(error.absolute_path)
    if path[:1] != ["data"]:
        return None  # the envelope has checkers of its own
    keyword = str(error.validator)
    if keyword in {"required", "additionalProperties"}:
        return _FIELDS[kind]
    if keyword == "pattern" and kind == "token_update" and _DECIMAL.match(str(error.instance)):
        return "MU.canonical"
    return _CLAUSES[kind, str(path[1]), keyword]


# --- a connection from its beginning to its end ------------------------------------------------------------
def greeting(messages: Sequence[Received]) -> Iterator[Finding]:
    """A connection message with the status connected comes first, unless a fatal error turns the client away."""
    for index, message in enumerate(messages[:1]):
        if message.type == "error" and message.data.get("level") == "fatal":
            return
        if message.type != "connection":
            yield Finding("MC.first", f"came first: {message.brief()}", index)
        elif message.data.get("status") != "connected":
            yield Finding("MC.connected", f"its status is {_shown(message.data.get('status'))}", index)


def end_status(messages: Sequence[Received]) -> Iterator[Finding]:
    """Behind a connection message with the status disconnected or error nothing comes."""
    for index, message in enumerate(messages[:-1]):
        if message.type == "connection" and message.data.get("status") in ("disconnected", "error"):
            told = f"a message came after the connection message with the status {message.data['status']}"
            yield Finding("MC.end-status", f"{told}: {messages[index + 1].brief()}", index + 1)


def after_fatal(messages: Sequence[Received]) -> Iterator[Finding]:
    """Behind a fatal error only a connection message comes, and after the time of a close handshake nothing."""
    fatal_s: float | None = None
    for index, message in enumerate(messages):
        if fatal_s is not None and message.at_s - fatal_s > CONNECTION_TIMEOUT_S + SLACK_S:
            told = f"{message.at_s - fatal_s:.1f} s after a fatal error came: {message.brief()}"
            yield Finding("ME.fatal-ends", told, index)
        elif fatal_s is not None and message.type != "connection":
            yield Finding("ME.end-order", f"behind a fatal error came: {message.brief()}", index)
        if fatal_s is None and message.type == "error" and message.data.get("level") == "fatal":
            fatal_s = message.at_s


def compression(messages: Sequence[Received], *, deflate: bool) -> Iterator[Finding]:
    """Messages of more than 1024 bytes are compressed, others are not. ``deflate``: whether it was agreed on."""
    for index, message in enumerate(messages):
        size = len(message.payload)
        if deflate and size > COMPRESSION_THRESHOLD_BYTES and not message.compressed:
            yield Finding("PF.compress-large", f"a message of {size} bytes was not compressed", index)
        elif message.compressed and size <= COMPRESSION_THRESHOLD_BYTES:
            yield Finding("PF.compress-only-large", f"a message of {size} bytes was compressed", index)


def sizes(messages: Sequence[Received]) -> Iterator[Finding]:
    """No message is larger than 1 MB, inflated."""
    for index, message in enumerate(messages):
        if len(message.payload) > MAX_MESSAGE_BYTES:
            yield Finding("CR.message-size-sent", f"a message has {len(message.payload)} bytes", index)


def batch_sizes(messages: Sequence[Received]) -> Iterator[Finding]:
    """No message names more than 1000 tokens."""
    for index, message in enumerate(messages):
        tokens = message.data.get("tokens")
        if isinstance(tokens, list) and len(tokens) > MAX_BATCH:
            yield Finding("PF.batch-size", f"a message names {len(tokens)} tokens", index)


def only_subscribed(messages: Sequence[Received], sent: Iterable[Any]) -> Iterator[Finding]:
    """Updates are of tokens that were asked for. ``sent`` holds the JSON values that the client sent.

    A server may answer with a symbol and send updates under an address. So of the tokens that nobody named, as many
    as names without an update may be what these stand for: a question of the form of addresses.
    """
    named = {name.casefold() for name in _named(messages, sent)}
    strangers: dict[str, int] = {}
    updated: set[str] = set()
    for index, message in enumerate(messages):
        address = message.data.get("address")
        if message.type != "token_update" or not isinstance(address, str):
            continue
        updated.add(address.casefold())
        if address.casefold() not in named:
            strangers.setdefault(address, index)
    clause = "MU.only-subscribed" if len(strangers) > len(named - updated) else "MU.address-form"
    for address, index in strangers.items():
        yield Finding(clause, f"an update of {address}, which no request and no answer named", index)


def _named(messages: Sequence[Received], sent: Iterable[Any]) -> Iterator[str]:
    answers = [message.data.get("tokens") for message in messages if message.type == "subscription"]
    requests = [value.get("data") for value in sent if isinstance(value, dict)]
    for tokens in (*answers, *(data.get("tokens") for data in requests if isinstance(data, dict))):
        if isinstance(tokens, list):
            yield from (token for token in tokens if isinstance(token, str))


# --- several connections -----------------------------------------------------------------------------------
def distinct_ids(connections: Sequence[Sequence[Received]]) -> Iterator[Finding]:
    """Every connection has an id of its own. ``index`` of a finding is that of the connection."""
    seen: dict[str, int] = {}
    for index, messages in enumerate(connections):
        ids = [m.data.get("connectionId") for m in messages[:1] if m.type == "connection"]
        for name in (name for name in ids if isinstance(name, str)):
            if seen.setdefault(name.lower(), index) != index:
                yield Finding("MC.fresh-id", f"two connections have the connectionId {name}", index)


def _number(value: object) -> float | None:
    """A number of JSON. 2.0 counts as 2."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < _HUGE:
        return None
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _shown(value: object) -> str:
    return shown(value, 80)

"""What a client's message means, and what it is told."""

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from conformance.tests.reference.session import encoded

if TYPE_CHECKING:
    from conformance.tests.reference.connection import Connection

__all__ = ["PROTOCOL", "Refusal", "Request", "error_data", "parse", "serve_subscription"]

PROTOCOL: Final = frozenset({"INVALID_JSON", "INVALID_MESSAGE", "UNKNOWN_TYPE", "INVALID_ACTION", "BATCH_LIMIT"})
_CATEGORIES: Final = {
    "INVALID_TOKEN": "subscription", "TOKEN_NOT_FOUND": "subscription", "SUBSCRIPTION_LIMIT": "subscription",
    "BATCH_LIMIT": "subscription", "UNKNOWN_CHANNEL": "subscription", "SEQUENCE_GAP": "delivery",
    "RESUME_FAILED": "delivery",
    "ACK_OUT_OF_RANGE": "delivery", "REPLAY_UNAVAILABLE": "delivery", "SLOW_CONSUMER": "delivery",
    "RATE_LIMITED": "limit", "MAX_CONNECTIONS": "limit", "UPSTREAM_STALE": "upstream",
}  # fmt: skip
_RETRYABLE: Final = {
    "TOKEN_NOT_FOUND": 60_000, "RATE_LIMITED": 1_000, "MAX_CONNECTIONS": 5_000, "SLOW_CONSUMER": None,
    "REPLAY_UNAVAILABLE": 1_000,
}  # fmt: skip
_MAX_NUMBER: Final = 2**53 - 1
_MAX_TEXT_BYTES: Final = 900_000


class Refusal(Exception):
    """A message is refused as a whole."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code: Final = code


@dataclass(slots=True)
class Request:
    """A message that was understood."""

    kind: str
    data: dict[str, Any]
    sequence: int | None = None
    tokens: list[Any] = field(default_factory=list)
    number: int = 0
    last: int = 0


def error_data(
    code: str, message: str, level: str, *, details: bool, request_id: str | None = None,
    names: list[str] | None = None, faults: frozenset[str] = frozenset(),
) -> dict[str, Any]:  # fmt: skip
    """``data`` of an error message."""
    data: dict[str, Any] = {"code": code, "message": message, "level": level}
    if "error_without_level" in faults:
        del data["level"]
    if "error_extra_field" in faults:
        data["details"] = {}
    if "error_own_code" in faults:
        data["code"] = f"E_{code}"
    if details and "error_details_missing" not in faults:
        data["category"] = _CATEGORIES.get(code, "protocol")
        data["retryable"] = code in _RETRYABLE
        if _RETRYABLE.get(code) is not None:
            data["retryAfterMs"] = _RETRYABLE[code]
        if request_id is not None and "request_id_missing" not in faults:
            data["requestId"] = request_id
        if names:
            data["tokens"] = names[:100]
    return data


def parse(text: str, *, resume: bool, details: bool, channels: bool, faults: frozenset[str]) -> Request:  # noqa: PLR0912
    """Read a message.

    Raises:
        Refusal: It is refused as a whole.
    """
    first = _first_counts if "first_of_repeated_key_counts" in faults else None
    try:
        message = json.loads(text, parse_constant=_refuse, object_pairs_hook=first)
    except (ValueError, RecursionError) as error:
        raise Refusal("INVALID_JSON", f"not JSON: {error}") from error
    if not isinstance(message, dict):
        raise Refusal("INVALID_MESSAGE", "not an object")
    if "refuses_unknown_fields" in faults and message.keys() - {"type", "sequence", "timestamp", "data"}:
        raise Refusal("INVALID_MESSAGE", "an unknown field")
    kind = message.get("type")
    if not isinstance(kind, str):
        raise Refusal("INVALID_MESSAGE", "type must be a string")
    known = {"subscription", "ping", "ack"} | ({"replay"} if resume else set())
    if kind not in known:
        raise Refusal("UNKNOWN_TYPE", f"unknown type {kind[:64]}")
    sequence = None
    for name in ("sequence", "timestamp"):
        if name not in message:
            if "envelope_demanded" in faults:
                raise Refusal("INVALID_MESSAGE", f"{name} is missing")
            continue
        value = _whole(message[name], faults)
        if value is None or not 0 <= value <= _MAX_NUMBER:
            if "wrong_types_pass" in faults:
                continue
            raise Refusal("INVALID_MESSAGE", f"{name} must be a whole number")
        sequence = value if name == "sequence" else sequence
    data = message.get("data")
    if not isinstance(data, dict):
        raise Refusal("INVALID_MESSAGE", "data must be an object")
    request = Request(kind, data, sequence)
    if kind == "ack":
        passes = "ack_of_any_type" in faults and "sequence" in data
        request.number = 0 if passes and not isinstance(data["sequence"], int) else _number(data, "sequence", faults)
    elif kind == "replay":
        request.number, request.last = _number(data, "from", faults), _number(data, "to", faults)
        if request.number > request.last and "replay_backwards_served" not in faults:
            raise Refusal("INVALID_MESSAGE", "from is above to")
    elif kind == "ping":
        echo = data.get("echo")
        wrong = (isinstance(echo, str) and len(echo) > 128) or isinstance(echo, (list, dict, bool))
        if wrong:
            raise Refusal("INVALID_MESSAGE", "echo must be a string of up to 128 characters, or a number")
    else:
        request.tokens = _subscription(data, details=details, channels=channels, faults=faults)
    return request


def _subscription(data: dict[str, Any], *, details: bool, channels: bool, faults: frozenset[str]) -> list[Any]:
    action, tokens = data.get("action"), data.get("tokens")
    if not isinstance(action, str):
        raise Refusal("INVALID_MESSAGE", "action must be a string")
    if action not in {"subscribe", "unsubscribe"}:
        raise Refusal("INVALID_MESSAGE" if "action_not_told_apart" in faults else "INVALID_ACTION", "unknown action")
    if isinstance(tokens, str) and "wrong_types_pass" in faults:
        tokens = [tokens]
    if not isinstance(tokens, list) or (not tokens and "no_tokens_pass" not in faults):
        raise Refusal("INVALID_MESSAGE", "tokens must be a list of 1 to 1000")
    if len(tokens) > (100 if "batch_of_hundred_only" in faults else 1000) and "batch_limit_ignored" not in faults:
        raise Refusal("BATCH_LIMIT", "more than 1000 tokens")
    if details:
        request_id = data.get("requestId")
        if request_id is not None and not (isinstance(request_id, str) and 1 <= len(request_id) <= 128):
            raise Refusal("INVALID_MESSAGE", "requestId must have 1 to 128 characters")
        known = data.get("known")
        wrong = known is not None and (
            not isinstance(known, dict) or any(_whole(value, faults) is None for value in known.values())
        )
        if wrong and "known_of_any_type" not in faults:
            raise Refusal("INVALID_MESSAGE", "known must map addresses to versions")
    if channels and "channels" in data:
        named = data["channels"]
        if not isinstance(named, list) or not 1 <= len(named) <= 32 or not all(isinstance(name, str) for name in named):
            raise Refusal("INVALID_MESSAGE", "channels must be a list of 1 to 32 strings")
    after = data.get("after") if channels else None
    wrong = after is not None and (
        not isinstance(after, dict) or any(_whole(value, faults) is None for value in after.values())
    )
    if wrong and "after_of_any_type" not in faults:
        raise Refusal("INVALID_MESSAGE", "after must map addresses to numbers")
    return tokens


def serve_subscription(connection: "Connection", request: Request) -> None:  # noqa: PLR0912
    """Apply a subscription message and queue its answer."""
    session, server = connection.session, connection.server
    faults = session.faults
    action = request.data["action"]
    details = "details" in session.caps
    request_id = request.data.get("requestId") if details else None
    named = "channels" in session.caps and "channels" in request.data
    channels = list(dict.fromkeys(request.data["channels"])) if named else ["token"]
    repeats = "repetitions_listed_twice" in faults
    before = set(session.held)
    accepted: list[str] = []
    refused: list[tuple[str, str]] = []
    for name in request.tokens[: 1 if "only_first_token_taken" in faults else None]:
        code = _usable(name)
        is_set = "channels" in session.caps and code is None and name.startswith("set:")
        if is_set:
            code = _serve_set(connection, name, action, channels if named or action == "subscribe" else None)
        elif code is None and action == "subscribe":
            code = _take(connection, name, channels)
        elif code is None:
            was_held = name in session.held
            _drop(connection, name, channels if named else None)
            if "unsubscribe_of_unheld_fails" in faults and not was_held:
                code = "TOKEN_NOT_FOUND"
        if code is None and (repeats or name not in accepted):
            accepted.append(name)
        elif code is not None and (repeats or (_echo(name), code) not in refused):
            refused.append((_echo(name, faults), code))
    if "partial_failure_rejects_all" in faults and refused and accepted:
        for name in accepted:
            session.held.pop(name, None)
        refused = [(_echo(name, faults), refused[0][1]) for name in accepted] + refused
        accepted = []
    if "answers_in_reverse" in faults:
        accepted.reverse()
    if not ("unheld_not_answered" in faults and action == "unsubscribe" and before.isdisjoint(accepted)):
        _answer(connection, action, accepted, refused, request_id, channels if named else None)
    if session.sets and action == "subscribe":
        server.follow(session)
    if action == "subscribe" and "first_value_missing" in faults:
        session.sent_at_s.update(dict.fromkeys(accepted, server.now_s()))
    if action == "subscribe":
        _begin(connection, request, accepted, channels)
    if action == "subscribe" and "first_value_missing" not in faults:
        for name in _newer(connection, request, accepted) if "token" in channels else ():
            if name in session.sets:
                continue
            if "again_sends_no_value" in faults and name in before:
                continue
            session.want(name)
            if session.every:
                session.pending.pop(name)
                data = server.market.value(name, server.wall_ms(), details=details, faults=session.faults)
                session.stream.append(("token_update", data))
    if "sequence_skips_on_unsubscribe" in faults and action == "unsubscribe":
        session.sequence += 1


def _newer(connection: "Connection", request: Request, accepted: list[str]) -> list[str]:
    """Those of the accepted tokens whose value the client does not hold yet."""
    faults = connection.session.faults
    known, stream = request.data.get("known"), request.data.get("stream")
    if "details" not in connection.session.caps or not isinstance(known, dict) or "known_ignored" in faults:
        return accepted
    if stream != connection.server.stream and "known_of_any_stream" not in faults:
        return accepted
    version = connection.server.market.version(connection.server.wall_ms())
    if "known_means_none" in faults:
        version = 0
    return [name for name in accepted if known.get(name, -1) < version]


def _take(connection: "Connection", name: str, channels: list[str]) -> str | None:
    session, server = connection.session, connection.server
    faults = session.faults
    if not server.market.knows(name):
        if not server.settings.accepts_any and "unknown_token_accepted" not in faults:
            return "TOKEN_NOT_FOUND"
        server.market.admit(name)
    if "again_refused" in faults and name in session.held:
        return "INVALID_TOKEN"
    missing = [channel for channel in channels if not server.events.has(name, channel)]
    is_left_out = "unknown_channel_left_out" in faults and len(missing) < len(channels)
    if missing and not is_left_out and "unknown_channel_passes" not in faults:
        return "INVALID_TOKEN" if "unknown_channel_other_code" in faults else "UNKNOWN_CHANNEL"
    channels = [channel for channel in channels if channel not in missing]
    new = [channel for channel in channels if not session.has(name, channel)]
    limit = connection.limit
    places = session.places + connection.leaked
    if "limit_counts_repetitions" in faults:
        new = channels
        connection.leaked += len(channels) - len([c for c in channels if not session.has(name, c)])
    if "channels_taken_in_part" in faults and places < limit:
        new = new[: limit - places]
        channels = [c for c in channels if session.has(name, c) or c in new]
    if places + len(new) > limit and "limit_ignored" not in faults:
        return "SUBSCRIPTION_LIMIT"
    session.held.setdefault(name, {}).update(dict.fromkeys(channels))
    return None


def _serve_set(connection: "Connection", name: str, action: str, channels: list[str] | None) -> str | None:
    session, server = connection.session, connection.server
    faults = session.faults
    if action == "unsubscribe":
        left = session.sets.pop(name, {})
        members = session.told.pop(name, ())
        if channels is not None and (kept := {each: None for each in left if each not in channels}):
            session.sets[name], session.told[name] = kept, members
        for address in members:
            if "set_takes_its_own" in faults:
                session.held.pop(address, None)
            if address not in session.effective():
                session.forget(address)
        return None
    members = server.market.members(name, server.wall_ms()) or ()
    if not members and "unknown_set_accepted" not in faults:
        return "TOKEN_NOT_FOUND"
    wanted = channels or ["token"]
    large = len(members) > 100 and "large_set_traded" not in faults
    if any((large and channel != "token") or not server.events.has("", channel) for channel in wanted):
        return "UNKNOWN_CHANNEL"
    new = [channel for channel in wanted if channel not in session.sets.get(name, {})]
    if session.places + (len(members) if "set_counts_members" in faults else len(new)) > connection.limit:
        return "SUBSCRIPTION_LIMIT"
    session.sets.setdefault(name, {}).update(dict.fromkeys(wanted))
    session.told.pop(name, None)
    return None


def _begin(connection: "Connection", request: Request, accepted: list[str], channels: list[str]) -> None:
    """Send the states of the channels that are begun, and the trades that the client lacks."""
    session, server = connection.session, connection.server
    after, stream = request.data.get("after"), request.data.get("stream")
    if stream != server.stream and "after_of_any_stream" not in session.faults:
        after = None
    if not isinstance(after, dict) or "after_ignored" in session.faults:
        after = {}
    for name in accepted:
        for channel in channels:
            if channel != "token" and name in session.held and session.has(name, channel):
                server.events.begin(session, name, channel, after.get(name), server.wall_ms())
    if "channels" in session.caps:
        server.happened(session)


def _drop(connection: "Connection", name: str, channels: list[str] | None) -> None:
    session, faults = connection.session, connection.session.faults
    held = session.held.get(name)
    if held is None:
        return
    if "limit_leaks_on_unsubscribe" in faults:
        connection.leaked += len(held)
    if channels is None and "unsubscribe_means_token" in faults:
        channels = ["token"]
    for channel in channels or list(held):
        held.pop(channel, None)
        session.progress.pop((name, channel), None)
    if not held:
        del session.held[name]
    if "updates_after_unsubscribe" in faults:
        connection.haunted[name] = None
    elif name not in session.effective():
        session.forget(name)


def _answer(
    connection: "Connection", action: str, accepted: list[str], refused: list[tuple[str, str]], request_id: str | None,
    channels: list[str] | None,
) -> None:  # fmt: skip
    session, faults = connection.session, connection.session.faults
    details = "details" in session.caps
    if "unsubscribed_is_the_action" in faults and action == "unsubscribe":
        action = "unsubscribed"
    if f"{action}_not_answered" in faults:
        return

    def reply(tokens: list[str], status: str, codes: list[tuple[str, str]] | None = None) -> None:
        data: dict[str, Any] = {"action": action, "tokens": tokens, "status": status}
        if "answer_extra_field" in faults:
            data["count"] = len(tokens)
        if details:
            if request_id is not None and "request_id_missing" not in faults:
                data["requestId"] = request_id
            if codes and "rejected_missing" not in faults:
                data["rejected"] = [{"token": name, "code": code} for name, code in codes]
            data["active"] = len(tokens) if "active_counts_request" in faults else session.places
            if "active_counts_tokens" in faults:
                data["active"] = len(session.held)
        if channels is not None and status == "success" and "answer_without_channels" not in faults:
            data["channels"] = channels
        session.outbox.append(("subscription", data, True))

    def errors() -> None:
        for code in dict.fromkeys(code for _, code in refused):
            names = [name for name, why in refused if why == code]
            connection.error(code, f"{code}: {', '.join(names[:10])[:500]}", request_id=request_id, names=names)

    if "errors_before_success" in faults:
        errors()
    if accepted:
        parts = _parts(accepted, faults)
        for part in parts or [[]]:
            reply(part, "success")
    if refused:
        by_name = dict.fromkeys(refused) if "repetitions_listed_twice" not in faults else refused
        listed = list(by_name)
        for part in _parts([name for name, _ in listed], faults):
            codes = [pair for pair in listed if pair[0] in set(part)]
            reply(part, "error", codes)
    if "errors_before_success" not in faults:
        errors()


def _parts(names: list[str], faults: frozenset[str]) -> list[list[str]]:
    """``names`` in parts that each fit into a message; with ``rejected`` every name is there twice."""
    if "long_answers_whole" in faults:
        return [names] if names else []
    parts: list[list[str]] = []
    size = _MAX_TEXT_BYTES
    for name in names:
        cost = 2 * len(encoded(name)) + 60
        if size + cost > _MAX_TEXT_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(name)
        size += cost
    return parts


def _usable(name: Any) -> str | None:
    if isinstance(name, str) and 1 <= len(name) <= 256 and name.isprintable():
        return None
    return "INVALID_TOKEN"


def _echo(name: Any, faults: frozenset[str] = frozenset()) -> str:
    if not isinstance(name, str):
        name = "null" if "refused_echo_null" in faults else json.dumps(name, separators=(",", ":"), ensure_ascii=False)
    elif "refused_echo_null" in faults and not (1 <= len(name) <= 256):
        name = ""
    text = str(name).encode("utf-8", "backslashreplace").decode()
    return text[:256]


def _number(data: dict[str, Any], name: str, faults: frozenset[str]) -> int:
    value = _whole(data.get(name), faults)
    if value is None or value < 0:
        raise Refusal("INVALID_MESSAGE", f"{name} must be a whole number")
    return value


def _whole(value: Any, faults: frozenset[str]) -> int | None:
    if isinstance(value, float) and value.is_integer() and "float_numbers_refused" not in faults:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _first_counts(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(reversed(pairs))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")

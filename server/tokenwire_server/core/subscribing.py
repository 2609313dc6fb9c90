"""What a subscription message does to a session, and the replies (Spec, Subscription Management).

Partial failure inside v1.0's fields: one ``success`` reply with the accepted tokens as addresses, one ``error``
reply with the refused names as given, then one ``error`` message for each distinct reason.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from msgspec import UNSET

from tokenwire_schemas.codec import echo_name, encode_data
from tokenwire_schemas.errors import ErrorCode
from tokenwire_schemas.extension_messages import ExtendedSubscriptionData, Rejected
from tokenwire_schemas.limits import MAX_MESSAGE_BYTES
from tokenwire_schemas.messages import SubscriptionData
from tokenwire_server.core.board import Board, Row, Value
from tokenwire_server.core.session import Session
from tokenwire_server.core.tokensets import TokenSets
from tokenwire_server.validation.messages import SubscriptionRequest, is_usable_name

__all__ = ["Directory", "Refusal", "Resolved", "apply_request"]

_MAX_DETAIL_CHARS: Final = 1024
_NAMED: Final = 100
_REPLY_BYTES: Final = MAX_MESSAGE_BYTES - 1_024  # for names; what stands around them is far less than the rest
_REJECTED_BYTES: Final = 64  # the code of a rejected name, and what stands around both


class Resolved(Protocol):
    """What a name means: an address, or the code of the refusal."""

    @property
    def address(self) -> str | None: ...
    @property
    def code(self) -> str | None: ...
    @property
    def candidates(self) -> Sequence[str]: ...


class Directory(Protocol):
    """Who knows the tokens. The hub asks it, so the core needn't know the market."""

    def resolve(self, name: str) -> Resolved:
        """Find a token by address or symbol."""

    def value(self, address: str) -> Value | None:
        """The token at exactly this wire address."""


class _Outcome:
    """Accepted addresses in request order, refused names, and for each reason what to say of them."""

    __slots__ = ("accepted", "details", "refused", "rows")

    def __init__(self) -> None:
        self.accepted: dict[str, None] = {}
        self.rows: dict[Row, None] = {}
        self.refused: dict[str, ErrorCode] = {}
        self.details: dict[ErrorCode, list[str]] = {}

    def refuse(self, name: str, code: ErrorCode, detail: str) -> None:
        if name not in self.refused:
            self.refused[name] = code
            self.details.setdefault(code, []).append(detail)

    def errors(self) -> "list[Refusal]":
        return [
            Refusal(code, _text(code, details), [name for name, its in self.refused.items() if its is code][:_NAMED])
            for code, details in self.details.items()
        ]


class Refusal(NamedTuple):
    """One reason of refusals: what to say, and (the first hundred of) the names it concerns."""

    code: ErrorCode
    message: str
    names: list[str]


def apply_request(
    request: SubscriptionRequest,
    session: Session,
    board: Board,
    directory: Directory,
    sets: TokenSets,
    max_subscriptions: int,
    stream: str,
) -> tuple[list[SubscriptionData], list[Refusal]]:
    """Change the session's subscriptions; the replies to send and the errors after them.

    Idempotent: a token already held is accepted again and its value sent again, unless the client ``known``-ly has
    it in this ``stream``. An unknown token may be unsubscribed. Tokens are accepted in order up to the limit.
    """
    outcome = _Outcome()
    if request.action == "subscribe":
        _subscribe(request, session, board, directory, max_subscriptions, outcome)
        added = [row for row in outcome.rows if row not in session.tokens]
        if added:
            sets.enter(session, (*session.tokens.rows, *added))
        known = request.known if request.known is not None and request.stream == stream else {}
        for row in outcome.rows:
            if row.value.has_value and row.value.version > known.get(row.value.address, -1):
                session.want(row)
    else:
        _unsubscribe(request, session, board, directory, outcome)
        held = [row for row in outcome.rows if row in session.tokens]
        if held:
            session.forget(frozenset(held))
            sets.enter(session, tuple(row for row in session.tokens.rows if row not in outcome.rows))
    return _replies(request, session, outcome), outcome.errors()


def _replies(request: SubscriptionRequest, session: Session, outcome: _Outcome) -> list[SubscriptionData]:
    details = session.grants.details
    accepted = _in_parts(list(outcome.accepted), details)
    refused = _in_parts(list(outcome.refused), details)
    if not details:
        return [
            *(SubscriptionData(request.action, tokens, "success") for tokens in accepted),
            *(SubscriptionData(request.action, names, "error") for names in refused),
        ]
    request_id = UNSET if request.request_id is None else request.request_id
    active = len(session.tokens)
    replies: list[SubscriptionData] = [
        ExtendedSubscriptionData(request.action, tokens, "success", request_id, active=active) for tokens in accepted
    ]
    for names in refused:
        rejected = [Rejected(name, outcome.refused[name]) for name in names]
        replies.append(ExtendedSubscriptionData(request.action, names, "error", request_id, rejected, active))
    return replies


def _in_parts(names: list[str], details: bool) -> list[list[str]]:
    """One list, or as many as it takes to keep each reply within 1 MiB; with details a name may be in it twice."""
    parts: list[list[str]] = []
    size = _REPLY_BYTES
    for name in names:
        length = len(encode_data(name))
        cost = 2 * length + _REJECTED_BYTES if details else length + 1
        if size + cost > _REPLY_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(name)
        size += cost
    return parts


def _subscribe(
    request: SubscriptionRequest,
    session: Session,
    board: Board,
    directory: Directory,
    max_subscriptions: int,
    outcome: _Outcome,
) -> None:
    room = max_subscriptions - len(session.tokens)
    for name in request.tokens:
        row = _find(name, board, directory, outcome)
        if row is None or row in outcome.rows:
            continue
        if row not in session.tokens:
            if room <= 0:
                shown = echo_name(name)
                outcome.refuse(shown, ErrorCode.SUBSCRIPTION_LIMIT, shown)
                continue
            room -= 1
        outcome.rows[row] = None
        outcome.accepted[row.value.address] = None


def _unsubscribe(
    request: SubscriptionRequest,
    session: Session,
    board: Board,
    directory: Directory,
    outcome: _Outcome,
) -> None:
    for name in request.tokens:
        lenient = _Outcome()
        row = _find(name, board, directory, lenient)
        if row is not None:
            outcome.rows[row] = None
            outcome.accepted[row.value.address] = None
        elif ErrorCode.TOKEN_NOT_FOUND in lenient.details:
            outcome.accepted[echo_name(name)] = None
        else:
            for code, details in lenient.details.items():
                outcome.refuse(echo_name(name), code, details[0])


def _find(name: object, board: Board, directory: Directory, outcome: _Outcome) -> Row | None:
    if not isinstance(name, str) or not is_usable_name(name):
        shown = echo_name(name)
        outcome.refuse(shown, ErrorCode.INVALID_TOKEN, shown)
        return None
    found = directory.resolve(name)
    value = directory.value(found.address) if found.address is not None else None
    if value is not None:
        return board.row(value)
    if found.code == ErrorCode.AMBIGUOUS_TOKEN:
        outcome.refuse(name, ErrorCode.AMBIGUOUS_TOKEN, f"{name}: {', '.join(found.candidates)}")
    else:
        outcome.refuse(name, ErrorCode.TOKEN_NOT_FOUND, name)
    return None


_LEADS: Final = {
    ErrorCode.INVALID_TOKEN: "not a usable token name (a string of 1 to 256 printable characters): ",
    ErrorCode.AMBIGUOUS_TOKEN: "several tokens have this symbol, use an address: ",
    ErrorCode.TOKEN_NOT_FOUND: "no token has this address or symbol: ",
    ErrorCode.SUBSCRIPTION_LIMIT: "the connection holds its maximum of subscriptions; not subscribed: ",
}


def _text(code: ErrorCode, details: list[str]) -> str:
    text = _LEADS[code] + "; ".join(details)
    return text if len(text) <= _MAX_DETAIL_CHARS else text[: _MAX_DETAIL_CHARS - 1] + "…"

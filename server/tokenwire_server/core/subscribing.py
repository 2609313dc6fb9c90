"""What a subscription message does to a session, and the replies (Spec, Subscription Management).

Partial failure inside v1.0's fields: one ``success`` reply with the accepted tokens as addresses, one ``error``
reply with the refused names as given, then one ``error`` message for each distinct reason.
"""

from collections.abc import Sequence
from typing import Final, Protocol

from tokenwire_schemas.codec import echo_name
from tokenwire_schemas.errors import ErrorCode
from tokenwire_schemas.messages import SubscriptionData
from tokenwire_server.core.board import Board, Row, Value
from tokenwire_server.core.session import Session
from tokenwire_server.core.tokensets import TokenSets
from tokenwire_server.validation.messages import SubscriptionRequest, is_usable_name

__all__ = ["Directory", "Resolved", "apply_request"]

_MAX_DETAIL_CHARS: Final = 1024


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
        self.refused: dict[str, None] = {}
        self.details: dict[ErrorCode, list[str]] = {}

    def refuse(self, name: str, code: ErrorCode, detail: str) -> None:
        if name not in self.refused:
            self.refused[name] = None
            self.details.setdefault(code, []).append(detail)


def apply_request(
    request: SubscriptionRequest,
    session: Session,
    board: Board,
    directory: Directory,
    sets: TokenSets,
    max_subscriptions: int,
) -> tuple[list[SubscriptionData], list[tuple[ErrorCode, str]]]:
    """Change the session's subscriptions; the replies to send and the errors after them.

    Idempotent: a token already held is accepted again and its value sent again. An unknown token may be
    unsubscribed. Tokens are accepted in order up to the limit.
    """
    outcome = _Outcome()
    if request.action == "subscribe":
        _subscribe(request, session, board, directory, max_subscriptions, outcome)
        added = [row for row in outcome.rows if row not in session.tokens]
        if added:
            sets.enter(session, (*session.tokens.rows, *added))
        for row in outcome.rows:
            if row.value.has_value:
                session.want(row)
    else:
        _unsubscribe(request, session, board, directory, outcome)
        held = [row for row in outcome.rows if row in session.tokens]
        for row in held:
            session.forget(row)
        if held:
            sets.enter(session, tuple(row for row in session.tokens.rows if row not in outcome.rows))
    replies = []
    if outcome.accepted:
        replies.append(SubscriptionData(request.action, list(outcome.accepted), "success"))
    if outcome.refused:
        replies.append(SubscriptionData(request.action, list(outcome.refused), "error"))
    return replies, [(code, _text(code, details)) for code, details in outcome.details.items()]


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

"""What a subscription message does to a session, and the replies (Spec, Subscription Management; I-60).

Partial failure inside v1.0's fields: one ``success`` reply with the accepted tokens as addresses, one ``error``
reply with the refused names as given, then one ``error`` message for each distinct reason.
"""

from collections.abc import Container, Iterable, Sequence
from itertools import islice
from typing import Final, NamedTuple, Protocol

from msgspec import UNSET

from tokenwire_schemas.codec import echo_name, encode_data
from tokenwire_schemas.errors import ErrorCode
from tokenwire_schemas.extension_messages import ExtendedSubscriptionData, Rejected, SetData
from tokenwire_schemas.limits import MAX_BATCH, MAX_MESSAGE_BYTES, MAX_SET_TOPICS, RESUME_MAX_BYTES, RESUME_MAX_FRAMES
from tokenwire_schemas.messages import SubscriptionData
from tokenwire_server.core.board import Board, Row, Value
from tokenwire_server.core.holdings import SET_PREFIX, Holdings, differences
from tokenwire_server.core.session import Item, Session, held_count
from tokenwire_server.core.tokensets import TokenSets
from tokenwire_server.core.topics import Topic, Topics
from tokenwire_server.validation.messages import SubscriptionRequest, is_usable_name

__all__ = ["Directory", "Refusal", "Resolved", "Subscriber"]

_MAX_DETAIL_CHARS: Final = 1024
_NAMED: Final = 100
_REPLY_BYTES: Final = MAX_MESSAGE_BYTES - 1_024  # for names; what stands around them is far less than the rest
_REJECTED_BYTES: Final = 64  # the code of a rejected name, and what stands around both
_TOKEN: Final = "token"  # noqa: S105 - a channel
_RECOVERED_BYTES: Final = RESUME_MAX_BYTES // 2  # of missed events that a subscribe may bring back


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

    def channel(self, name: str) -> str | None:
        """The one spelling of a channel besides ``token``; None: there is no such."""

    def channel_names(self) -> str:
        """Which channels there are, for whoever asked for another one."""

    def set_names(self) -> str:
        """Which sets of tokens there are, likewise."""

    def members(self, name: str) -> Sequence[str] | None:
        """The addresses in a set of tokens, the same object as long as they are the same; None: there is no such."""

    def topic(self, address: str, channel: str, topics: Topics) -> Topic | None:
        """The topic of a channel in that spelling, the same one as long as somebody holds it; None: the token has no
        such. If nobody holds it after all, its ``on_idle`` must be called."""


class _Outcome:
    """Accepted addresses in request order, refused names, and for each reason what to say of them."""

    __slots__ = ("accepted", "details", "is_set_unknown", "refused", "rows", "topics")

    def __init__(self) -> None:
        self.accepted: dict[str, None] = {}
        self.rows: dict[Row, None] = {}
        self.topics: dict[Topic, None] = {}
        self.refused: dict[str, ErrorCode] = {}
        self.details: dict[ErrorCode, list[str]] = {}
        self.is_set_unknown = False

    def refuse(self, name: str, code: ErrorCode, detail: str) -> None:
        if name not in self.refused:
            self.refused[name] = code
            self.details.setdefault(code, []).append(detail)

    def errors(self, directory: Directory) -> "list[Refusal]":
        refusals = []
        for code, details in self.details.items():
            names = [name for name, its in self.refused.items() if its is code][:_NAMED]
            text = _text(code, details)
            if code is ErrorCode.UNKNOWN_CHANNEL:
                text += f"; there are {directory.channel_names()}"
            elif code is ErrorCode.TOKEN_NOT_FOUND and self.is_set_unknown:
                text += f"; sets are {directory.set_names()}"
            refusals.append(Refusal(code, text, names))
        return refusals


class Refusal(NamedTuple):
    """One reason of refusals: what to say, and (the first hundred of) the names it concerns."""

    code: ErrorCode
    message: str
    names: list[str]


class Subscriber:
    """Changes what sessions hold. Each pair of a token and a channel counts once toward ``max_subscriptions``."""

    def __init__(
        self,
        board: Board,
        directory: Directory,
        sets: TokenSets,
        topics: Topics,
        max_subscriptions: int,
        stream: str,
    ) -> None:
        self._board = board
        self._directory = directory
        self._sets = sets
        self._topics = topics
        self._max_subscriptions = max_subscriptions
        self._stream = stream

    def apply(
        self, request: SubscriptionRequest, session: Session, now: int
    ) -> tuple[list[SubscriptionData], list[Refusal], list[SetData]]:
        """Change the session's subscriptions; the replies to send, the errors after them, and what to say of sets.

        Idempotent: a token already held is accepted again and its value sent again, unless the client ``known``-ly
        has it in this ``stream``. An unknown token may be unsubscribed. Tokens are accepted in order up to the limit,
        each with all its channels or not at all.
        """
        outcome = _Outcome()
        if request.action == "subscribe":
            self._subscribe(request, session, outcome, now)
        else:
            self._unsubscribe(request, session, outcome)
        changes = self.follow(session, now)
        known = [name for name in request.channels or () if name == _TOKEN or self._directory.channel(name) is not None]
        return _replies(request, session, outcome, known), outcome.errors(self._directory), changes

    def is_up_to_date(self, session: Session) -> bool:
        """Nothing has changed in the sets that the session follows since its client was told."""
        holdings = session.holdings
        if holdings is None:
            return True
        unknown = object()
        return all(self._directory.members(name) is holdings.told.get(name, unknown) for name in holdings.sets)

    def follow(self, session: Session, now: int) -> list[SetData]:
        """Have the session hold what its sets hold now; what its client is to be told of them.

        In other channels than ``token`` it gets the first members only, however the set grows.
        """
        holdings = session.holdings
        if holdings is None:
            return []
        rows, topics = dict(holdings.rows), dict(holdings.topics)
        changes: list[SetData] = []
        for name, channels in holdings.sets.items():
            members = self._directory.members(name) or ()
            told = holdings.told.get(name)
            if members is not told:
                if told is None or set(members) != set(told):
                    changes += differences(name, told or (), members)
                holdings.told[name] = members
            values = [channel for channel in channels if channel == _TOKEN]
            for place, address in enumerate(members):
                self._add_member(address, channels if place < MAX_SET_TOPICS else values, rows, topics)
        gone_rows = [row for row in session.tokens.rows if row not in rows]
        gone_topics = [topic for topic in session.topics.topics if topic not in topics]
        if gone_rows or gone_topics:
            session.forget(frozenset((*gone_rows, *gone_topics)))
        new_rows = [row for row in rows if row not in session.tokens]
        if gone_rows or new_rows:
            self._sets.enter(session, tuple(rows))
        new_topics = [topic for topic in topics if topic not in session.topics]
        self._topics.enter(session, topics)
        for row in new_rows:
            if row.value.has_value:
                session.want(row)
        for topic in new_topics:
            self._topics.welcome(session, topic, now)
        if not holdings.sets:
            session.holdings = None
        return changes

    def _add_member(
        self, address: str, channels: Sequence[str], rows: dict[Row, None], topics: dict[Topic, None]
    ) -> None:
        value = self._directory.value(address)
        if value is None:
            return
        for channel in channels:
            if channel == _TOKEN:
                rows[self._board.row(value)] = None
            else:
                topic = self._directory.topic(address, channel, self._topics)
                if topic:
                    topics[topic] = None

    def _subscribe(self, request: SubscriptionRequest, session: Session, outcome: _Outcome, now: int) -> None:
        room = self._max_subscriptions - held_count(session)
        channels = request.channels or (_TOKEN,)
        held = session.holdings or Holdings(session.tokens.rows, session.topics.topics)
        for name in request.tokens:
            if session.grants.channels and isinstance(name, str) and name.startswith(SET_PREFIX):
                room -= self._subscribe_set(name, channels, session, room, outcome)
                continue
            row = self._find(name, outcome)
            if row is None or row.value.address in outcome.accepted:
                continue
            topics = self._topics_of(row, channels, name, outcome)
            if topics is None:
                continue
            cost = sum(topic not in held.topics for topic in topics)
            cost += _TOKEN in channels and row not in held.rows
            if cost > room:
                _let_go(topics)
                shown = echo_name(name)
                outcome.refuse(shown, ErrorCode.SUBSCRIPTION_LIMIT, shown)
                continue
            room -= cost
            outcome.accepted[row.value.address] = None
            if _TOKEN in channels:
                outcome.rows[row] = None
            for topic in topics:
                outcome.topics[topic] = None
        fresh = {topic for topic in outcome.topics if topic not in session.topics}
        self._hold(session, outcome)
        self._catch_up(request, session, outcome, fresh, now)

    def _subscribe_set(self, name: str, channels: Sequence[str], session: Session, room: int, outcome: _Outcome) -> int:
        """Follow a set; how many subscriptions that takes."""
        members = self._directory.members(name) if is_usable_name(name) else None
        shown = echo_name(name)
        if members is None:
            outcome.refuse(shown, ErrorCode.TOKEN_NOT_FOUND, shown)
            outcome.is_set_unknown = True
            return 0
        before = () if session.holdings is None else session.holdings.sets.get(name, ())
        added: list[str] = []
        for channel in channels:
            spelled = channel if channel == _TOKEN else self._directory.channel(channel)
            if spelled is None or (spelled != _TOKEN and len(members) > MAX_SET_TOPICS):
                outcome.refuse(shown, ErrorCode.UNKNOWN_CHANNEL, f"{channel} of {shown}")
                return 0
            added.append(spelled)
        wanted = tuple(dict.fromkeys((*before, *added)))
        if len(wanted) - len(before) > room:
            outcome.refuse(shown, ErrorCode.SUBSCRIPTION_LIMIT, shown)
            return 0
        if session.holdings is None:
            session.holdings = Holdings(session.tokens.rows, session.topics.topics)
        session.holdings.sets[name] = wanted
        session.holdings.told.pop(name, None)  # repeated, it is told anew
        outcome.accepted[name] = None
        return len(wanted) - len(before)

    def _topics_of(self, row: Row, channels: Sequence[str], name: object, outcome: _Outcome) -> list[Topic] | None:
        """The topics of these channels of one token; None, and refused, if it has not all of them."""
        topics: dict[Topic, None] = {}
        for channel in channels:
            if channel != _TOKEN:
                spelled = self._directory.channel(channel)
                topic = spelled and self._directory.topic(row.value.address, spelled, self._topics)
                if not topic:
                    _let_go(topics)
                    shown = echo_name(name)
                    outcome.refuse(shown, ErrorCode.UNKNOWN_CHANNEL, f"{channel} of {shown}")
                    return None
                topics[topic] = None
        return list(topics)

    def _hold(self, session: Session, outcome: _Outcome) -> None:
        if session.holdings is not None:
            session.holdings.rows |= outcome.rows
            session.holdings.topics |= outcome.topics
        added = [row for row in outcome.rows if row not in session.tokens]
        if added:
            self._sets.enter(session, (*session.tokens.rows, *added))
        topics = [topic for topic in outcome.topics if topic not in session.topics]
        if topics:
            self._topics.enter(session, (*session.topics.topics, *topics))

    def _catch_up(
        self, request: SubscriptionRequest, session: Session, outcome: _Outcome, fresh: Container[Topic], now: int
    ) -> None:
        """Send the newest values and states, and of topics that are ``fresh`` the events that the client missed."""
        same_stream = request.stream == self._stream
        known = request.known if request.known is not None and same_stream else {}
        for row in outcome.rows:
            if row.value.has_value and row.value.version > known.get(row.value.address, -1):
                session.want(row)
        after = request.after if request.after is not None and same_stream else {}
        for topic in outcome.topics:
            number = after.get(topic.address)
            has_room = session.stream_bytes < _RECOVERED_BYTES
            if topic.recover is not None and number is not None and topic in fresh and has_room:
                self._recover(session, topic, topic.recover(number, len(topic.events), session.format.details))
            self._topics.welcome(session, topic, now)

    @staticmethod
    def _recover(session: Session, topic: Topic, missed: Iterable[bytes]) -> None:
        """Queue what there is room for, so that half of the queue stays free; then the hole shows, for who counts."""
        items: list[Item] = []
        octets = 0
        frames = RESUME_MAX_FRAMES // 2 * (MAX_BATCH if session.format.batch else 1)
        for data in islice(missed, max(frames - len(session.stream or ()), 0)):
            if session.stream_bytes + octets + len(data) > _RECOVERED_BYTES:
                break
            items.append((topic, data))
            octets += len(data)
        session.push_stream(items, octets)

    def _unsubscribe(self, request: SubscriptionRequest, session: Session, outcome: _Outcome) -> None:
        channels = request.channels
        spelled = None if channels is None else {self._directory.channel(name) for name in channels}
        rows: dict[Row, None] = {}
        topics: dict[Topic, None] = {}
        for name in request.tokens:
            if session.holdings is not None and isinstance(name, str) and name in session.holdings.sets:
                _leave_set(session.holdings, name, None if channels is None else {*channels, *(spelled or ())})
                outcome.accepted[name] = None
                continue
            lenient = _Outcome()
            row = self._find(name, lenient)
            if row is not None:
                address = row.value.address
                outcome.accepted[address] = None
                if channels is None or _TOKEN in channels:
                    rows[row] = None
                for topic in session.topics.topics:
                    if topic.address == address and (spelled is None or topic.channel in spelled):
                        topics[topic] = None
            elif ErrorCode.TOKEN_NOT_FOUND in lenient.details:
                outcome.accepted[echo_name(name)] = None
            else:
                for code, details in lenient.details.items():
                    outcome.refuse(echo_name(name), code, details[0])
        self._release(session, rows, topics)

    def _release(self, session: Session, rows: dict[Row, None], topics: dict[Topic, None]) -> None:
        holdings = session.holdings
        if holdings is not None:  # what its sets hold stays, see follow()
            for row in rows:
                holdings.rows.pop(row, None)
            for topic in topics:
                holdings.topics.pop(topic, None)
            return
        held = [row for row in rows if row in session.tokens]
        gone = [topic for topic in topics if topic in session.topics]
        session.forget(frozenset((*held, *gone)))
        if held:
            self._sets.enter(session, tuple(row for row in session.tokens.rows if row not in rows))
        if gone:
            self._topics.enter(session, [topic for topic in session.topics.topics if topic not in topics])

    def _find(self, name: object, outcome: _Outcome) -> Row | None:
        if not isinstance(name, str) or not is_usable_name(name):
            shown = echo_name(name)
            outcome.refuse(shown, ErrorCode.INVALID_TOKEN, shown)
            return None
        found = self._directory.resolve(name)
        value = self._directory.value(found.address) if found.address is not None else None
        if value is not None:
            return self._board.row(value)
        if found.code == ErrorCode.AMBIGUOUS_TOKEN:
            outcome.refuse(name, ErrorCode.AMBIGUOUS_TOKEN, f"{name}: {', '.join(found.candidates)}")
        else:
            outcome.refuse(name, ErrorCode.TOKEN_NOT_FOUND, name)
        return None


def _leave_set(holdings: Holdings, name: str, channels: Container[str | None] | None) -> None:
    """Follow a set no more in these channels, or in any."""
    left = () if channels is None else tuple(each for each in holdings.sets[name] if each not in channels)
    if left:
        holdings.sets[name] = left
    else:
        del holdings.sets[name]
        holdings.told.pop(name, None)


def _let_go(topics: Iterable[Topic]) -> None:
    """They were asked for in vain."""
    for topic in topics:
        if not topic.is_held:
            topic.on_idle()


def _replies(
    request: SubscriptionRequest, session: Session, outcome: _Outcome, known: list[str]
) -> list[SubscriptionData]:
    """The answers; a success names the ``known`` ones of the request's channels."""
    details = session.grants.details
    accepted = _in_parts(list(outcome.accepted), details)
    refused = _in_parts(list(outcome.refused), details)
    if not details and request.channels is None:
        return [
            *(SubscriptionData(request.action, tokens, "success") for tokens in accepted),
            *(SubscriptionData(request.action, names, "error") for names in refused),
        ]
    request_id = UNSET if request.request_id is None else request.request_id
    active = held_count(session) if details else UNSET
    channels = known or UNSET
    replies: list[SubscriptionData] = [
        ExtendedSubscriptionData(request.action, tokens, "success", request_id, active=active, channels=channels)
        for tokens in accepted
    ]
    for names in refused:
        rejected = [Rejected(name, outcome.refused[name]) for name in names] if details else UNSET
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


_LEADS: Final = {
    ErrorCode.INVALID_TOKEN: "not a usable token name (a string of 1 to 256 printable characters): ",
    ErrorCode.AMBIGUOUS_TOKEN: "several tokens have this symbol, use an address: ",
    ErrorCode.TOKEN_NOT_FOUND: "no token has this address or symbol: ",
    ErrorCode.UNKNOWN_CHANNEL: "no such channel: ",
    ErrorCode.SUBSCRIPTION_LIMIT: "the connection holds its maximum of subscriptions; not subscribed: ",
}


def _text(code: ErrorCode, details: list[str]) -> str:
    text = _LEADS[code] + "; ".join(details)
    return text if len(text) <= _MAX_DETAIL_CHARS else text[: _MAX_DETAIL_CHARS - 1] + "…"

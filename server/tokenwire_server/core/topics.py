"""Topics: one channel of one token, and who gets it (Interpretations I-60 to I-62).

A topic has *events*, of which each is sent (a trade, a bar that closed), or a *state*, of which the newest is sent at
most once in ``gap_ms`` (an open bar, a book), or both. Sessions that hold the same topics form a topic set, so that
what they get is made once.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from tokenwire_schemas.limits import MAX_STREAM_LOG_BYTES
from tokenwire_server.core.tokensets import Format

if TYPE_CHECKING:
    from tokenwire_server.core.session import Session

__all__ = ["NO_TOPICS", "Change", "Event", "Topic", "TopicSet", "Topics"]

MAX_WELCOME_MS: Final = 1_000  # how long who begins to hold a topic waits for its state

State = Callable[[bool], bytes]
Recover = Callable[[int, int, bool], Iterable[bytes]]


class Event(NamedTuple):
    """Something to be sent of a topic; ``order`` is its place among those of all topics."""

    order: int
    topic: "Topic"
    payload: bytes
    detailed: bytes

    def data(self, details: bool) -> bytes:
        """The encoded ``data`` that a session gets."""
        return self.detailed if details else self.payload


class Topic:
    """One channel of the token at ``address``. ``kind`` is the type of its messages.

    ``state(details)`` is asked for the encoded ``data`` of the newest state when it is to be sent, and may be empty:
    then there is none. ``recover(number, newer, details)`` gives, one by one, the events after the one with this
    number, but for the ``newer`` last ones. Whoever writes a topic calls :meth:`tell` and :meth:`touch`, until
    ``on_idle`` is called: nobody holds it any more.
    """

    __slots__ = ("_topics", "address", "channel", "due_ms", "events", "gap_ms", "is_torn", "is_touched", "kind",
                 "newcomers", "on_idle", "recover", "sets", "state")  # fmt: skip

    def __init__(
        self,
        topics: "Topics",
        address: str,
        channel: str,
        kind: bytes,
        state: State | None = None,
        gap_ms: int = 0,
        recover: Recover | None = None,
        on_idle: Callable[[], None] = lambda: None,
    ) -> None:
        self.address = address
        self.channel = channel
        self.kind = kind
        self.state = state
        self.gap_ms = gap_ms
        self.recover = recover
        self.on_idle = on_idle
        self.due_ms = 0  # the state is not sent before
        self.events: list[Event] = []
        self.is_touched = False
        self.is_torn = False  # events were lost: more came than can be kept
        self.sets: dict[TopicSet, None] = {}
        self.newcomers: dict[Session, None] = {}  # who is to get the state as soon as it is due, changed or not
        self._topics = topics

    @property
    def is_held(self) -> bool:
        """Somebody gets it."""
        return bool(self.sets)

    def tell(self, payload: bytes, detailed: bytes) -> None:
        """An event, as encoded ``data`` without and with details."""
        self._topics.log(self, payload, detailed)

    def touch(self) -> None:
        """There is a new state."""
        self.is_touched = True
        self._topics.changed[self] = None

    def newest(self, details: bool) -> bytes:
        """The encoded ``data`` of the newest state; empty if there is none."""
        return b"" if self.state is None else self.state(details)


class TopicSet:
    """A distinct set of topics, and the sessions that hold it: ``live`` ones are written to at once, by format; the
    ``waiting`` ones have what is due put into their queues."""

    __slots__ = ("key", "live", "sent_ms", "topics", "waiting")

    def __init__(self, topics: tuple[Topic, ...]) -> None:
        self.topics = topics
        self.key = frozenset(topics)
        self.sent_ms = 0  # when its members were sent something last
        self.live: dict[Format, dict[Session, Callable[[bytes], None]]] = {}
        self.waiting: dict[Session, None] = {}

    def __len__(self) -> int:
        return len(self.topics)

    def __contains__(self, topic: Topic) -> bool:
        return topic in self.key

    def add(self, session: "Session") -> None:
        """Put ``session`` where its state and format say."""
        if session.is_behind or session.format.every:
            self.waiting[session] = None
        else:
            self.live.setdefault(session.format, {})[session] = session.write

    def discard(self, session: "Session") -> None:
        """Take ``session`` out, wherever it is."""
        self.waiting.pop(session, None)
        members = self.live.get(session.format)
        if members is not None:
            members.pop(session, None)
            if not members:
                del self.live[session.format]

    @property
    def is_empty(self) -> bool:
        """Nobody holds it."""
        return not (self.live or self.waiting)

    def members(self) -> "list[Session]":
        """Everybody who holds this set."""
        return [*(session for members in self.live.values() for session in members), *self.waiting]


NO_TOPICS: Final = TopicSet(())


class Topics:
    """All topics that somebody holds, and what happened in them since the last flush."""

    __slots__ = ("_octets", "_order", "_sets", "changed", "subscriptions")

    def __init__(self) -> None:
        self.changed: dict[Topic, None] = {}
        self.subscriptions = 0
        self._sets: dict[frozenset[Topic], TopicSet] = {}
        self._octets = 0
        self._order = 0

    def __len__(self) -> int:
        """Distinct sets."""
        return len(self._sets)

    def occupied(self) -> list[TopicSet]:
        """All sets that a session holds."""
        return list(self._sets.values())

    def enter(self, session: "Session", topics: Iterable[Topic]) -> None:
        """Move ``session`` to the set of exactly ``topics``."""
        wanted = tuple(topics)
        key = frozenset(wanted)
        before = session.topics
        if key == before.key:
            return
        held = self._sets.get(key) if key else NO_TOPICS
        if held is None:
            held = self._sets[key] = TopicSet(wanted)
            for topic in wanted:
                topic.sets[held] = None
        session.topics = held
        self.subscriptions += len(held) - len(before)
        if held is not NO_TOPICS:
            held.add(session)
        if before is not NO_TOPICS:  # only now, lest a topic of both be idle in between
            self._leave(session, before)

    def leave(self, session: "Session") -> None:
        """Forget ``session``; it holds no topic afterwards."""
        self.enter(session, ())

    def _leave(self, session: "Session", held: TopicSet) -> None:
        held.discard(session)
        if held.is_empty:
            del self._sets[held.key]
            for topic in held.topics:
                del topic.sets[held]
                if not topic.sets:
                    topic.on_idle()

    def welcome(self, session: "Session", topic: Topic, now: int) -> None:
        """Send ``session`` the state of a topic that it begins to hold: at once, or when it is due for all."""
        if topic.state is None:
            return
        if now >= topic.due_ms and not topic.is_touched:
            topic.due_ms = now + topic.gap_ms
            session.want_state(topic)
        elif topic.due_ms - now > MAX_WELCOME_MS:
            session.want_state(topic)  # once sooner than the others get theirs
        else:
            topic.newcomers[session] = None
            self.changed[topic] = None

    def log(self, topic: Topic, payload: bytes, detailed: bytes) -> None:
        """Keep an event until the next flush; beyond 16 MiB of them the topic is torn."""
        self._octets += len(payload) + len(detailed)
        if self._octets > MAX_STREAM_LOG_BYTES:
            topic.is_torn = True
        else:
            self._order += 1
            topic.events.append(Event(self._order, topic, payload, detailed))
        self.changed[topic] = None

    def take(self, now: int) -> "list[Change]":
        """What is to be sent now, by topic. A state that is not due yet stays for a later flush."""
        taken: list[Change] = []
        later: dict[Topic, None] = {}
        for topic in self.changed:
            with_state = False
            newcomers: Sequence[Session] = ()
            if topic.is_touched or topic.newcomers:
                if now >= topic.due_ms:
                    with_state = topic.is_touched
                    newcomers = [session for session in topic.newcomers if topic in session.topics]
                    topic.newcomers.clear()
                    topic.is_touched = False
                    topic.due_ms = now + topic.gap_ms
                else:
                    later[topic] = None
            if topic.sets and (topic.events or topic.is_torn or with_state or newcomers):
                taken.append(Change(topic, topic.events, with_state, topic.is_torn, () if with_state else newcomers))
            topic.events = []
            topic.is_torn = False
        self.changed = later
        self._octets = 0
        return taken


class Change(NamedTuple):
    """What happened in one topic since the last flush; ``newcomers`` get the state though it did not change."""

    topic: Topic
    events: Sequence[Event]
    with_state: bool
    is_torn: bool
    newcomers: "Sequence[Session]"

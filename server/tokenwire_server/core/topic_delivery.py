"""One flush of topics to everybody: what a topic set gets is made once for each format, and numbered for each client.

Trades become one batch for those who take batches; bars that closed, and states, are messages of their own.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from tokenwire_schemas.limits import MAX_BATCH, MAX_BATCH_BYTES
from tokenwire_server.core.numbering import Templates, Write, numbered
from tokenwire_server.core.ring import BATCHES, Ledger, Run, batch_data
from tokenwire_server.core.tokensets import Format
from tokenwire_server.core.topics import Change, Event, Topic, TopicSet
from tokenwire_server.core.wire import frame_template, is_worth_compressing

if TYPE_CHECKING:
    from tokenwire_server.core.session import Session

__all__ = ["Due", "TopicDelivery", "due_to"]

_AROUND_A_BATCH: Final = 64  # bytes of what stands around the entries


class Due(NamedTuple):
    """What the holders of one topic set get: events in their order, then states."""

    events: list[Event]
    states: list[Topic]
    is_torn: bool

    def octets(self, details: bool) -> int:
        """The size of the events."""
        return sum(len(event.data(details)) for event in self.events)


class TopicDelivery:
    """What is due in one flush, ready to be sent to any session. ``frames``, ``octets``, ``events``: what was."""

    __slots__ = ("_ledger", "_states", "_timestamp", "bad_states", "events", "frames", "octets")

    def __init__(self, ledger: Ledger, timestamp: int) -> None:
        self._ledger = ledger
        self._timestamp = timestamp
        self._states: dict[tuple[Topic, bool], bytes] = {}
        self.frames = 0
        self.octets = 0
        self.events = 0
        self.bad_states = 0

    def to(self, members: "Mapping[Session, Write]", due: Due, form: Format) -> Iterator[tuple[Write, bytes]]:
        """Each member's write and its frames. All are live, have ``form``, and hold the set that this is due to."""
        parts = self._parts(due, form)
        if parts:
            templates = _Templates(parts, self._timestamp, form)
            runs = tuple(part.run(self._timestamp) for part in parts) if form.replayable else ()
            yield from numbered(members, templates, runs, self._ledger, self)
            self.events += len(due.events) * len(members)

    def is_compressed(self, due: Due, form: Format) -> bool:
        """Whether a frame of this is, so that its readers' windows change."""
        return form.encoder is not None and any(
            is_worth_compressing(part.kind, self._timestamp, data)
            for part in self._parts(due, form)
            for data in part.datas()
        )

    def _parts(self, due: Due, form: Format) -> "list[_Part]":
        parts = list(_split(due.events, form))
        for topic in due.states:
            payload = self._state(topic, form.details)
            if payload:
                parts.append(_Part(topic.kind, (payload,), is_batch=False))
        return parts

    def _state(self, topic: Topic, details: bool) -> bytes:
        key = (topic, details)
        payload = self._states.get(key)
        if payload is None:
            try:
                payload = topic.newest(details)
            except Exception:  # a defect of the topic's writer; the others needn't suffer
                self.bad_states += 1
                payload = b""
            self._states[key] = payload
        return payload


def due_to(topics: TopicSet, changes: Mapping[Topic, Change]) -> Due:
    """What the holders of ``topics`` get of ``changes``."""
    theirs = [changes[topic] for topic in topics.topics if topic in changes]
    events = [event for change in theirs for event in change.events]
    if len(theirs) > 1:
        events.sort()
    return Due(events, [each.topic for each in theirs if each.with_state], any(each.is_torn for each in theirs))


class _Part(NamedTuple):
    """Payloads of one type: a frame each, or one batch of all."""

    kind: bytes
    payloads: tuple[bytes, ...]
    is_batch: bool

    def datas(self) -> Sequence[bytes]:
        return (batch_data(self.payloads, self.kind),) if self.is_batch else self.payloads

    def run(self, timestamp: int) -> Run:
        return Run(self.kind, timestamp, self.payloads, is_batch=self.is_batch)


class _Templates(Templates):
    """The frames of all parts."""

    __slots__ = ("_datas", "_form", "_timestamp")

    def __init__(self, parts: list[_Part], timestamp: int, form: Format) -> None:
        self._datas = [(part.kind, data) for part in parts for data in part.datas()]
        self._form = form
        self._timestamp = timestamp
        super().__init__(len(self._datas))

    def frames(self, digit_count: int) -> list[bytes]:
        encoder = self._form.encoder
        return [frame_template(kind, self._timestamp, data, digit_count, encoder) for kind, data in self._datas]


def _split(events: Sequence[Event], form: Format) -> Iterator[_Part]:
    """Events of one type after the other become one part, batches of at most 1000 entries and 512 KiB."""
    at = 0
    while at < len(events):
        kind = events[at].topic.kind
        batch_kind = BATCHES.get(kind) if form.batch else None
        payloads: list[bytes] = []
        size = _AROUND_A_BATCH
        while at < len(events) and events[at].topic.kind == kind:
            payload = events[at].data(form.details)
            size += len(payload) + 1
            if batch_kind and payloads and (len(payloads) == MAX_BATCH or size > MAX_BATCH_BYTES):
                break
            payloads.append(payload)
            at += 1
        yield _Part(batch_kind or kind, tuple(payloads), is_batch=batch_kind is not None)

"""Every invariant can fail: one good history in which nothing does, and small changes that each break one rule."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from loadtests.faults.history import (
    Asked,
    Began,
    Checkpointed,
    Closed,
    Converged,
    Delivered,
    Entry,
    Gapped,
    Opened,
    Overflowed,
    Produced,
    Retrying,
    Sample,
    Sent,
    Started,
    Stepped,
    Stopped,
    Wanted,
)
from loadtests.faults.invariants import judge
from loadtests.faults.rules_client import CLIENT_RULES
from loadtests.faults.rules_server import SERVER_RULES

CLIENT = "c1"


@dataclass
class Story:
    """Writes a history as one would tell it. Everything concerns one client and one session unless said otherwise."""

    entries: list[Entry] = field(default_factory=list)
    t: int = 0
    socket: int = 0
    session: str = "s1"
    run: int = 0

    def add(self, entry: Entry) -> Entry:
        self.t += 10
        self.entries.append(msgspec.structs.replace(entry, t=self.t))
        return self.entries[-1]

    def produced(self, address: str, version: int, stream: str = "st") -> None:
        self.add(Produced(0, stream, address, version, str(version)))

    def opened(self, **fields: Any) -> None:
        self.add(Opened(0, CLIENT, self.socket, **fields))

    def sent(self, kind: str, number: int, **fields: Any) -> None:
        content = {"digest": number, "timestamp": 1000 + number, **fields}
        self.add(Sent(0, CLIENT, self.socket, self.session, kind, number, **content))

    def connected(self, number: int = 1, **fields: Any) -> None:
        self.sent("connection", number, connection_id=f"id{self.socket}", stream="st", **fields)

    def acknowledged(self, number: int, action: str, *tokens: str) -> None:
        self.sent("subscription", number, action=action, tokens=tokens)

    def update(self, number: int, *versions: int, address: str = "A") -> None:
        self.sent("token_batch", number, updates=tuple((address, version, str(version)) for version in versions))

    def started(self, **fields: Any) -> None:
        self.add(Started(0, CLIENT, self.run, **fields))

    def began(self, *, resumed: bool = False) -> None:
        self.add(Began(0, CLIENT, self.run, f"id{self.socket}", resumed))

    def wanted(self, address: str, wanted: bool = True) -> None:
        self.add(Wanted(0, CLIENT, self.run, address, wanted))

    def got(self, number: int, version: int, **fields: Any) -> None:
        content = {"address": "A", "price": str(version), "version": version, **fields}
        self.add(Delivered(0, CLIENT, self.run, number, **content))

    def converged(self, *desired: str, **latest: str) -> None:
        self.add(Converged(0, CLIENT, self.run, desired, desired, latest))


def good() -> Story:
    """A session with a cut and a resume, a gap, an unsubscribe, and a second life from a checkpoint."""
    story = Story()
    for version in (1, 2, 3, 4, 5):
        story.produced("A", version)
    story.produced("B", 1)
    story.add(Sample(0, "server", {"fds": 5}))
    story.started()
    story.opened()
    story.connected()
    story.began()
    story.add(Stepped(0, CLIENT, 0, "CONNECTING", "CONNECTED"))
    story.wanted("A")
    story.wanted("B")
    story.acknowledged(2, "subscribe", "A", "B")
    story.update(3, 1)
    story.got(3, 1, snapshot=True)
    story.update(4, 3)
    story.add(Closed(0, CLIENT, 0))
    story.add(Stepped(0, CLIENT, 0, "CONNECTED", "RECONNECTING"))
    story.add(Retrying(0, CLIENT, 0, 700, 1006))
    story.socket = 1
    story.opened(session="s1", sequence=3, attempt=1)
    story.connected(4, resumed=True, numbered=False)
    story.began(resumed=True)
    story.add(Stepped(0, CLIENT, 0, "RECONNECTING", "CONNECTED"))
    story.update(4, 3)
    story.got(4, 3, missed=1)
    story.add(Asked(0, CLIENT, 1, "ack", 0, 4))
    story.add(Checkpointed(0, CLIENT, 0, "s1", 4))
    story.wanted("B", False)
    story.acknowledged(5, "unsubscribe", "B")
    story.update(6, 4)
    story.got(6, 4)
    story.add(Stopped(0, CLIENT, 0))
    story.run = 1
    story.started(session="s1", sequence=4)
    story.wanted("A")
    story.socket = 2
    story.add(Closed(0, CLIENT, 1))
    story.opened(session="s1", sequence=4, attempt=1)
    story.connected(6, resumed=True, numbered=False)
    story.began(resumed=True)
    story.add(Stepped(0, CLIENT, 1, "CONNECTING", "CONNECTED"))
    story.acknowledged(5, "unsubscribe", "B")
    story.update(6, 4)
    story.got(6, 4)
    story.update(7, 5)
    story.sent("heartbeat", 7, numbered=False)
    story.got(7, 5)
    story.converged("A", A="5")
    story.add(Sample(0, "server", {"fds": 5}))
    return story


def test_the_good_history_is_good() -> None:
    assert judge(good().entries) == []


Change = Callable[[list[Entry]], None]
BROKEN: dict[str, list[tuple[str, Change]]] = {}


def breaks(rule: str) -> Callable[[Change], Change]:
    def register(change: Change) -> Change:
        BROKEN.setdefault(rule, []).append((change.__name__, change))
        return change

    return register


def find(entries: list[Entry], kind: type, which: int = 0, **fields: Any) -> int:
    """The position of an entry of ``kind`` with these fields."""
    hits = [
        position
        for position, entry in enumerate(entries)
        if isinstance(entry, kind) and all(getattr(entry, name) == value for name, value in fields.items())
    ]
    return hits[which]


def alter(entries: list[Entry], position: int, **fields: Any) -> None:
    entries[position] = msgspec.structs.replace(entries[position], **fields)


@breaks("contiguous")
def a_number_is_skipped(entries: list[Entry]) -> None:
    alter(entries, find(entries, Sent, sequence=7, numbered=True), sequence=8)


@breaks("replay_equal")
def a_replay_has_other_content(entries: list[Entry]) -> None:
    alter(entries, find(entries, Sent, 1, sequence=4, numbered=True), digest=77)


@breaks("socket_order")
def a_resume_begins_one_too_late(entries: list[Entry]) -> None:
    del entries[find(entries, Sent, 1, sequence=4, numbered=True)]


@breaks("socket_order")
def a_resume_begins_one_too_early(entries: list[Entry]) -> None:
    position = find(entries, Sent, 1, sequence=4, numbered=True)
    entries.insert(position, msgspec.structs.replace(entries[position], sequence=3, digest=3))


@breaks("socket_order")
def numbers_go_back_unasked(entries: list[Entry]) -> None:
    entries.append(entries[find(entries, Sent, -1, sequence=6)])


@breaks("high_water")
def a_resumed_session_numbered_while_detached(entries: list[Entry]) -> None:
    alter(entries, find(entries, Sent, socket=1, type="connection"), sequence=9)


@breaks("high_water")
def a_heartbeat_claims_too_much(entries: list[Entry]) -> None:
    alter(entries, find(entries, Sent, type="heartbeat"), sequence=8)


@breaks("one_socket")
def the_old_socket_goes_on(entries: list[Entry]) -> None:
    alter(entries, find(entries, Sent, sequence=7, numbered=True), socket=1)


@breaks("live_sockets")
def the_old_socket_stays_open(entries: list[Entry]) -> None:
    del entries[find(entries, Closed, socket=1)]


@breaks("held")
def an_update_after_the_unsubscribe(entries: list[Entry]) -> None:
    alter(entries, find(entries, Sent, sequence=7, numbered=True), updates=(("A", 5, "5"), ("B", 1, "1")))


@breaks("held")
def an_update_before_the_subscribe(entries: list[Entry]) -> None:
    alter(entries, find(entries, Sent, sequence=2), tokens=("B",))


@breaks("versions")
def a_version_goes_back_on_the_wire(entries: list[Entry]) -> None:
    alter(entries, find(entries, Sent, sequence=7, numbered=True), updates=(("A", 2, "2"),))


@breaks("truth")
def a_price_that_never_was(entries: list[Entry]) -> None:
    alter(entries, find(entries, Sent, sequence=7, numbered=True), updates=(("A", 5, "500"),))


@breaks("truth")
def a_price_of_another_version(entries: list[Entry]) -> None:
    alter(entries, find(entries, Sent, sequence=7, numbered=True), updates=(("A", 5, "4"),))


@breaks("timestamps")
def a_timestamp_decreases(entries: list[Entry]) -> None:
    alter(entries, find(entries, Sent, sequence=7, numbered=True), timestamp=5)


@breaks("acknowledged")
def an_ack_from_the_future(entries: list[Entry]) -> None:
    alter(entries, find(entries, Asked), last=5)


@breaks("resources")
def a_leaked_descriptor(entries: list[Entry]) -> None:
    alter(entries, find(entries, Sample, 1), counts={"fds": 6})


@breaks("order")
def a_value_twice(entries: list[Entry]) -> None:
    position = find(entries, Delivered, sequence=7)
    entries.insert(position, entries[position])


@breaks("order")
def a_value_before_the_checkpoint_again(entries: list[Entry]) -> None:
    position = find(entries, Delivered, run=1)
    entries.insert(position, msgspec.structs.replace(entries[position], sequence=4, price="3", version=3))


@breaks("invented")
def a_value_nobody_sent(entries: list[Entry]) -> None:
    alter(entries, find(entries, Delivered, sequence=7), price="6")


@breaks("invented")
def a_value_before_any_connection(entries: list[Entry]) -> None:
    entries.insert(find(entries, Began), entries[find(entries, Delivered)])


@breaks("complete")
def a_silent_hole(entries: list[Entry]) -> None:
    del entries[find(entries, Delivered, sequence=4)]


@breaks("complete")
def the_end_never_arrives(entries: list[Entry]) -> None:
    del entries[find(entries, Delivered, sequence=7)]


@breaks("complete")
def more_left_out_than_counted(entries: list[Entry]) -> None:
    del entries[find(entries, Delivered, sequence=4)]
    alter(entries, find(entries, Sent, 0, sequence=3), updates=(("A", 1, "1"), ("A", 2, "2")))
    entries.append(Overflowed(0, CLIENT, 0, 1))


@breaks("gap_true")
def a_gap_over_a_delivered_value(entries: list[Entry]) -> None:
    entries.append(Gapped(0, CLIENT, 1, 6, 6, "evicted"))


@breaks("gap_true")
def an_empty_gap(entries: list[Entry]) -> None:
    entries.append(Gapped(0, CLIENT, 1, 9, 8, "evicted"))


@breaks("checkpoint")
def a_checkpoint_ahead_of_consumption(entries: list[Entry]) -> None:
    checkpoint = entries.pop(find(entries, Checkpointed))
    entries.insert(find(entries, Delivered, sequence=4), checkpoint)


@breaks("checkpoint")
def a_checkpoint_over_what_never_comes(entries: list[Entry]) -> None:
    checkpoint = msgspec.structs.replace(entries.pop(find(entries, Checkpointed)), sequence=6)  # type: ignore[type-var]
    del entries[find(entries, Delivered, sequence=6, run=0)]
    entries.insert(find(entries, Stopped), checkpoint)


@breaks("rising")
def an_older_value_after_a_newer_one(entries: list[Entry]) -> None:
    alter(entries, find(entries, Delivered, sequence=7), price="2", version=2)


@breaks("missed")
def conflation_uncounted(entries: list[Entry]) -> None:
    alter(entries, find(entries, Delivered, sequence=4), missed=0)


@breaks("missed")
def conflation_invented(entries: list[Entry]) -> None:
    alter(entries, find(entries, Delivered, sequence=7), missed=1)


@breaks("every_version")
def one_of_every_version_is_missing(entries: list[Entry]) -> None:
    alter(entries, find(entries, Started), every=True)


@breaks("steps")
def a_state_is_jumped_over(entries: list[Entry]) -> None:
    del entries[find(entries, Stepped, 1)]


@breaks("steps")
def failed_is_not_the_end(entries: list[Entry]) -> None:
    entries.append(Stepped(0, CLIENT, 1, "CONNECTED", "FAILED"))
    entries.append(Stepped(0, CLIENT, 1, "FAILED", "CONNECTED"))


@breaks("delays")
def a_wait_beyond_the_cap(entries: list[Entry]) -> None:
    alter(entries, find(entries, Retrying), delay_ms=30_001)


@breaks("delays")
def back_at_once_after_overload(entries: list[Entry]) -> None:
    alter(entries, find(entries, Retrying), code=4001, delay_ms=999)


@breaks("delays")
def earlier_than_asked(entries: list[Entry]) -> None:
    alter(entries, find(entries, Retrying), retry_after_ms=5000)


@breaks("subscriptions")
def a_token_is_not_served(entries: list[Entry]) -> None:
    alter(entries, find(entries, Converged), served=())


@breaks("values")
def the_last_value_is_old(entries: list[Entry]) -> None:
    alter(entries, find(entries, Converged), latest={"A": "4"})


@breaks("values")
def the_last_value_was_never_sent(entries: list[Entry]) -> None:
    entries.append(Produced(0, "st", "A", 6, "6"))


@pytest.mark.parametrize(("rule", "change"), [(rule, change) for rule, made in BROKEN.items() for _, change in made],
                         ids=lambda value: getattr(value, "__name__", value))  # fmt: skip
def test_a_broken_history_fires_the_rule(rule: str, change: Change) -> None:
    story = good()
    change(story.entries)
    violations = judge(story.entries)
    assert rule in {violation.invariant for violation in violations}
    violation = next(violation for violation in violations if violation.invariant == rule)
    assert rule in str(violation)
    assert CLIENT in str(violation) or rule == "resources"


def test_every_rule_has_a_history_that_breaks_it() -> None:
    assert set(BROKEN) == {*SERVER_RULES, *CLIENT_RULES}, "those of trades and bars are broken in test_market_rules"


def test_a_gap_excuses_a_hole() -> None:
    entries = good().entries
    position = find(entries, Delivered, sequence=4)
    alter(entries, find(entries, Delivered, sequence=6, run=0), missed=2)
    entries[position] = Gapped(entries[position].t, CLIENT, 0, 4, 4, "evicted")
    assert [violation.invariant for violation in judge(entries)] == []


def test_a_counted_replacement_in_the_queue_is_no_hole() -> None:
    entries = good().entries
    alter(entries, find(entries, Delivered, sequence=6, run=0), missed=2)
    entries[find(entries, Delivered, sequence=4)] = Overflowed(0, CLIENT, 0, 1)
    del entries[find(entries, Checkpointed)]
    assert judge(entries) == []


def test_a_new_session_supersedes_the_rest_of_the_old() -> None:
    story = Story()
    story.produced("A", 1)
    story.produced("A", 2)
    story.started()
    story.opened()
    story.wanted("A")
    story.connected()
    story.began()
    story.acknowledged(2, "subscribe", "A")
    story.update(3, 1)
    story.add(Closed(0, CLIENT, 0))
    story.socket, story.session = 1, "s2"
    story.opened()
    story.connected(reason="unknown_session")
    story.began()
    story.acknowledged(2, "subscribe", "A")
    story.update(3, 2)
    story.got(3, 2, snapshot=True)
    story.converged("A", A="2")
    assert judge(story.entries) == []


def test_a_replay_may_go_back_when_asked_and_a_gap_names_its_lost_beginning() -> None:
    story = Story()
    story.opened()
    story.connected()
    for number in (2, 3, 4):
        story.sent("error", number)
    story.add(Asked(0, CLIENT, 0, "replay", 2, 4))
    story.sent("gap", 4, numbered=False, first=2, last=2)
    story.sent("error", 3)
    story.sent("error", 4)
    story.sent("error", 5)
    assert judge(story.entries) == []
    del story.entries[find(story.entries, Sent, type="gap")]
    assert {violation.invariant for violation in judge(story.entries)} == {"socket_order"}


def test_violations_of_a_rule_are_limited() -> None:
    story = Story()
    story.opened()
    for number in range(2, 200, 2):
        story.sent("error", number)
    assert len([found for found in judge(story.entries, limit=3) if found.invariant == "contiguous"]) == 3

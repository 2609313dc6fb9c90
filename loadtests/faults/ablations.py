"""Mistakes made on purpose: each must be found by the simulation within a stated number of seeds.

An ablation replaces one piece of either core by one with a well-known mistake in it. What finds none of them would
find none of ours. ``python -m loadtests.faults.ablations`` prints the table of ``README.md``.
"""

import re
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final
from unittest.mock import patch

import msgspec

from loadtests.faults.simulation import simulate
from tokenwire import queue as client_queue
from tokenwire.backoff import Backoff
from tokenwire.delivery import Delivery
from tokenwire.events import Connected, Gap
from tokenwire.outbound import Outbound
from tokenwire.queue import EventQueue
from tokenwire.sequence import Place, SequenceReader
from tokenwire.session import ClientSession
from tokenwire.subscriptions import Subscriptions
from tokenwire.tokens import TokenTable
from tokenwire_server.core.hub import Hub
from tokenwire_server.core.lifecycle import Lifecycle
from tokenwire_server.core.ring import Ring, Run
from tokenwire_server.core.session import Session
from tokenwire_server.core.subscribing import Subscriber
from tokenwire_server.core.upstream import Upstream

__all__ = ["ABLATIONS", "Ablation", "Found", "hunt"]

Patcher = Callable[[Any, str, Any], None]
"""Puts something in the place of an attribute, until the hunt is over."""


@dataclass(frozen=True, slots=True)
class Ablation:
    """One mistake: how it is made, how many seeds it may live, and which invariants it breaks."""

    name: str
    text: str
    make: Callable[[Patcher], None]
    within: int
    breaks: frozenset[str]


@dataclass(frozen=True, slots=True)
class Found:
    """After how many seeds a mistake was found, and by which invariants."""

    seeds: int
    invariants: tuple[str, ...]
    example: str


_PATIENCE_S: Final = 2  # a mistake may also show as an endless loop

ABLATIONS: Final[dict[str, Ablation]] = {}


def _ablation(within: int, *breaks: str) -> Callable[[Callable[[Patcher], None]], Callable[[Patcher], None]]:
    def register(make: Callable[[Patcher], None]) -> Callable[[Patcher], None]:
        text = (make.__doc__ or "").strip()
        name = make.__name__
        ABLATIONS[name] = Ablation(name, text, make, within, frozenset(breaks))
        return make

    return register


def hunt(ablation: Ablation, start: int = 0) -> Found | None:
    """Simulate with the mistake, seed after seed, until one of its invariants breaks."""
    with ExitStack() as stack:

        def replace(target: Any, name: str, value: Any) -> None:
            stack.enter_context(patch.object(target, name, value))

        ablation.make(replace)
        for seed in range(start, start + ablation.within):
            violations = simulate(seed, patience_s=_PATIENCE_S).violations
            broken = tuple(dict.fromkeys(violation.invariant for violation in violations))
            if ablation.breaks & {*broken}:
                example = next(violation for violation in violations if violation.invariant in ablation.breaks)
                return Found(seed - start + 1, broken, str(example))
    return None


# --- the server's numbers and replays ------------------------------------------------------------------------


@_ablation(100, "socket_order", "complete")
def replay_begins_one_too_late(replace: Patcher) -> None:
    """Resume replays from N+2."""
    resume = Session.resume

    def late(self: Session, position: int, greeting: bytes) -> None:
        resume(self, position, greeting)
        if self.replay is not None and self.replay[0] < self.replay[1]:
            self.replay = (self.replay[0] + 1, self.replay[1])

    replace(Session, "resume", late)


@_ablation(100, "replay_equal")
def replay_encodes_the_newest_value(replace: Patcher) -> None:
    """A replay sends the value of now under the number of then."""
    data = Run.data
    replace(Run, "data", lambda self, index: re.sub(rb'"price":"(\d+)"', rb'"price":"1\1"', data(self, index)))


@_ablation(100, "socket_order", "complete")
def floor_not_raised_on_eviction(replace: Patcher) -> None:
    """The ring forgets frames and still claims to hold them."""

    drop = Ring._drop

    def trim(self: Ring, last: int) -> None:
        floor = self.floor
        while len(self._runs) > 1 and (self.octets > self._max_bytes or last - self._first >= self._max_frames):
            drop(self)
        self.floor = floor

    replace(Ring, "_trim", trim)


@_ablation(100, "high_water", "contiguous")
def numbered_while_detached(replace: Patcher) -> None:
    """A session without a socket goes on counting what it would have been sent."""
    tick = Hub.tick

    def go_on(self: Hub, now: int, wall: int) -> Any:
        yield from tick(self, now, wall)
        for session in self.registry.detached:
            session.drain(self.board, wall, self.stats)

    replace(Hub, "tick", go_on)


@_ablation(100, "contiguous")
def numbered_before_conflation(replace: Patcher) -> None:
    """A value gets its number when it changes, and a newer one takes its place before it is written."""
    derive = Session._derive

    def number_early(self: Session, board: Any) -> None:
        before = len(self.pending or ())
        derive(self, board)
        self.sequence += 1 if len(self.pending or ()) > before else 0

    replace(Session, "_derive", number_early)


@_ablation(100, "one_socket", "live_sockets", "socket_order")
def no_supersede(replace: Patcher) -> None:
    """The old socket of a resumed session goes on."""
    replace(Lifecycle, "_supersede", lambda self, holder, now: None)


@_ablation(200, "held")
def pending_survives_the_unsubscribe(replace: Patcher) -> None:
    """What waits to be sent is not removed by an unsubscribe."""
    replace(Session, "forget", lambda self, row: None)


@_ablation(100, "timestamps")
def timestamps_follow_the_wall_clock(replace: Patcher) -> None:
    """A clock that is set back shows in the messages."""
    replace(Hub, "_stamp", lambda self, wall: wall)


@_ablation(500, "values")
def behind_is_forgotten(replace: Patcher) -> None:
    """What changed while nobody could be written to is not made up for."""

    def forget(self: Session, board: Any) -> None:
        self.synced_tick = board.tick

    replace(Session, "_derive", forget)


@_ablation(300, "values")
def restored_without_values(replace: Patcher) -> None:
    """After a lost position the subscriptions are restored, and their values are not sent."""
    replace(Session, "want_all", lambda self: None)


@_ablation(300, "values")
def known_is_off_by_one(replace: Patcher) -> None:
    """A client that knows version N is not sent N+1."""
    apply = Subscriber.apply

    def skip(self: Subscriber, request: Any, *rest: Any) -> Any:
        if request.known:
            known = {address: version + 1 for address, version in request.known.items()}
            request = msgspec.structs.replace(request, known=known)
        return apply(self, request, *rest)

    replace(Subscriber, "apply", skip)


@_ablation(300, "every_version", "missed")
def every_drops_silently(replace: Patcher) -> None:
    """A full queue of single versions loses some and says nothing."""

    def drop(self: Upstream, session: Session, items: Any, octets: int, *, lost: bool) -> None:
        session.push_stream(items[: len(items) // 2 + 1], octets)
        if session.link is not None:
            self._ready[session.link] = None

    replace(Upstream, "_stream_to", drop)


@_ablation(100, "resources")
def detached_sessions_stay(replace: Patcher) -> None:
    """The window passes, and nobody clears up."""
    replace(Lifecycle, "forget_detached", lambda self, now: None)


@_ablation(100, "resources", "defect")
def rings_leak(replace: Patcher) -> None:
    """What a destroyed session held is never released."""
    replace(Ring, "clear", lambda self, high_water: None)


# --- the client ----------------------------------------------------------------------------------------------


@_ablation(300, "order")
def duplicates_are_delivered(replace: Patcher) -> None:
    """What was received before is delivered once more."""
    place = SequenceReader.place

    def accept(self: Any, sequence: int, size: int, message: Any) -> Place:
        found = place(self, sequence, size, message)
        return Place.NEXT if found is Place.DUPLICATE else found

    replace(SequenceReader, "place", accept)


@_ablation(300, "complete", "missed")
def holes_are_not_noticed(replace: Patcher) -> None:
    """The client takes every higher number for the next one."""
    place = SequenceReader.place

    def accept(self: Any, sequence: int, size: int, message: Any) -> Place:
        if sequence > self.last:
            self.last = sequence - 1
        return place(self, sequence, size, message)

    replace(SequenceReader, "place", accept)


@_ablation(100, "complete")
def position_one_too_high(replace: Patcher) -> None:
    """The client resumes at N+1 and believes it has that."""
    connect = ClientSession._connect

    def ahead(self: Any, now: int) -> None:
        if self._resumable:
            self._stream.reader.last += 1
        connect(self, now)

    replace(ClientSession, "_connect", ahead)


@_ablation(100, "rising", "missed", "order")
def versions_are_not_compared(replace: Patcher) -> None:
    """Older values replace newer ones."""
    apply = Delivery.apply

    def trust(self: Any, updates: Any, *rest: Any) -> None:
        for token in self._table.tokens.values():
            token.version = None
        apply(self, updates, *rest)

    replace(Delivery, "apply", trust)


@_ablation(300, "complete", "values")
def versions_compared_across_streams(replace: Patcher) -> None:
    """The versions of a restarted server without its state are taken for older ones."""
    replace(TokenTable, "forget_versions", lambda self: None)


@_ablation(100, "acknowledged")
def ack_above_what_was_received(replace: Patcher) -> None:
    """An ack is one too high."""
    acknowledge = Outbound.acknowledge

    def ahead(self: Any, position: int | None, now: int, *, final: bool) -> None:
        acknowledge(self, None if position is None else position + 1, now, final=final)

    replace(Outbound, "acknowledge", ahead)


@_ablation(100, "subscriptions", "values")
def resubscribe_forgets_a_token(replace: Patcher) -> None:
    """After a lost session one token is not asked for again."""
    ask = Subscriptions._ask

    def forget(self: Any, entries: Any) -> None:
        ask(self, list(entries)[1:])

    replace(Subscriptions, "_ask", forget)


@_ablation(300, "checkpoint", "complete")
def checkpoint_ahead_of_consumption(replace: Patcher) -> None:
    """A checkpoint covers what was received, not what was taken."""
    checkpoint = Delivery.checkpoint

    def ahead(self: Any, last: int, attempt: int) -> Any:
        made = checkpoint(self, last, attempt)
        return made if made.session is None else msgspec.structs.replace(made, position=max(made.position, last))

    replace(Delivery, "checkpoint", ahead)


@_ablation(300, "complete", "missed", "every_version")
def queue_drops_silently(replace: Patcher) -> None:
    """A full queue lets go of the oldest value and says nothing."""
    put = EventQueue.put

    def drop(self: Any, event: Any) -> None:
        if len(self) >= self.limit:
            self.take()
        put(self, event)

    replace(EventQueue, "put", drop)


@_ablation(300, "missed")
def queue_conflates_uncounted(replace: Patcher) -> None:
    """What the client's own queue replaces is not added to `missed`."""
    replace(client_queue, "_newest", lambda older, newer: newer)


@_ablation(300, "complete")
def gaps_are_not_told(replace: Patcher) -> None:
    """A hole is given up, and the application never hears of it."""
    tell = Delivery.tell

    def hush(self: Any, event: Any, floor: int, lineage: Any = None) -> None:
        if not isinstance(event, Gap):
            tell(self, event, floor, lineage)

    replace(Delivery, "tell", hush)


@_ablation(100, "invented", "complete", "order")
def a_new_session_is_not_told(replace: Patcher) -> None:
    """The numbers start over, and the application does not know why."""
    tell = Delivery.tell

    def hush(self: Any, event: Any, floor: int, lineage: Any = None) -> None:
        if not isinstance(event, Connected):
            tell(self, event, floor, lineage)

    replace(Delivery, "tell", hush)


@_ablation(100, "delays")
def backoff_without_a_cap(replace: Patcher) -> None:
    """Waits grow beyond 30 s."""
    delay = Backoff.next_delay

    def longer(self: Any, **options: Any) -> int | None:
        found = delay(self, **options)
        return None if found is None else found * 40

    replace(Backoff, "next_delay", longer)


@_ablation(100, "delays")
def back_at_once_after_overload(replace: Patcher) -> None:
    """Full jitter also after a close for overload or restart."""
    delay = Backoff.next_delay
    replace(Backoff, "next_delay", lambda self, **options: delay(self, **{**options, "floor": False}))


@_ablation(100, "values", "subscriptions")
def no_watchdog(replace: Patcher) -> None:
    """A silent connection is taken for a living one."""
    timer = ClientSession._live_timer

    def trust(self: Any, now: int, wall: int) -> None:
        self._heard_ms = now
        timer(self, now, wall)

    replace(ClientSession, "_live_timer", trust)


def _main() -> int:
    failed = False
    print("| mistake | found after | by |\n|---|---|---|")
    for ablation in ABLATIONS.values():
        found = hunt(ablation)
        failed |= found is None
        result = "not found" if found is None else f"{found.seeds} seeds (limit {ablation.within})"
        by = "" if found is None else ", ".join(name for name in found.invariants if name in ablation.breaks)
        print(f"| {ablation.text} | {result} | {by} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(_main())

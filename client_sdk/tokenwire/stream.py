"""The numbered stream of one session, over all its sockets: put in order, checked, turned into events (I-65)."""

import contextlib
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import UNSET

from tokenwire.channels import ChannelMessage
from tokenwire.clock import ClockEstimate
from tokenwire.config import ClientConfig
from tokenwire.cuts import MAX_CODE_CHARS, cut, cut_names
from tokenwire.delivery import Delivery
from tokenwire.events import Error, Event, Gap, Stale
from tokenwire.faults import Faults
from tokenwire.holes import HoleWatch
from tokenwire.metrics import ClientMetrics
from tokenwire.outbound import Outbound
from tokenwire.reading import Unread
from tokenwire.sequence import Lost, Place, SequenceReader
from tokenwire.subscriptions import Subscriptions
from tokenwire.tokens import TokenTable
from tokenwire_schemas import limits
from tokenwire_schemas.close_codes import CloseCode
from tokenwire_schemas.errors import CATALOGUE, ErrorCode
from tokenwire_schemas.extension_messages import (
    ExtendedConnection,
    ExtendedError,
    ExtendedServerMessage,
    ExtendedSubscription,
    ExtendedTokenUpdate,
    ExtendedTokenUpdateData,
    Heartbeat,
    TokenBatch,
)
from tokenwire_schemas.extension_messages import Gap as GapMessage

__all__ = ["Ending", "Message", "Stream"]

_STALE_CODES: Final = frozenset({ErrorCode.UPSTREAM_STALE, ErrorCode.UPSTREAM_UNAVAILABLE})

Message = ExtendedServerMessage | Unread

_MAX_SHOWN_CHARS: Final = 100
_REFUSED_ACTION: Final = "Nothing to do, the client asks again from time to time; or unsubscribe what is too much."


class Ending(msgspec.Struct, frozen=True):
    """This side has to end the socket. ``resumable``: the session may be resumed on the next one."""

    code: CloseCode
    cause: str
    resumable: bool = True


class Stream:
    """Reads the messages of live sockets. After each call look at ``ending`` and ``fatal``."""

    __slots__ = (
        "_clock",
        "_config",
        "_delivery",
        "_faults",
        "_max_ahead",
        "_metrics",
        "_outbound",
        "_subscriptions",
        "_table",
        "_timestamp",
        "can_replay",
        "ending",
        "fatal",
        "fatal_ms",
        "holes",
        "reader",
        "replay_to",
    )

    def __init__(
        self,
        config: ClientConfig,
        metrics: ClientMetrics,
        table: TokenTable,
        delivery: Delivery,
        subscriptions: Subscriptions,
        outbound: Outbound,
        clock: ClockEstimate,
    ) -> None:
        self._config = config
        self._metrics = metrics
        self._table = table
        self._delivery = delivery
        self._subscriptions = subscriptions
        self._outbound = outbound
        self._clock = clock
        self._faults = Faults()
        self._timestamp = 0
        self._max_ahead = max(config.hold_frames, limits.RESUME_MAX_FRAMES)  # no server keeps more to be replayed
        self.reader: SequenceReader[Message] = SequenceReader(config.hold_frames, config.hold_bytes)
        self.holes = HoleWatch(config)
        self.can_replay = False
        """The session has ``resume``, so what is missing can be asked for."""
        self.replay_to = 0
        """Up to this number messages are the replay of a resumed session."""
        self.ending: Ending | None = None
        self.fatal: str | None = None
        """The code of the fatal error that the server ends this socket with."""
        self.fatal_ms = 0

    # --- sockets and sessions ---------------------------------------------------------------------------------

    def new_socket(self) -> None:
        """A socket was opened."""
        self.ending = self.fatal = None
        self._faults.new_socket()

    def resume(self, high_water: int, now: int) -> None:
        """The session goes on after the last number received; up to ``high_water`` it is a replay."""
        self.reader.restart(self.reader.last)
        self.replay_to = high_water
        self.can_replay = True
        self.holes.resume(high_water)

    def begin(self, sequence: int, *, can_replay: bool) -> None:
        """A new session, whose connection message had the number ``sequence``.

        Numbering begins with that message whatever it says: nothing can have been lost before it.
        """
        self.reader.restart(sequence)
        self._metrics.frames += 1
        self._timestamp = 0
        self.replay_to = 0
        self.can_replay = can_replay
        self.holes.begin()

    # --- messages ---------------------------------------------------------------------------------------------

    def message(self, message: Message, size: int, now: int, wall: int) -> None:
        """One message of a live socket: unnumbered ones at once, the others in the order of their numbers."""
        if isinstance(message, Heartbeat):
            self._heartbeat(message, now, wall)
        elif isinstance(message, GapMessage):
            self._gap(message, now, wall)
        elif isinstance(message, Unread):
            if message.problem is None:
                self._metrics.unknown_messages += 1
            else:
                self.invalid(message.problem, now, wall)
            if message.sequence is not None and self.ending is None:
                self._numbered(message, message.sequence, size, now, wall)
        elif not 1 <= message.sequence <= limits.MAX_SEQUENCE:
            self.invalid(f"sequence {message.sequence} is out of range", now, wall)
        elif isinstance(message, ExtendedConnection) and message.data.resumed is True:
            self.invalid("a session resumed in mid-stream", now, wall)
        else:
            self._numbered(message, message.sequence, size, now, wall)

    def _numbered(self, message: Message, sequence: int, size: int, now: int, wall: int) -> None:
        reader = self.reader
        place = reader.place(sequence, size, message)
        if place is Place.NEXT:
            self._deliver(sequence, message, now, wall)
            if not reader.is_straight:
                self._release(now, wall)
            elif self.holes.is_open:
                self._watch(now)
        elif place is Place.DUPLICATE:
            self._metrics.duplicates += 1
            if not isinstance(message, Unread) and message.timestamp > self._timestamp:
                # A copy is as old as what it is a copy of: this is something new under an old number.
                self.invalid(f"sequence {sequence} again after {reader.last}", now, wall)
        else:
            self._metrics.reordered += 1
            if isinstance(message, ExtendedError) and message.data.code == ErrorCode.REPLAY_UNAVAILABLE:
                self._ask_later(message, now)
            if place is Place.FULL and not self.can_replay:
                self._abandon(now, wall)
            else:
                self._watch(now)

    def _release(self, now: int, wall: int) -> None:
        """What was put aside and has its turn now."""
        is_broken = False
        for found in self.reader.release():
            if isinstance(found, Lost):
                is_broken = True
                self._announce(found, wall)
            else:
                self._deliver(found.sequence, found.message, now, wall)
        if is_broken:
            self._subscriptions.exchanges.send_again()  # what is still open may have been answered in the gap
        self._watch(now)

    def _deliver(self, sequence: int, message: Message, now: int, wall: int) -> None:
        """The next message in order."""
        metrics = self._metrics
        metrics.frames += 1
        if isinstance(message, Unread):
            return
        replayed = sequence <= self.replay_to
        timestamp = message.timestamp
        self._timestamp = max(self._timestamp, timestamp)
        if not replayed:
            metrics.observe_latency(self._clock.server_now(now, wall) - timestamp)
        if isinstance(message, TokenBatch):
            self._apply(message.data.updates, message, now, wall, replayed)
        elif isinstance(message, ExtendedTokenUpdate):
            self._apply((message.data,), message, now, wall, replayed)
        elif isinstance(message, ChannelMessage):
            wrong = self._delivery.happened(message, wall)
            if wrong is not None:
                why = f"what cannot be read of {wrong[:_MAX_SHOWN_CHARS]!r}"
                self.invalid(why, now, wall, is_tolerated=True)
        elif isinstance(message, ExtendedSubscription):
            problem = self._subscriptions.reply(message.data, now, replayed=replayed)
            if problem is not None:
                self.invalid(problem, now, wall)
            return
        elif isinstance(message, ExtendedError):
            self.error(message, sequence, now, wall)
            return
        if self._subscriptions.exchanges.partial:
            self._subscriptions.progress(now)

    def _apply(
        self,
        updates: Sequence[ExtendedTokenUpdateData],
        message: TokenBatch | ExtendedTokenUpdate,
        now: int,
        wall: int,
        replayed: bool,
    ) -> None:
        wrong = self._delivery.apply(updates, message.sequence, message.timestamp, wall, replayed)
        if wrong is not None:
            # Told, but tolerated: one bad source must not end the connection for all the other tokens.
            why = f"figures that cannot be relied on in a value of {wrong[:_MAX_SHOWN_CHARS]!r}"
            self.invalid(why, now, wall, is_tolerated=True)

    def _heartbeat(self, message: Heartbeat, now: int, wall: int) -> None:
        high, reader = message.sequence, self.reader
        if not reader.last <= high <= reader.last + self._max_ahead:
            self.invalid(f"heartbeat with sequence {high} after {reader.last}", now, wall)
            return
        if message.data.echo is not UNSET and self._clock.pong(message.data.echo, message.timestamp, now, wall):
            self._metrics.rtt_ms = self._clock.rtt_ms
            self._metrics.clock_offset_ms = self._clock.offset_ms
        if high > reader.last:
            reader.notice(high)
            self._watch(now)

    def _gap(self, message: GapMessage, now: int, wall: int) -> None:
        data = message.data
        if not 1 <= data.first <= data.last <= message.sequence <= limits.MAX_SEQUENCE:
            self.invalid(f"gap from {data.first} to {data.last} at {message.sequence}", now, wall)
            return
        self.reader.announce(Lost(data.first, data.last, data.cause, data.repair))
        self._release(now, wall)

    def _announce(self, lost: Lost, wall: int) -> None:
        self._metrics.gaps += 1
        self._metrics.lost_frames += lost.last - lost.first + 1
        if lost.repair == "snapshot":
            self._table.expect_snapshots()
        event = Gap(lost.first, lost.last, cut(lost.cause), lost.repair, wall)
        self._delivery.tell(event, lost.first - 1)

    def error(self, message: ExtendedError, sequence: int | None, now: int, wall: int) -> None:
        """An error message; ``sequence`` None: before the connection message, so of no session."""
        data = message.data
        self._metrics.errors += 1
        names = cut_names(self._subscriptions.error(data, now))
        code, text = cut(data.code, MAX_CODE_CHARS), cut(data.message)
        event: Event
        if data.code in _STALE_CODES:
            event = Stale(code, text, () if data.tokens is UNSET else cut_names(data.tokens), wall)
        else:
            action = ""
            with contextlib.suppress(ValueError):
                action = CATALOGUE[ErrorCode(data.code)].action
            event = Error(code, text, data.level, action, names, wall)
        self._delivery.tell(event, self.reader.last if sequence is None else sequence - 1)
        if sequence is not None and sequence <= self.replay_to:
            return  # history, not a command
        if data.level == "fatal":
            if self.fatal is None:  # repeated, it must not put off the end
                self.fatal, self.fatal_ms = code, now
        elif data.code == ErrorCode.RATE_LIMITED:
            self._outbound.rate_limited(0 if data.retry_after_ms is UNSET else data.retry_after_ms, now)
        elif data.code == ErrorCode.REPLAY_UNAVAILABLE:
            self._ask_later(message, now)

    # --- faults -------------------------------------------------------------------------------------------------

    def invalid(self, why: str, now: int, wall: int, *, is_tolerated: bool = False) -> None:
        """The server sent what is no message, or contradicts itself; ten times a minute are too many."""
        self._metrics.invalid_messages += 1
        if self._faults.add(why, now, is_tolerated=is_tolerated) and self.ending is None:
            self.ending = Ending(CloseCode.PROTOCOL_ERROR, "too many invalid messages")
        self.tell_faults(now, wall)

    def tell_faults(self, now: int, wall: int, *, at_once: bool = False) -> None:
        """The event about invalid messages, if it is time for one."""
        told = self._faults.tell(now, wall, at_once=at_once)
        if told is not None:
            self._delivery.tell(told, self.reader.last)

    def tell_refusals(self, wall: int) -> None:
        """The events about what was accepted once and is refused now."""
        for code, names in self._subscriptions.refusals.take_untold().items():
            text = f"refused although it was accepted before: {code}"
            self._delivery.tell(Error(code, text, "error", _REFUSED_ACTION, cut_names(names), wall), self.reader.last)

    @property
    def faults_due(self) -> int | None:
        """When :meth:`tell_faults` has something."""
        return self._faults.due

    # --- holes --------------------------------------------------------------------------------------------------

    def _watch(self, now: int) -> None:
        """Looks at the hole in front, and asks for what is missing if that is possible."""
        ask = self.holes.look(self.reader.hole(), now, can_replay=self.can_replay)
        if ask is not None:
            if self._outbound.replay(*ask, now):
                self.holes.asked(ask[1])
            else:
                self.holes.ask_later(self._outbound.ready_at(now))

    def _ask_later(self, message: ExtendedError, now: int) -> None:
        """The server cannot replay now."""
        wait = 0 if message.data.retry_after_ms is UNSET else message.data.retry_after_ms
        self.holes.refused(now + max(wait, self._config.hold_ms // 2))

    def hole_timer(self, now: int, wall: int) -> None:
        """Gives up on a hole that stays open."""
        if not self.holes.is_open:
            return
        if not self.holes.is_hopeless(now, can_replay=self.can_replay):
            self._watch(now)
        elif self.can_replay:
            cause = f"messages from {self.reader.last + 1} on were lost and not replayed"
            self.ending = Ending(CloseCode.SESSION_LOST, cause, resumable=False)
        else:
            self._abandon(now, wall)

    def _abandon(self, now: int, wall: int) -> None:
        """Nothing can be replayed: say what is lost, go on, and have the values sent again."""
        self.reader.abandon("lost", "snapshot")
        self._release(now, wall)
        self._subscriptions.repair()

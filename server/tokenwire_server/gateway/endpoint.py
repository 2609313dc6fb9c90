"""The endpoint's shell: clocks, the tick, the timer wheel's drive, and the drain at shutdown."""

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from tokenwire_schemas.errors import ErrorCode
from tokenwire_schemas.limits import STREAM_FLUSH_MS
from tokenwire_server.core.grants import grant
from tokenwire_server.core.hub import Hub
from tokenwire_server.core.link import Link
from tokenwire_server.core.numbering import Write
from tokenwire_server.core.states import LinkState
from tokenwire_server.core.stats import Observer
from tokenwire_server.gateway.outlet import Outlet
from tokenwire_server.telemetry.logs import get_log

__all__ = ["Endpoint", "Hurry", "next_tick", "spread"]

_log = get_log(__name__)

_TIMER_S: Final = 0.25
_STALENESS_EVERY: Final = 4  # timer runs
_WRITES_AT_ONCE: Final = 32
"""Written in a row: with 1000 different sets a third faster than one by one, as the readers, once awake, stay so."""
_SLICE_NS: Final = 10_000_000
"""For which writing keeps everybody else waiting; the rest of a tick's frames follows when they had their turn."""
_SLICE_AMONG_REQUESTS_NS: Final = 250_000
"""The same while HTTP requests come. More turns cost more, which only they are worth."""
_MAX_HELD_BYTES: Final = 8_388_608  # of such frames
_DRAIN_STEP_S: Final = 0.05

Hurry = Callable[[], bool]
"""Asked between the steps of a drain: once true, the rest happens at once."""

T = TypeVar("T")


class Endpoint:
    """Owns the hub's relation to time. All sockets of the endpoint share one; it runs in one event loop."""

    def __init__(
        self,
        hub: Hub,
        update_interval_s: float,
        origin_allowed: Callable[[str | None, str | None], bool],
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.hub = hub
        self.origin_allowed = origin_allowed
        self.update_interval_s = update_interval_s
        self.before_tick: Sequence[Callable[[float], None]] = ()  # called with a tick's planned instant
        self.handshakes_refused: dict[int, int] = {}
        self.ticks_skipped = 0
        self.defects = 0  # exceptions that should not have been
        self.tick_lag: Observer | None = None
        self.tick_time: Observer | None = None
        self.requests: Callable[[], int] = lambda: 0  # how many HTTP requests were answered by the same loop
        self._wall_ms = wall_ms
        self._loop = asyncio.get_running_loop()
        self._tick_handle: asyncio.TimerHandle | None = None
        self._timer_handle: asyncio.TimerHandle | None = None
        self._flush_handle: asyncio.TimerHandle | None = None
        self._start_s = 0.0
        self._timer_runs = 0
        self._held: deque[Outlet] = deque()  # with frames that are still to be written
        self._held_handle: asyncio.Handle | None = None
        self._tick_began_ns: int | None = None  # whose frames those are
        self._slice_ns = _SLICE_NS
        self._requests = 0  # at the last writing

    def now(self) -> int:
        """Monotonic milliseconds."""
        return int(self._loop.time() * 1000)

    def start(self) -> None:
        """Begin to tick."""
        self._start_s = self._loop.time()
        self._plan_tick(1)
        self._timer_handle = self._loop.call_later(_TIMER_S, self._run_timers)

    def stop(self) -> None:
        """No more ticks; connections stay as they are."""
        self._write_held(at_once=True)
        for handle in (self._tick_handle, self._timer_handle, self._flush_handle):
            if handle is not None:
                handle.cancel()
        self._tick_handle = self._timer_handle = self._flush_handle = None

    async def drain(self, seconds: float, hurry: Hurry = lambda: False) -> None:
        """Tell everybody SERVER_SHUTDOWN and close 1012, spread over ``seconds``; then wait for the farewells."""
        hub = self.hub
        hub.draining = True
        links = [link for link in hub.links if link.state is LinkState.CONNECTED]
        await spread(links, seconds, hurry, self._see_off)
        patience = self._loop.time() + hub.config.close_timeout_ms / 1000
        while (hub.links or hub.rejected) and self._loop.time() < patience and not hurry():
            await asyncio.sleep(_DRAIN_STEP_S)
        for link in (*hub.links, *hub.parting):
            link.socket.abort()

    def _see_off(self, link: Link) -> None:
        self.hub.fail(link, ErrorCode.SERVER_SHUTDOWN, self.now())
        self.pump(link)

    # --- called by connections -------------------------------------------------------------------------------

    def pump(self, link: Link) -> None:
        """Write what the hub has for ``link``, as long as the socket takes it."""
        try:
            while data := self.hub.pump(link, self._wall_ms()):
                link.socket.write(data)
        except Exception as error:  # a defect; numbers may have been taken for frames that nobody gets
            self.defects += 1
            _log.error("writing failed", exc_info=error, id=link.connection_id)
            link.socket.abort()
        self._plan_flush()

    def defect(self, link: Link, error: Exception) -> None:
        """Handling a client's bytes raised: our fault. That client is told so and closed, nobody else."""
        self.defects += 1
        _log.error("connection failed", exc_info=error, id=link.connection_id)
        self.hub.fail(link, ErrorCode.INTERNAL_ERROR, self.now())
        self.pump(link)

    def opened(self, link: Link, peer: str) -> None:
        """A handshake succeeded."""
        granted = grant(link.offer)
        fields = {"caps": ",".join(granted.capabilities)} if granted.capabilities else {}
        _log.info("connection opened", id=link.connection_id, peer=peer, deflate=link.is_deflated, **fields)

    def refused(self, status: int) -> None:
        """A handshake was answered with an HTTP error."""
        self.handshakes_refused[status] = self.handshakes_refused.get(status, 0) + 1

    def lost(self, link: Link, error: Exception | None) -> None:
        """The socket of ``link`` is gone."""
        fields: dict[str, object] = {"sent": link.session.sequence or link.sent}
        self.hub.disconnect(link)
        if link.close_with is not None:
            fields["code"] = link.close_with[0]
        if error is not None:
            fields["error"] = error
        _log.info("connection closed", id=link.connection_id, **fields)

    # --- time ------------------------------------------------------------------------------------------------

    def _plan_tick(self, number: int) -> None:
        planned = self._start_s + number * self.update_interval_s
        self._tick_handle = self._loop.call_at(planned, self._tick, number, planned)

    def _tick(self, number: int, planned: float) -> None:
        begin = self._loop.time()
        begin_ns = time.perf_counter_ns()
        for callback in self.before_tick:
            try:
                callback(planned)
            except Exception as error:  # a source's defect, which must not cost anybody the tick
                self.defects += 1
                _log.error("source failed before a tick", exc_info=error)
        self._follow_sets()
        self._write_all(self.hub.tick)
        if self.tick_lag is not None:
            self.tick_lag.observe((begin - planned) * 1000)
        self._tick_began_ns = begin_ns
        if not self._held:
            self._tick_is_written()
        end = begin + (time.perf_counter_ns() - begin_ns) / 1e9
        following = next_tick(number, end - self._start_s, self.update_interval_s)
        self.ticks_skipped += following - number - 1
        self._plan_tick(following)

    def _follow_sets(self) -> None:
        try:
            if self.hub.followers:
                self.hub.follow_sets(self.now())
                self.pump_ready()
        except Exception as error:  # as above
            self.defects += 1
            _log.error("sets failed", exc_info=error)

    def _write_all(self, send: Callable[[int, int], Iterator[tuple[Write, bytes]]]) -> None:
        """Write what ``send`` yields. What takes longer than a slice of time is held back and written in slices."""
        self._write_held(at_once=True)
        requests = self.requests()
        self._slice_ns = _SLICE_NS if requests == self._requests else _SLICE_AMONG_REQUESTS_NS
        self._requests = requests
        ready: list[tuple[Write, bytes]] = []
        until_ns = time.perf_counter_ns() + self._slice_ns
        room = _MAX_HELD_BYTES
        try:
            for pair in send(self.now(), self._wall_ms()):
                ready.append(pair)
                if len(ready) == _WRITES_AT_ONCE:
                    chunk, ready = ready, []
                    if room <= 0 or time.perf_counter_ns() < until_ns:
                        self._write(chunk)
                    else:
                        room -= self._hold(chunk)
        except Exception as error:  # a defect, which must not be the last tick of everybody
            self.defects += 1
            _log.error("sending failed", exc_info=error)
        self._write(ready)
        if self._held:
            self._held_handle = self._loop.call_soon(self._write_held)

    def _hold(self, ready: list[tuple[Write, bytes]]) -> int:
        """Keep these for :meth:`_write_held`; how many bytes they are. Whatever else is written goes behind them."""
        octets = 0
        for write, data in ready:
            outlet = getattr(write, "__self__", None)
            if isinstance(outlet, Outlet):
                outlet.hold(data)
                self._held.append(outlet)
                octets += len(data)
        return octets

    def _write_held(self, *, at_once: bool = False) -> None:
        """Write what is held, for a slice of time or all of it."""
        if not self._held:
            return
        if self._held_handle is not None:
            self._held_handle.cancel()
            self._held_handle = None
        until_ns = time.perf_counter_ns() + self._slice_ns
        while self._held:
            for _ in range(min(_WRITES_AT_ONCE, len(self._held))):
                outlet = self._held.popleft()
                try:
                    outlet.release()
                except Exception as error:  # as in _write()
                    self._write_failed(outlet, error)
            if not at_once and time.perf_counter_ns() >= until_ns:
                break
        if self._held:
            self._held_handle = self._loop.call_soon(self._write_held)
        else:
            self._tick_is_written()

    def _tick_is_written(self) -> None:
        if self._tick_began_ns is not None and self.tick_time is not None:
            self.tick_time.observe((time.perf_counter_ns() - self._tick_began_ns) / 1e6)
        self._tick_began_ns = None

    def _write(self, ready: list[tuple[Write, bytes]]) -> None:
        """Write each, whatever becomes of the others."""
        for write, data in ready:
            try:
                write(data)
            except Exception as error:  # numbers were taken for frames that this client does not get
                self._write_failed(getattr(write, "__self__", None), error)

    def _write_failed(self, outlet: object, error: Exception) -> None:
        self.defects += 1
        _log.error("writing failed", exc_info=error)
        if isinstance(outlet, Outlet):
            with contextlib.suppress(Exception):
                outlet.abort()

    def _run_timers(self) -> None:
        try:
            self._handle_timers(self.now())
        except Exception as error:  # as above
            self.defects += 1
            _log.error("timers failed", exc_info=error)
        self._timer_handle = self._loop.call_later(_TIMER_S, self._run_timers)

    def _flush_streams(self) -> None:
        """Send events and single versions to those who want every one, as long as there are any."""
        hub = self.hub
        self._flush_handle = None
        try:
            hub.flush_stream()
            self._write_all(hub.flush_topics)
            self.pump_ready()
        except Exception as error:  # as above
            self.defects += 1
            _log.error("flush failed", exc_info=error)
        self._plan_flush()

    def _plan_flush(self) -> None:
        if self._flush_handle is None and (self.hub.streaming or len(self.hub.topics)):
            self._flush_handle = self._loop.call_later(STREAM_FLUSH_MS / 1000, self._flush_streams)

    def pump_ready(self) -> None:
        """Write whatever waits for anybody."""
        for link in self.hub.take_ready():
            self.pump(link)

    def _handle_timers(self, now: int) -> None:
        hub = self.hub
        pings, aborts = hub.timers(now)
        for link in pings:
            link.socket.write(hub.ping)
        for link in aborts:
            link.socket.abort()
        self._timer_runs += 1
        if self._timer_runs % _STALENESS_EVERY == 0:
            hub.check_staleness(now)
        self.pump_ready()


async def spread(each: list[T], seconds: float, hurry: Hurry, do: Callable[[T], object]) -> None:
    """Do something with all of ``each``, the last one first, evenly over ``seconds``; the list is empty then."""
    clock = asyncio.get_running_loop().time
    total = len(each)
    begin = clock()
    while each:
        share = (clock() - begin + _DRAIN_STEP_S) / max(seconds, _DRAIN_STEP_S)
        keep = 0 if hurry() or share >= 1.0 else total - math.ceil(total * share)
        while len(each) > keep:
            do(each.pop())
        if each:
            await asyncio.sleep(_DRAIN_STEP_S)


def next_tick(number: int, elapsed_s: float, interval_s: float) -> int:
    """The tick after ``number``, ``elapsed_s`` after tick 0: a late one is skipped, not doubled."""
    return max(number + 1, int(elapsed_s / interval_s) + 1)

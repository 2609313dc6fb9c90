"""One connection of the reference client, from the first message to the reason of its end."""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tokenwire_conformance.figures import IDLE_TIMEOUT_S, MAX_BATCH, MAX_MESSAGE_BYTES
from tokenwire_conformance.wire.frames import Opcode
from tokenwire_conformance.wire.messages import Received
from tokenwire_conformance.wire.wire import Clock, EndedError, SilenceError

from .delivery import Delivery, die, told
from .opening import ClientWire
from .requests import request_text
from .zstd import DecodeError, Decoder

__all__ = ["Connection", "Ending", "Session"]

_PING_S: Final = 10.0  # after the last byte of the server's
_ACK_S: Final = 1.0  # after the first number that is not acknowledged
_GIVE_UP_S: Final = 5.0  # on a hole (I-65)
_LAST_WORDS_S: Final = 1.0  # between a fatal error and its close frame
_REPAIR_S: Final = 1.0  # between two repairs without resume
_HELD: Final = 1024
_BROKEN: Final = {
    "dies-on-bad-utf8": "not utf-8", "dies-on-reserved-bits": "reserved bit", "dies-on-unknown-opcode": "opcode",
}  # fmt: skip
"""Words that tell from each other how a server broke the WebSocket protocol."""
_KEYS: Final = {"type", "sequence", "timestamp", "data"}


class _LeaveError(Exception):
    def __init__(self, code: int, *, resume: bool = True) -> None:
        super().__init__(str(code))
        self.code: Final = code
        self.resume: Final = resume


@dataclass(frozen=True, slots=True)
class Ending:
    """How a connection ended."""

    code: int
    """Of the close frame; 1006 without one."""
    own: bool
    """Whether the client decided it."""


@dataclass(slots=True)
class Session:
    """What outlives a connection."""

    secret: str | None = None
    """Of the extension resume; ``None`` where there is nothing to resume."""
    last: int = 0
    """The last number received in order."""
    attempt: int = 0
    connections: int = 0
    """Opened so far."""
    seen: set[int] = field(default_factory=set)
    """Numbers received since the count began."""


class Connection:
    """Reads one connection. ``session`` is shared by all of a client's connections."""

    def __init__(
        self, wire: ClientWire, session: Session, wanted: tuple[str, ...], emit: Callable[[str], None], clock: Clock,
        faults: frozenset[str],
    ) -> None:  # fmt: skip
        self._wire = wire
        self._session = session
        self._wanted = wanted
        self._emit = emit
        self._clock = clock
        self._faults = faults
        self._loop = asyncio.get_running_loop()
        self._granted: frozenset[str] = frozenset()
        self._greeted = False
        self._sent = 0
        self._held: dict[int, dict[str, Any]] = {}
        self._high = 0
        self._history_to = 0
        self._asked_to = 0
        self._give_up_s: float | None = None
        self._ack_s: float | None = None
        self._over_s: float | None = None
        self._ping_s = wire.opened_s
        self._repaired_s = float("-inf")
        self._delivery = Delivery(emit, faults)
        self._zstd = Decoder(faults)
        self._dead = False

    async def run(self) -> Ending:
        """Read until the end.

        Raises:
            DiedError: A flag makes the client end.
        """
        try:
            while True:
                try:
                    message = await self._wire.receive(max(0.0, self._next_s() - self._loop.time()))
                except SilenceError:
                    await self._due()
                else:
                    await self._read(message)
        except EndedError:
            self._broken(self._wire.broken or "")
            code = self._wire.close_code
            return Ending(1006 if code is None else code, own=self._wire.broken is not None)
        except _LeaveError as leave:
            if not leave.resume and "gives-up-by-resuming" not in self._faults:
                self._session.secret = None
            if "leaves-open" not in self._faults:
                await self._wire.close(leave.code)
            return Ending(leave.code, own=True)

    # --- time ----------------------------------------------------------------------------------------------
    def _idle_s(self) -> float:
        if "never-notices-silence" in self._faults:
            return float("inf")
        limit_s = IDLE_TIMEOUT_S
        if "notices-early" in self._faults:
            limit_s = 8.0
        if "notices-late" in self._faults:
            limit_s = 40.0
        life_s = self._wire.last_byte_s
        if "pings-are-no-life" in self._faults:
            pongs = [control.at_s for control in self._wire.controls if control.opcode is Opcode.PONG]
            life_s = max(self._wire.last_message_s, *pongs[-1:], 0.0)
        return life_s + limit_s

    def _next_s(self) -> float:
        ping_s = max(self._wire.last_byte_s, self._ping_s) + _PING_S
        times = (self._idle_s(), ping_s, self._give_up_s, self._ack_s, self._over_s)
        return min(time for time in times if time is not None)

    async def _due(self) -> None:
        # A timer may fire early by the resolution of the loop's clock.
        now_s = self._loop.time() + 0.001
        if now_s >= self._idle_s():
            raise _LeaveError(4000)
        if self._over_s is not None and now_s >= self._over_s:
            raise _LeaveError(1000)
        if self._give_up_s is not None and now_s >= self._give_up_s:
            self._emit(told("gap", **{"from": self._session.last + 1, "to": self._hole_end()}))
            raise _LeaveError(4000, resume=False)
        if self._ack_s is not None and now_s >= self._ack_s:
            self._ack_s = None
            ahead = 1 if "acks-ahead" in self._faults else 0
            await self._send("ack", {"sequence": self._session.last + ahead})
        if now_s >= max(self._wire.last_byte_s, self._ping_s) + _PING_S:
            self._ping_s = self._loop.time()
            await self._wire.ping()

    # --- sending -------------------------------------------------------------------------------------------
    async def _send(self, kind: str, data: Mapping[str, Any]) -> None:
        self._sent += 1
        text = request_text(kind, self._sent, self._clock.wall_ms(), data, self._faults)
        await self._wire.request(text)

    async def _subscribe(self, tokens: tuple[str, ...]) -> None:
        step = len(tokens) if "one-long-request" in self._faults else MAX_BATCH
        for at in range(0, len(tokens), step or 1):
            part = tokens[at : at + step]
            await self._send("subscription", {"action": "subscribe", "tokens": list(part), "status": "success"})

    # --- reading -------------------------------------------------------------------------------------------
    async def _read(self, message: Received) -> None:
        self._check_wire(message)
        payload = message.payload
        if message.opcode is Opcode.BINARY:
            if "zstd" not in self._granted:
                self._die("dies-on-binary")
                return
            try:
                payload = self._zstd.decode(payload)
            except DecodeError as error:
                raise _LeaveError(error.code) from error
        taken = "decodes-bombs" in self._faults and message.opcode is Opcode.BINARY
        if not taken and len(payload) > MAX_MESSAGE_BYTES - ("limit-off-by-one" in self._faults):
            raise _LeaveError(1009)
        try:
            envelope = json.loads(payload.decode(), parse_constant=_refuse)
        except (ValueError, RecursionError):
            self._die("dies-on-bad-json")
            return
        if not isinstance(envelope, dict):
            self._die("dies-on-no-object")
            return
        if not set(envelope) >= _KEYS:
            self._die("dies-on-missing-key")
        if not set(envelope) <= _KEYS:
            self._die("dies-on-unknown-field")
        await self._take(envelope)

    def _broken(self, how: str) -> None:
        for fault, word in _BROKEN.items():
            if word in how.lower():
                self._die(fault)

    def _check_wire(self, message: Received) -> None:
        leaves = {
            "no-fragments": message.fragments > 1,
            "no-inflate": message.compressed,
            "no-plain": self._wire.deflate is not None and not message.compressed,
            "small-messages": len(message.payload) > 65_536,
        }
        for name, holds in leaves.items():
            if holds and name in self._faults:
                raise _LeaveError(4000)

    async def _take(self, envelope: dict[str, Any]) -> None:
        kind, number = envelope.get("type"), _whole(envelope.get("sequence"))
        data = envelope.get("data")
        if not isinstance(data, dict):
            self._die("dies-on-wrong-type" if "data" in envelope else "dies-on-missing-key")
            data = {}
        if kind == "connection" and not self._greeted:
            await self._greet(data, number or 1)
        elif kind == "heartbeat" and "heartbeat" in self._granted:
            if number is not None and "ignores-heartbeat" not in self._faults:
                await self._loss_to(number + ("counts-heartbeat" in self._faults))
        elif kind == "gap" and "resume" in self._granted:
            await self._announced(data)
        elif number is not None:
            await self._numbered(number, envelope)
        elif "sequence" in envelope:
            self._die("dies-on-wrong-type")

    async def _greet(self, data: dict[str, Any], number: int) -> None:
        session = self._session
        self._greeted = True
        self._granted = frozenset(_names(data.get("capabilities")))
        self._delivery.granted = self._granted
        listed = data.get("subscriptions")
        held: set[str] | None = None
        if isinstance(listed, list):
            held = set(_names([entry.get("token") for entry in listed if isinstance(entry, dict)]))
        if data.get("resumed") is True and session.secret is not None:
            # The message has no number of its own: it tells up to which one everything is history.
            self._history_to = self._high = number
            self._asked_to = number
            if session.last < number:
                self._give_up_s = self._loop.time() + _GIVE_UP_S
            held = set(self._wanted) if held is None else held
        else:
            if "false-gap" in self._faults and session.last:
                self._emit(told("gap", **{"from": session.last + 1, "to": session.last + 1}))
            if "count-goes-on" not in self._faults:
                session.last = 0
                session.seen.clear()
            session.secret = None
            await self._numbered(number, {"type": "connection", "data": data})
        if "resume" in self._granted and isinstance(data.get("session"), str):
            session.secret = data["session"]
        todo = tuple(name for name in self._wanted if name not in (held or ()))
        if session.connections > 1:
            todo = self._after_return(todo)
        if data.get("status") == "connected" and todo:
            await self._subscribe(todo)

    def _after_return(self, todo: tuple[str, ...]) -> tuple[str, ...]:
        if "loses-subscriptions" in self._faults:
            return ()
        if "forgets-one" in self._faults:
            return todo[:-1]
        return (*todo, "CONFORMANCE-OLD") if "subscribes-to-more" in self._faults else todo

    # --- numbers -------------------------------------------------------------------------------------------
    async def _numbered(self, number: int, envelope: dict[str, Any]) -> None:
        session = self._session
        if "errors-uncounted" in self._faults and envelope.get("type") == "error":
            self._deliver(envelope, replayed=False)
            return
        if number <= session.last:
            again = number in session.seen
            if ("delivers-duplicates" if again else "delivers-late") in self._faults:
                self._deliver(envelope, replayed=False)
            return
        if number == session.last + 1 or "silent-gap" in self._faults:
            await self._accept(number, envelope)
        elif "resume" in self._granted:
            self._held[number] = envelope
            if len(self._held) > _HELD:
                raise _LeaveError(4000, resume=False)
            if "no-hold-back" in self._faults:
                self._deliver(envelope, replayed=False)
            self._high = max(self._high, number)
            await self._hole()
        else:
            await self._lost(number - 1)
            await self._accept(number, envelope)
            if "drops-after-gap" in self._faults:
                self._dead = True

    async def _lost(self, end: int) -> None:
        wrong = "gap-off-by-one" in self._faults
        self._emit(told("gap", **{"from": self._session.last + 1, "to": end + wrong}))
        self._session.last = end
        # The values are asked for again, but not in answer to every single loss.
        if self._loop.time() >= self._repaired_s + _REPAIR_S:
            self._repaired_s = self._loop.time()
            await self._subscribe(self._wanted)

    async def _accept(self, number: int, envelope: dict[str, Any]) -> None:
        self._one(number, envelope)
        await self._progress()

    def _one(self, number: int, envelope: dict[str, Any]) -> None:
        self._session.last = number
        self._session.seen.add(number)
        self._high = max(self._high, number)
        if not (number in self._held and "no-hold-back" in self._faults):
            self._deliver(envelope, replayed=number <= self._history_to)

    async def _progress(self) -> None:
        session = self._session
        if "resume" in self._granted and self._ack_s is None:
            self._ack_s = self._loop.time() + _ACK_S
        while session.last + 1 in self._held:
            self._one(session.last + 1, self._held[session.last + 1])
        for number in [number for number in self._held if number <= session.last]:
            del self._held[number]
        self._give_up_s = None
        if session.last < self._high:
            await self._hole()

    def _hole_end(self) -> int:
        return min(self._held) - 1 if self._held else self._high

    async def _hole(self) -> None:
        if self._give_up_s is None and "never-gives-up" not in self._faults:
            self._give_up_s = self._loop.time() + _GIVE_UP_S
        first, end = self._session.last + 1, self._hole_end()
        if (first <= self._asked_to and "two-replays" not in self._faults) or "no-replay" in self._faults:
            return
        self._asked_to = max(self._asked_to, end)
        self._history_to = max(self._history_to, end)
        await self._send("replay", {"from": first - ("replays-too-much" in self._faults), "to": end})

    async def _loss_to(self, number: int) -> None:
        if number <= self._high and number <= self._session.last:
            return
        if "resume" in self._granted:
            if number > self._high:
                self._high = number
                await self._hole()
        elif number > self._session.last:
            await self._lost(number)

    async def _announced(self, data: dict[str, Any]) -> None:
        first, end = _whole(data.get("from")), _whole(data.get("to"))
        if first is None or end is None or first > end:
            self._die("dies-on-wrong-type")
            return
        self._emit(told("gap", **{"from": first, "to": end}))
        if first <= self._session.last + 1 <= end:
            self._session.last = end
            await self._progress()

    # --- delivery ------------------------------------------------------------------------------------------
    def _deliver(self, envelope: dict[str, Any], *, replayed: bool) -> None:
        if self._over_s is None and not self._dead and self._delivery.deliver(envelope, replayed=replayed):
            self._over_s = self._loop.time() + _LAST_WORDS_S

    def _die(self, fault: str) -> None:
        die(self._faults, fault)


def _whole(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _names(value: object) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")

"""One socket after its handshake: frames in, messages out, heartbeat, and its end."""

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

from conformance.tests.reference.frames import BadFrameError, InboundFrame, Inflater, Parser
from conformance.tests.reference.limiter import Limiter, Rate
from conformance.tests.reference.outlet import Outlet
from conformance.tests.reference.requests import PROTOCOL, Refusal, Request, parse, serve_subscription
from conformance.tests.reference.session import Session

if TYPE_CHECKING:
    from conformance.tests.reference.server import ReferenceServer

__all__ = ["Connection"]

_BINARY, _CLOSE, _PING, _PONG = 2, 8, 9, 10
_HEARTBEAT_S: Final = 15.0
_IDLE_S: Final = 20.0
_MESSAGE_S: Final = 20.0
_MAX_FRAGMENTS: Final = 4096
_MEGABYTE: Final = 1_048_576


class Connection(Outlet):
    """Both halves, and the heartbeat."""

    def __init__(
        self, server: "ReferenceServer", reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
        session: Session, *, deflate: bool, caps: frozenset[str],
    ) -> None:  # fmt: skip
        super().__init__(server, reader, writer, session, deflate=deflate, caps=caps)
        self.limit = 100
        self.leaked = 0
        """Places that a fault takes away."""
        self.haunted: dict[str, None] = {}
        """Tokens that a fault goes on sending."""
        self._limiter = Limiter(self._loop.time(), session.faults)
        most = 1_000_000 if "megabyte_refused" in self._faults else _MEGABYTE
        self._max_bytes = 16 * most if "oversize_served" in self._faults else most
        self._parser = Parser(deflate=deflate, max_bytes=self._max_bytes)
        self._inflater = Inflater(16 * most if "bomb_inflated" in self._faults else self._max_bytes)
        self._parts: list[InboundFrame] = []
        self._size = 0
        self._begun_s: float | None = None
        self._last_byte_s = self._loop.time()
        self._next_inbound: int | None = None
        self._gap_warned = False
        self._refusals = 0

    # --- its life ----------------------------------------------------------------------------------------------
    async def run(self, early: bytes = b"") -> None:
        """Until the socket has ended."""
        self._beat()
        self._watch()
        data = early
        try:
            while True:
                if data:
                    self._received(data)
                data = await self._reader.read(65_536)
                if not data:
                    break
        except ConnectionError:
            pass
        finally:
            self._end()

    def _end(self) -> None:
        self.ended = True
        for timer in self._timers:
            timer.cancel()
        if self._unblocking is not None:
            self._unblocking.cancel()
        self._writer.close()
        self.server.detached(self)

    def _beat(self) -> None:
        """The ping of every 15 s, and the heartbeat message of an idle socket."""
        faults = self._faults
        if self.closing:
            return
        interval_s = _HEARTBEAT_S
        if self._loop.time() - self._sent_s >= _HEARTBEAT_S - 0.001:
            if "heartbeat" in self._caps and "heartbeat_never" not in faults:
                self.session.outbox.append(("heartbeat", {"pending": len(self.session.pending)}, False))
                self.flush()
            if "heartbeat_unasked" in faults:
                self.session.outbox.append(("heartbeat", {}, True))
                self.flush()
        if "no_ping" not in faults and self._loop.time() > self._opened_s:
            self._write(_PING, b"")
        due_s = interval_s
        if "heartbeat" in self._caps:
            due_s = min(due_s, max(0.5, self._sent_s + _HEARTBEAT_S - self._loop.time()))
            self._later(due_s, self._beat_message)
            due_s = interval_s
        self._later(due_s, self._beat)

    _opened_s = 0.0

    def _beat_message(self) -> None:
        """The heartbeat message falls due between two pings."""
        if self.closing or "heartbeat_never" in self._faults:
            return
        left_s = self._sent_s + _HEARTBEAT_S - self._loop.time()
        if left_s > 0.001:
            if left_s < _HEARTBEAT_S:
                self._later(left_s, self._beat_message)
            return
        self.session.outbox.append(("heartbeat", {"pending": len(self.session.pending)}, False))
        self.flush()

    def _watch(self) -> None:
        """The peer is dead after 20 s without a byte."""
        faults = self._faults
        if self.closing or "never_drops_dead" in faults:
            return
        limit_s = 10.0 if "drops_after_10_s" in faults else _IDLE_S
        left_s = self._last_byte_s + limit_s - self._loop.time()
        if left_s > 0:
            self._later(left_s, self._watch)
        else:
            self.close(1001 if "dead_told_1001" in faults else 4000, "no sign of life")

    # --- in ----------------------------------------------------------------------------------------------------
    def _received(self, data: bytes) -> None:
        if "only_pong_is_life" not in self._faults:
            self._last_byte_s = self._loop.time()
        try:
            for inbound in self._parser.feed(data):
                before = self._refusals
                self._frame(inbound)
                if self.ended or ("rest_dropped_after_refusal" in self._faults and self._refusals > before):
                    return
        except BadFrameError as error:
            self._broken(error)
            return
        if (self._parser.is_inside or self._parts) and not self.closing:
            if self._begun_s is None:
                self._begun_s = self._loop.time()
                self._later(_MESSAGE_S, self._unfinished)
        else:
            self._begun_s = None

    def _unfinished(self) -> None:
        begun_s = self._begun_s
        if begun_s is None or self.closing or "unfinished_kept" in self._faults:
            return
        left_s = begun_s + _MESSAGE_S - self._loop.time()
        if left_s > 0.001:
            self._later(left_s, self._unfinished)
        else:
            self.fail("INVALID_MESSAGE", "a message was not complete after 20 s", 1008)

    def _broken(self, error: BadFrameError) -> None:
        if error.code == 1009 and not self.closing:
            self._too_large(str(error))
        elif error.code != 1009:
            if "violation_ends_others" in self._faults:
                self.server.end_others(self)
            self.close(error.code, str(error))
            self._writer.close()
            self._reader.feed_eof()

    def _too_large(self, text: str) -> None:
        self.fail("MESSAGE_TOO_LARGE", text, 1009)

    def _frame(self, inbound: InboundFrame) -> None:
        opcode = inbound.opcode
        if opcode == _CLOSE:
            self._closed(inbound.payload)
        elif self.closing:
            return
        elif opcode in {_PING, _PONG}:
            if opcode == _PONG:
                self._last_byte_s = self._loop.time()
            admitted = self._admit(self._limiter.control(self._loop.time()))
            if admitted and opcode == _PING and "pong_missing" not in self._faults:
                self._write(_PONG, b"" if "pong_without_payload" in self._faults else inbound.payload)
        else:
            self._part(inbound)

    def _closed(self, payload: bytes) -> None:
        if not self.closing and payload[:2] == b"\x03\xe8" and "close_keeps_session" not in self._faults:
            self.session.dead = True
        if not self.closing:
            self.closing = True
            if "close_not_answered" in self._faults:
                return
            self._write(_CLOSE, payload[:2])
        self._writer.close()
        self._reader.feed_eof()

    def _part(self, inbound: InboundFrame) -> None:
        faults = self._faults
        if (inbound.opcode == 0) != bool(self._parts):
            raise BadFrameError(1002, "fragments out of order")
        if "fragments_refused" in faults and not inbound.fin:
            raise BadFrameError(1003, "fragments")
        self._parts.append(inbound)
        self._size += len(inbound.payload)
        if len(self._parts) > _MAX_FRAGMENTS and "fragments_unbounded" not in faults:
            self.fail("MESSAGE_TOO_LARGE", "more than 4096 fragments", 1009)
            return
        if self._size > self._max_bytes:
            self._parts, self._size = [], 0
            raise BadFrameError(1009, "a message of more than 1 MB")
        if not inbound.fin:
            return
        parts, self._parts, self._size = self._parts, [], 0
        payload = b"".join(part.payload for part in parts)
        if parts[0].rsv1 and "compressed_requests_refused" in faults:
            raise BadFrameError(1002, "a compressed message")
        if len(payload) > 65_536 and "long_requests_refused" in faults:
            raise BadFrameError(1009, "a message of more than 64 KiB")
        if parts[0].rsv1:
            payload = self._inflater.inflate(payload)
        if parts[0].opcode == _BINARY and "binary_accepted" not in faults:
            self.fail("BINARY_NOT_SUPPORTED", "messages are text", 1003)
            return
        try:
            text = payload.decode("utf-8", "replace" if "bad_utf8_dropped" in faults else "strict")
            if "\ufffd" in text and "bad_utf8_dropped" in faults:
                return
        except UnicodeDecodeError as error:
            raise BadFrameError(1007, "not UTF-8") from error
        self._message(text)

    def _admit(self, rate: Rate) -> bool:
        if rate is Rate.TELL:
            text = f"{self._limiter.dropped} messages dropped"
            self._limiter.dropped = 0
            self.error("RATE_LIMITED", text)
            self.flush()
        elif rate is Rate.CUT:
            self.fail("RATE_LIMITED", "the flood went on for 10 s", 4005)
        return rate is Rate.ACCEPT

    def _message(self, text: str) -> None:
        session, faults, now_s = self.session, self._faults, self._loop.time()
        caps = session.caps
        try:
            request = parse(
                text, resume="resume" in caps, details="details" in caps, channels="channels" in caps, faults=faults
            )
        except Refusal as refusal:
            if "deep_json_breaks" in faults and isinstance(refusal.__cause__, RecursionError):
                self.abort()
                return
            if "huge_numbers_break" in faults and len(text) > 5_000 and "9" * 400 in text:
                self.abort()
                return
            if self._admit(self._limiter.message(now_s)):
                self._limiter.charge(len(text))
                if "refused_message_applied" in faults:
                    found = (name for name in self.server.market.names if f'"{name}"' in text)
                    session.held.update({name: {"token": None} for name in found})
                if "batch_refusal_lists_all" in faults and refusal.code == "BATCH_LIMIT":
                    names = [name for name in json.loads(text)["data"]["tokens"] if isinstance(name, str)]
                    data = {"action": "subscribe", "tokens": names, "status": "error"}
                    session.outbox.append(("subscription", data, True))
                self._refuse(refusal)
            return
        small = request.kind in {"ack", "ping"}
        if not self._admit(self._limiter.control(now_s) if small else self._limiter.message(now_s)):
            return
        self._limiter.charge(len(text))
        if len(session.outbox) >= 256:
            self.close(4001, "too many replies wait")
            return
        if request.sequence is not None and not self._sequence(request.sequence):
            return
        if "answers_late" in faults and request.kind == "subscription":
            self._later(0.5, lambda: self._serve(request))
        else:
            self._serve(request)

    def _serve(self, request: Request) -> None:
        if request.kind == "subscription":
            serve_subscription(self, request)
        elif request.kind == "ack":
            self._ack(request)
        elif request.kind == "replay":
            self._replay(request)
        else:
            self._ping(request)
        self.flush()

    def _refuse(self, refusal: Refusal) -> None:
        faults = self._faults
        self._refusals += 1
        code = refusal.code
        if "error_text_of_a_megabyte" in faults and code == "INVALID_ACTION":
            refusal = Refusal(code, str(refusal).ljust(1_100_000, "."))
        if code == "INVALID_JSON":
            if "silence_on_bad_json" in faults:
                return
            if "closes_on_bad_json" in faults:
                self.close(1007, "not JSON")
                return
        if f"silence_on_{code.lower()}" in faults:
            return
        if self._limiter.refusal(self._loop.time()) and refusal.code in PROTOCOL:
            self.fail(code, str(refusal), 4502)
        else:
            self.error(code, str(refusal))
            self.flush()

    def _sequence(self, sequence: int) -> bool:
        """Note a client's number; whether its message is served."""
        faults = self._faults
        expected, self._next_inbound = self._next_inbound, sequence + 1
        if "falling_numbers_end" in faults and expected is not None and sequence < expected - 1:
            self.close(1008, "numbers fall")
            return False
        if expected is None or sequence <= expected or self._gap_warned:
            return True
        self._gap_warned = True
        if "gap_not_told" in faults:
            return True
        self.error("SEQUENCE_GAP", f"expected {expected}, got {sequence}")
        self.flush()
        return True

    def _ping(self, request: Request) -> None:
        faults = self._faults
        if "ping_needs_grant" in faults and "heartbeat" not in self._caps:
            self._refuse(Refusal("UNKNOWN_TYPE", "unknown type ping"))
            return
        data: dict[str, Any] = {"pending": len(self.session.pending)}
        if "echo" in request.data and request.data["echo"] is not None and "echo_missing" not in faults:
            echo = request.data["echo"]
            data = {"echo": echo, **data}
        if "heartbeat_extra_field" in faults:
            data["serverTime"] = 1
        self.session.outbox.append(("heartbeat", data, False))

    def _ack(self, request: Request) -> None:
        session, faults = self.session, self._faults
        if request.number > session.sequence:
            if "ack_out_of_range_silent" not in faults:
                self.error("ACK_OUT_OF_RANGE", f"{request.number} was never sent")
            return
        session.ack(request.number)
        if "ack_answered" in faults:
            session.outbox.append(("ack", {"sequence": request.number}, True))

    # --- replaying ---------------------------------------------------------------------------------------------
    def _replay(self, request: Request) -> None:
        session, faults = self.session, self._faults
        if "replay_ignored" in faults:
            return
        if self._replaying or (request.last > session.sequence and "replay_of_future_ignored" not in faults):
            self.error("REPLAY_UNAVAILABLE", "not now, or never sent")
            return
        size = sum(len(entry.data) for entry in session.entries(request.number, request.last))
        self._limiter.charge(size)
        self._replaying = True
        self._loop.call_soon(self.replay, request.number, request.last)

"""One socket after its handshake: frames in, messages out, heartbeat, and its end."""

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any, Final

import zstandard

from conformance.tests.reference.frames import BadFrameError, InboundFrame, Inflater, Parser, deflated, frame
from conformance.tests.reference.limiter import Limiter, Rate
from conformance.tests.reference.requests import PROTOCOL, Refusal, Request, error_data, parse, serve_subscription
from conformance.tests.reference.session import Session, new_uuid

if TYPE_CHECKING:
    from conformance.tests.reference.server import ReferenceServer

__all__ = ["Connection"]

_TEXT, _BINARY, _CLOSE, _PING, _PONG = 1, 2, 8, 9, 10
_HIGH_BYTES: Final = 32_768
_THRESHOLD: Final = 1_024
_HEARTBEAT_S: Final = 15.0
_IDLE_S: Final = 20.0
_CLOSE_S: Final = 5.0
_STALL_S: Final = 5.0
_STUCK_S: Final = 30.0
_MESSAGE_S: Final = 20.0
_MAX_FRAGMENTS: Final = 4096
_MEGABYTE: Final = 1_048_576
_WARNINGS: Final = frozenset(
    {"SEQUENCE_GAP", "RESUME_FAILED", "ACK_OUT_OF_RANGE", "REPLAY_UNAVAILABLE", "SLOW_CONSUMER", "UPSTREAM_STALE"}
)


class Connection:
    """``caps`` are those of the socket: ``heartbeat`` and ``zstd``."""

    def __init__(
        self, server: "ReferenceServer", reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
        session: Session, *, deflate: bool, caps: frozenset[str],
    ) -> None:  # fmt: skip
        self.server: Final = server
        self.session = session
        self.limit = 100
        self.leaked = 0
        """Places that a fault takes away."""
        self.haunted: dict[str, None] = {}
        """Tokens that a fault goes on sending."""
        self.identity: Final = new_uuid(session.faults)
        self.bits = 15
        """Window of what is compressed."""
        self.ended = False
        self.closing = False
        self._reader = reader
        self._writer = writer
        self._faults = session.faults
        self._loop = asyncio.get_running_loop()
        self._deflate = deflate
        self._caps = caps
        self._limiter = Limiter(self._loop.time(), session.faults)
        most = 1_000_000 if "megabyte_refused" in self._faults else _MEGABYTE
        self._max_bytes = 16 * most if "oversize_served" in self._faults else most
        self._parser = Parser(deflate=deflate, max_bytes=self._max_bytes)
        self._inflater = Inflater(16 * most if "bomb_inflated" in self._faults else self._max_bytes)
        self._parts: list[InboundFrame] = []
        self._size = 0
        self._begun_s: float | None = None
        self._last_byte_s = self._sent_s = self._loop.time()
        self._timers: list[asyncio.TimerHandle] = []
        self._unblocking: asyncio.Task[None] | None = None
        self._next_inbound: int | None = None
        self._gap_warned = False
        self._deaf = False
        self._replaying = False
        self._body: bytes | None = None
        self._stuck = False
        writer.transport.set_write_buffer_limits(high=_HIGH_BYTES, low=16_384)

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

    def _later(self, delay_s: float, call: Any) -> None:
        self._timers = [timer for timer in self._timers if not timer.cancelled() and timer.when() > self._loop.time()]
        self._timers.append(self._loop.call_later(delay_s, call))

    def _beat(self) -> None:
        """The ping of every 15 s, and the heartbeat message of an idle socket."""
        faults = self._faults
        if self.closing:
            return
        interval_s = 20.0 if "pings_every_20_s" in faults else _HEARTBEAT_S
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
        limit_s = 10.0 if "drops_after_10_s" in faults else 60.0 if "drops_after_60_s" in faults else _IDLE_S
        left_s = self._last_byte_s + limit_s - self._loop.time()
        if left_s > 0:
            self._later(left_s, self._watch)
        else:
            self.close(1001 if "dead_told_1001" in faults else 4000, "no sign of life")

    # --- out ---------------------------------------------------------------------------------------------------
    def _write(self, opcode: int, payload: bytes, *, rsv1: bool = False) -> None:
        if not self.ended:
            self._writer.write(frame(opcode, payload, rsv1=rsv1))

    def send(self, text: bytes) -> None:
        """One message."""
        faults = self._faults
        self._sent_s = self._loop.time()
        large = len(text) > _THRESHOLD
        if "with_byte_order_mark" in faults:
            text = b"\xef\xbb\xbf" + text
        if "sends_binary" in faults:
            self._write(_BINARY, text)
        elif "zstd" in self._caps:
            if (large or "zstd_small_binary" in faults) and "zstd_sends_text" not in faults:
                self._write(_BINARY, self._zstd(text))
            else:
                self._write(_TEXT, text)
        elif (
            self._deflate and ((large and "never_compresses" not in faults) or "compresses_everything" in faults)
        ) or (large and "compresses_unoffered" in faults):
            self._write(_TEXT, deflated(text, self.bits), rsv1=True)
        else:
            self._write(_TEXT, text)

    def _zstd(self, text: bytes) -> bytes:
        faults = self._faults
        cut = text.index(b'"data":') + (0 if "zstd_cut_before_data" in faults else len(b'"data":'))
        with_size = "zstd_without_size" not in faults
        head = zstandard.ZstdCompressor(write_content_size=with_size).compress(text[:cut])
        before, self._body = self._body, text[cut:]
        if before is None or "zstd_delta_without_dictionary" in faults:
            flag = b"\x01" if "zstd_first_is_delta" in faults or before is not None else b"\x00"
            body = zstandard.ZstdCompressor(write_content_size=with_size).compress(text[cut:])
        else:
            flag = b"\x01"
            made = zstandard.ZstdCompressionDict(before, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
            body = zstandard.ZstdCompressor(dict_data=made, write_content_size=with_size).compress(text[cut:])
        return flag + head + body

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it."""
        session = self.session
        if self.ended or self.closing or self._replaying or self._unblocking is not None:
            return
        while self._writer.transport.get_write_buffer_size() < _HIGH_BYTES:
            text = session.next_text(self.server.wall_ms())
            if text is None:
                return
            if "two_messages_in_one" in self._faults and session.outbox:
                more = session.next_text(self.server.wall_ms())
                text += b"\n" + (more or b"")
            self.send(text)
        if session.waits():
            self._unblocking = asyncio.create_task(self._unblock())

    async def _unblock(self) -> None:
        faults = self._faults
        begun_s = progress_s = self._loop.time()
        size = self._writer.transport.get_write_buffer_size()
        while True:
            with contextlib.suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(1.0):
                    await self._writer.drain()
                    break
            if self.ended:
                return
            now_size = self._writer.transport.get_write_buffer_size()
            if now_size < size:
                progress_s = self._loop.time()
            size = now_size
            if self._loop.time() - progress_s >= _STUCK_S and "slow_never_closed" not in faults:
                self._stuck = True
                self.close(1008 if "slow_told_1008" in faults else 4001, "slow consumer")
                return
        self._unblocking = None
        if "values_lost_in_stall" in faults:
            self.session.pending.clear()
        if "numbers_lost_in_stall" in faults:
            self.session.sequence += 3
        if self._loop.time() - begun_s >= _STALL_S and "slow_not_warned" not in faults:
            self.error("SLOW_CONSUMER", "reading was slow")
        self.flush()

    def error(
        self, code: str, message: str, *, level: str = "", request_id: str | None = None,
        names: list[str] | None = None,
    ) -> None:  # fmt: skip
        """Queue an error message."""
        faults = self._faults
        level = level or ("warning" if code in _WARNINGS else "error")
        if "fatal_does_not_end" in faults and level == "error":
            level = "fatal"
        data = error_data(
            code, message, level, details="details" in self.session.caps, request_id=request_id, names=names,
            faults=faults,
        )  # fmt: skip
        self.session.outbox.append(("error", data, True))
        if "error_ends" in faults and level == "error":
            self.flush()
            self.close(1008, "an error")
        if "warning_ends" in faults and level == "warning":
            self.flush()
            self.close(1008, "a warning")

    def fail(self, code: str, message: str, close: int) -> None:
        """A fatal end: error, connection, close frame."""
        faults = self._faults
        told = {"connection": self.connection_data("error")}
        if "end_without_connection" in faults:
            told = {}
        error = error_data(
            code, message, "error" if "fatal_told_as_error" in faults else "fatal",
            details="details" in self.session.caps, faults=faults,
        )  # fmt: skip
        words = [("error", error), *told.items()]
        if "end_words_reversed" in faults:
            words.reverse()
        if "end_without_words" in faults:
            words = []
        for kind, data in words:
            self.session.outbox.append((kind, data, "last_words_unnumbered" not in faults))
        self.flush()
        if "fatal_lives" in faults:
            return
        self.close(1000 if "fatal_closes_1000" in faults else close, code)

    def connection_data(self, status: str) -> dict[str, Any]:
        """The strict part of ``connection``."""
        faults = self._faults
        if status != "connected" and "end_status_unknown" in faults:
            status = "bye"
        elif "status_ready" in faults:
            status = "ready"
        most: Any = 101 if "announces_101" in faults else 100
        data = {
            "status": status, "connectionId": self.identity,
            "maxSubscriptions": "100" if "limit_as_string" in faults else most,
        }  # fmt: skip
        if "connection_without_limit" in faults:
            del data["maxSubscriptions"]
        if "connection_without_id" in faults:
            del data["connectionId"]
        if "connection_extra_field" in faults:
            data["server"] = "reference"
        return data

    def close(self, code: int, reason: str = "") -> None:
        """Begin the close handshake; the socket is cut when it takes too long."""
        if self.closing or self.ended:
            return
        self.closing = True
        if code in {4003, 4005} or not 4000 <= code <= 4499:
            self.session.dead = self.session.dead or code in {4003, 1002, 1003, 1007, 1008, 1009, 4502}
        if code == 1002 and "violation_keeps_session" in self._faults:
            self.session.dead = False
        self._write(_CLOSE, code.to_bytes(2, "big") + reason.encode())
        if "close_never_cut" not in self._faults:
            self._later(_CLOSE_S, self.abort)

    def abort(self) -> None:
        """Cut the socket."""
        self._writer.transport.abort()
        self._reader.feed_eof()

    # --- in ----------------------------------------------------------------------------------------------------
    def _received(self, data: bytes) -> None:
        if "only_pong_is_life" not in self._faults:
            self._last_byte_s = self._loop.time()
        try:
            for inbound in self._parser.feed(data):
                self._frame(inbound)
                if self.ended:
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
            self.close(error.code, str(error))
            self._writer.close()
            self._reader.feed_eof()

    def _too_large(self, text: str) -> None:
        if "oversize_told_1002" in self._faults:
            self.close(1002, text)
        elif "oversize_ignored" not in self._faults:
            self.fail("MESSAGE_TOO_LARGE", text, 1009)
        else:
            self._parser = Parser(deflate=self._deflate, max_bytes=self._max_bytes)

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
                self._write(_PONG, inbound.payload)
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

    def _part(self, inbound: InboundFrame) -> None:  # noqa: PLR0912
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
            if "binary_ignored" not in faults:
                self.fail("BINARY_NOT_SUPPORTED", "messages are text", 1008 if "binary_told_1008" in faults else 1003)
            return
        try:
            text = payload.decode("utf-8", "replace" if "bad_utf8_dropped" in faults else "strict")
            if "\ufffd" in text and "bad_utf8_dropped" in faults:
                return
        except UnicodeDecodeError as error:
            raise BadFrameError(1007, "not UTF-8") from error
        if not self._deaf:
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
        if not small or "acks_uncharged" not in faults:
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
        code = refusal.code
        if "error_text_of_a_megabyte" in faults and code == "INVALID_ACTION":
            refusal = Refusal(code, str(refusal).ljust(1_100_000, "."))
        if code == "INVALID_JSON":
            if "silence_on_bad_json" in faults:
                return
            if "closes_on_bad_json" in faults:
                self.close(1007, "not JSON")
                return
            if "deaf_after_bad_json" in faults:
                self._deaf = True
        if f"silence_on_{code.lower()}" in faults:
            return
        if "bad_message_clears_subscriptions" in faults:
            self.session.held.clear()
            self.session.pending.clear()
        if "invalid_json_told_as_message" in faults and code == "INVALID_JSON":
            code = "INVALID_MESSAGE"
        elif "invalid_message_told_as_json" in faults and code == "INVALID_MESSAGE":
            code = "INVALID_JSON"
        elif "unknown_type_told_as_message" in faults and code == "UNKNOWN_TYPE":
            code = "INVALID_MESSAGE"
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
        if expected is None or sequence <= expected or (self._gap_warned and "gap_told_each_time" not in faults):
            return True
        self._gap_warned = True
        if "gap_not_told" in faults:
            return True
        level = "error" if "gap_told_as_error" in faults else "warning"
        self.error("SEQUENCE_GAP", f"expected {expected}, got {sequence}", level=level)
        self.flush()
        return "gap_refused" not in faults

    def _ping(self, request: Request) -> None:
        faults = self._faults
        if "ping_needs_grant" in faults and "heartbeat" not in self._caps:
            self._refuse(Refusal("UNKNOWN_TYPE", "unknown type ping"))
            return
        data: dict[str, Any] = {"pending": len(self.session.pending)}
        if "echo" in request.data and request.data["echo"] is not None and "echo_missing" not in faults:
            echo = request.data["echo"]
            data = {"echo": str(echo) if "echo_as_string" in faults else echo, **data}
        if "heartbeat_extra_field" in faults:
            data["serverTime"] = 1
        if "ping_not_answered" not in faults:
            self.session.outbox.append(("heartbeat", data, False))

    def _ack(self, request: Request) -> None:
        session, faults = self.session, self._faults
        if request.number > session.sequence:
            if "ack_out_of_range_silent" not in faults:
                level = "error" if "ack_out_of_range_is_error" in faults else "warning"
                self.error("ACK_OUT_OF_RANGE", f"{request.number} was never sent", level=level)
            return
        session.ack(request.number)
        if "ack_answered" in faults:
            session.outbox.append(("ack", {"sequence": request.number}, True))

    # --- replaying ---------------------------------------------------------------------------------------------
    def _replay(self, request: Request) -> None:
        session, faults = self.session, self._faults
        if "replay_ignored" in faults:
            return
        if (self._replaying and "replays_at_once" not in faults) or (
            request.last > session.sequence and "replay_of_future_ignored" not in faults
        ):
            self.error("REPLAY_UNAVAILABLE", "not now, or never sent")
            return
        size = sum(len(entry.data) for entry in session.entries(request.number, request.last))
        self._limiter.charge(size)
        self._replaying = True
        self._loop.call_soon(self.replay, request.number, request.last)

    def replay(self, first: int, last: int) -> None:
        """Send these numbers once more, then what has gathered."""
        session, faults = self.session, self._faults
        now_ms = self.server.wall_ms()
        if "replay_off_by_one" in faults:
            first += 1
        if first <= session.floor:
            if "gap_missing" not in faults:
                gap = {"from": first, "to": min(session.floor, last), "cause": "evicted", "repair": "snapshot"}
                if "gap_without_repair" in faults:
                    del gap["repair"]
                if "gap_from_one" in faults:
                    gap["from"] = 0
                self.send(session.unnumbered("gap", gap, now_ms))
            session.want_all()
        for entry in session.entries(first, last):
            if "replay_leaves_out_answers" in faults and entry.kind == "subscription":
                continue
            self.send(session.again(entry, now_ms))
            if "replay_sends_twice" in faults:
                self.send(session.again(entry, now_ms))
        self._replaying = False
        self.flush()

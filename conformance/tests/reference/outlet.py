"""What one socket sends: messages, as far as they are taken, and its last words."""

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

import zstandard

from conformance.tests.reference.frames import deflated, frame
from conformance.tests.reference.requests import error_data
from conformance.tests.reference.session import Session, new_uuid
from conformance.tests.reference.streams import Streams

if TYPE_CHECKING:
    from conformance.tests.reference.server import ReferenceServer

__all__ = ["Outlet"]

_TEXT, _BINARY, _CLOSE = 1, 2, 8
_HIGH_BYTES: Final = 32_768
_THRESHOLD: Final = 1_024
_CLOSE_S: Final = 5.0
_STALL_S: Final = 5.0
_STUCK_S: Final = 30.0
_WARNINGS: Final = frozenset(
    {"SEQUENCE_GAP", "RESUME_FAILED", "ACK_OUT_OF_RANGE", "REPLAY_UNAVAILABLE", "SLOW_CONSUMER", "UPSTREAM_STALE"}
)


class Outlet:
    """The half of a connection that sends; ``caps`` are those of the socket: ``heartbeat`` and ``zstd``."""

    def __init__(
        self, server: "ReferenceServer", reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
        session: Session, *, deflate: bool, caps: frozenset[str],
    ) -> None:  # fmt: skip
        self.server: Final = server
        self.session = session
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
        self._timers: list[asyncio.TimerHandle] = []
        self._unblocking: asyncio.Task[None] | None = None
        self._replaying = False
        self._streams = Streams()
        writer.transport.set_write_buffer_limits(high=_HIGH_BYTES, low=16_384)
        self._sent_s = self._loop.time()

    def _later(self, delay_s: float, call: Any) -> None:
        self._timers = [timer for timer in self._timers if not timer.cancelled() and timer.when() > self._loop.time()]
        self._timers.append(self._loop.call_later(delay_s, call))

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
        """A binary message. A stream is three of them long; its frame ends with the third."""
        faults = self._faults
        streams = self.session.streams if "zstd_socket_continues" in faults else self._streams
        cut = text.index(b'"data":') + len(b'"data":') - ("zstd_cut_elsewhere" in faults)
        begins = streams.left == 0
        if begins:
            log = 24 if "zstd_huge_window" in faults else 20
            window = zstandard.ZstdCompressionParameters.from_level(3, window_log=log)
            streams.begin(zstandard.ZstdCompressor(compression_params=window))
        packed = streams.pack(text[cut:], flushed="zstd_unflushed" not in faults)
        if "zstd_flag_always_begins" in faults:
            begins = True
        if "zstd_first_continues" in faults:
            begins = False
        length = len(packed) if "zstd_packed_length" in faults else len(text) - cut
        return bytes([not begins]) + cut.to_bytes(2, "big") + length.to_bytes(4, "big") + text[:cut] + packed

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it."""
        session = self.session
        if self.ended or self.closing or self._replaying or self._unblocking is not None:
            return
        while self._writer.transport.get_write_buffer_size() < _HIGH_BYTES:
            text = session.next_text(self.server.wall_ms())
            if text is None:
                return
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
                self.close(4001, "slow consumer")
                return
        self._unblocking = None
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
        if "warning_ends" in faults and level == "warning":
            self.flush()
            self.close(1008, "a warning")

    def fail(self, code: str, message: str, close: int) -> None:
        """A fatal end: error, connection, close frame."""
        faults = self._faults
        told = {"connection": self.connection_data("error")}
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
        self.close(close, code)

    def connection_data(self, status: str) -> dict[str, Any]:
        """The strict part of ``connection``."""
        faults = self._faults
        data = {
            "status": status, "connectionId": self.identity,
            "maxSubscriptions": 100,
        }  # fmt: skip
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

    def replay(self, first: int, last: int) -> None:
        """Send these numbers once more, then what has gathered."""
        session, faults = self.session, self._faults
        now_ms = self.server.wall_ms()
        if first <= session.floor:
            if "gap_missing" not in faults:
                gap = {"from": first, "to": min(session.floor, last), "cause": "evicted", "repair": "snapshot"}
                self.send(session.unnumbered("gap", gap, now_ms))
            session.want_all()
        for entry in session.entries(first, last):
            if "replay_leaves_out_answers" in faults and entry.kind == "subscription":
                continue
            self.send(session.again(entry, now_ms))
        self._replaying = False
        self.flush()

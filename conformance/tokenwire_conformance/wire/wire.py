"""One WebSocket after its handshake, in either role: what the suite tests servers and clients with.

A reading task turns bytes into messages and answers pings, until the connection ends; whoever waits is woken by each
message. Everything that came is kept (bounded), so that a case can also look back.
"""

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from tokenwire_conformance.figures import MAX_HELD_BYTES, MAX_KEPT_BYTES, MAX_MESSAGES, MAX_RUN_BYTES
from tokenwire_conformance.wire.frames import (
    Frame,
    FrameError,
    FrameReader,
    Opcode,
    close_payload,
    encode_frame,
    parse_close,
)
from tokenwire_conformance.wire.log import LogBuilder
from tokenwire_conformance.wire.messages import Assembler, Deflate, Received, compress

__all__ = ["Clock", "Control", "EndedError", "SilenceError", "Wire", "cut"]

_READ_BYTES: Final = 65_536
_KINDS: Final = {Opcode.PING: "ping", Opcode.PONG: "pong", Opcode.TEXT: "text", Opcode.BINARY: "binary"}


class SilenceError(Exception):
    """Nothing (of what was waited for) came in time."""


class EndedError(Exception):
    """The connection ended while something was waited for; the text says how."""


@dataclass(frozen=True, slots=True)
class Control:
    """A ping, pong or close of the peer's."""

    at_s: float
    opcode: Opcode
    payload: bytes


@dataclass(frozen=True, slots=True)
class Clock:
    """Unix time in milliseconds; the time to wait by is the event loop's."""

    wall_ms: Callable[[], float] = lambda: time.time() * 1000


class _Held:
    """How much one connection keeps of what came, which counts towards what all of them keep together."""

    all_bytes = 0

    def __init__(self) -> None:
        self.own_bytes = 0

    def add(self, size: int) -> None:
        self.own_bytes += size
        _Held.all_bytes += size

    def __del__(self) -> None:
        self.add(-self.own_bytes)


def cut(writer: asyncio.StreamWriter) -> None:
    """End a TCP connection at once, if it has not ended already."""
    # asyncio cannot abort what it closed behind the last byte of a full buffer: it has let go of its loop by then.
    with contextlib.suppress(AttributeError):
        writer.transport.abort()


class Wire:
    """A connection. ``client`` says whether the suite is the client of it (and masks what it sends)."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, client: bool, log: LogBuilder,
        clock: Clock, deflate: Deflate | None = None, early: bytes = b"",
    ) -> None:  # fmt: skip
        self._reader = reader
        self._writer = writer
        self._client = client
        self._log = log
        self._clock = clock
        self._frames = FrameReader(from_server=client)
        self._assembler = Assembler(deflate)
        self.deflate: Final = deflate
        self._loop = asyncio.get_running_loop()
        self.opened_s: Final = self._loop.time()
        self.messages: list[Received] = []
        """Everything received, in order."""
        self.sent_json: list[tuple[float, Any]] = []
        """The JSON values sent, with the time on the loop's clock."""
        self.controls: list[Control] = []
        self.answers_pings = True
        """Set to False for a peer that does not answer pings."""
        self.answers_close = True
        """Set to False for a peer that does not answer a close frame."""
        self.close_code: int | None = None
        """Of the close frame received; 1005 for one without a code, ``None`` as long as there was none."""
        self.close_reason = ""
        self.broken: str | None = None
        """How the peer broke the WebSocket protocol or a bound, if it did."""
        self.ended_s: float | None = None
        """When the TCP connection ended (or was given up), on the loop's clock."""
        self.last_byte_s = self.opened_s
        """When the newest byte came."""
        self._unread: deque[Received] = deque()
        self._sent_texts: set[int] = set()
        self._held = _Held()
        self._close_sent = False
        self._given_up = False
        self._news = asyncio.Event()
        self._reading = asyncio.Event()
        self._reading.set()
        self._task = asyncio.create_task(self._read(early))

    # --- receiving -----------------------------------------------------------------------------------------
    async def receive(self, timeout_s: float) -> Received:
        """The next message.

        Raises:
            SilenceError: None came within ``timeout_s``.
            EndedError: The connection ended, and nothing is left to read.
        """
        async with self._waiting(timeout_s, "no message"):
            while not self._unread:
                if self.ended_s is not None:
                    raise EndedError(self.ending())
                await self._wait()
        return self._unread.popleft()

    async def ended(self, timeout_s: float) -> str:
        """Wait for the end of the TCP connection and tell how it came about.

        Raises:
            SilenceError: It is still open after ``timeout_s``.
        """
        async with self._waiting(timeout_s, "the connection is still open"):
            while self.ended_s is None:
                await self._wait()
        return self.ending()

    async def closing(self, timeout_s: float) -> int | None:
        """Wait until the peer closes, by a close frame or by ending the connection; the code, if any.

        Raises:
            SilenceError: Neither came within ``timeout_s``.
        """
        async with self._waiting(timeout_s, "the connection was not closed"):
            while self.close_code is None and self.ended_s is None:
                await self._wait()
        return self.close_code

    async def control(self, opcode: Opcode, timeout_s: float, *, after: int = 0) -> Control:
        """The first ping or pong after the first ``after`` control frames.

        Raises:
            SilenceError: None came within ``timeout_s``.
            EndedError: The connection ended.
        """
        async with self._waiting(timeout_s, f"no {opcode.name.lower()} frame"):
            while True:
                for control in self.controls[after:]:
                    if control.opcode is opcode:
                        return control
                if self.ended_s is not None:
                    raise EndedError(self.ending())
                await self._wait()

    def unread(self) -> list[Received]:
        """Take everything received and not yet taken."""
        taken = list(self._unread)
        self._unread.clear()
        return taken

    def ending(self) -> str:
        """How the connection ended, in words."""
        if self.broken is not None:
            return f"the peer broke the protocol: {self.broken}"
        if self.close_code is not None:
            reason = f" ({self.close_reason})" if self.close_reason else ""
            return f"the peer closed with {self.close_code}{reason}"
        return "the connection ended without a close frame"

    @property
    def is_left(self) -> bool:
        """Whether the peer ended the connection, by a close frame or without, and not the suite."""
        return not self._given_up and (self.ended_s is not None or self.close_code is not None)

    def is_echo(self, message: Received) -> bool:
        """Whether the suite itself sent this very text on the connection before."""
        return hash(message.payload) in self._sent_texts

    def pause(self) -> None:
        """Stop reading from the socket, as a client does that hangs."""
        self._reading.clear()

    def resume(self) -> None:
        """Read again."""
        self._reading.set()

    # --- sending -------------------------------------------------------------------------------------------
    async def send_json(self, value: Any) -> None:
        """``value`` as a text message."""
        await self.send_text(json.dumps(value, separators=(",", ":")))

    async def send_text(self, text: str, *, compressed: bool = False, fragments: int = 1) -> None:
        """A text message, in that many fragments, compressed if asked for and agreed on."""
        payload = text.encode("utf-8", "surrogatepass")
        self._remember(payload)
        if compressed and self.deflate is not None:
            body, rsv = compress(payload, self.deflate.outbound_bits), 4
        else:
            body, rsv = payload, 0
        self._note("sent", "text", payload, compressed=bool(rsv))
        step = max(1, -(-len(body) // fragments))
        pieces = [body[at : at + step] for at in range(0, len(body), step)] or [b""]
        out = b"".join(
            encode_frame(
                Opcode.CONTINUATION if index else Opcode.TEXT, piece, mask=self._client,
                fin=index == len(pieces) - 1, rsv=0 if index else rsv,
            )
            for index, piece in enumerate(pieces)
        )  # fmt: skip
        await self._write(out)

    async def send_frame(self, opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> None:
        """One frame, as wrong as one likes."""
        kind = _KINDS.get(Opcode(opcode), "frame") if opcode in set(Opcode) else f"opcode {opcode}"
        self._note("sent", kind, payload)
        if opcode in {Opcode.TEXT, Opcode.BINARY}:
            self._remember(payload)
        await self._write(encode_frame(opcode, payload, mask=self._client, fin=fin, rsv=rsv))

    async def send_raw(self, data: bytes) -> None:
        """Bytes as they are."""
        self._note("sent", "tcp", data)
        await self._write(data)

    async def ping(self, payload: bytes = b"") -> None:
        """A ping frame."""
        await self.send_frame(Opcode.PING, payload)

    async def close(self, code: int | None = 1000, reason: str = "", *, timeout_s: float = 1.0) -> None:
        """Close handshake, at most ``timeout_s`` long, then the end of the TCP connection."""
        if self.ended_s is None and not self._close_sent:
            await self.send_close(code, reason)
        if self.ended_s is None:
            with contextlib.suppress(SilenceError):
                await self.ended(timeout_s)
        await self.abort()

    async def send_close(self, code: int | None = 1000, reason: str = "") -> None:
        """A close frame; the connection stays until the peer ends it."""
        self._close_sent = True
        self._given_up = self._given_up or (self.close_code is None and self.broken is None)
        self._note("sent", "close", f"{code} {reason}".strip())
        await self._write(encode_frame(Opcode.CLOSE, close_payload(code, reason), mask=self._client))

    async def abort(self) -> None:
        """End the TCP connection at once."""
        if not self.is_left:
            self._given_up = True
            self._note("note", "tcp", "the suite breaks the connection off")
        cut(self._writer)
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([self._task])
        self._end()

    def let_go(self) -> None:
        """Keep the first messages only, up to a bound: nobody reads on, and a run has many connections."""
        self._unread.clear()
        kept_bytes = 0
        for place, message in enumerate(self.messages):
            if kept_bytes + len(message.payload) > MAX_KEPT_BYTES:
                del self.messages[place:]
                break
            kept_bytes += len(message.payload)
        self._held.add(kept_bytes - self._held.own_bytes)

    async def half_close(self) -> None:
        """End the TCP connection in order (FIN), without a close frame."""
        self._given_up = True
        self._note("note", "tcp", "the suite ends the connection (FIN)")
        self._writer.close()
        self._end()

    def _remember(self, payload: bytes) -> None:
        """A request counts as made however it was sent: a server may well be lenient."""
        self._sent_texts.add(hash(payload))
        with contextlib.suppress(ValueError, RecursionError):
            self.sent_json.append((self._loop.time(), json.loads(payload)))

    # --- inside --------------------------------------------------------------------------------------------
    async def _write(self, data: bytes) -> None:
        if self._writer.is_closing():
            return
        with contextlib.suppress(OSError):  # the reading side tells of the end
            self._writer.write(data)
            await self._writer.drain()

    async def _read(self, early: bytes) -> None:
        try:
            data = early
            while True:
                if data:
                    self.last_byte_s = self._loop.time()
                    for frame in self._frames.feed(data):
                        await self._take(frame)
                    self._news.set()
                await self._reading.wait()
                data = await self._reader.read(_READ_BYTES)
                if not data:
                    self._end("the peer ended the connection (FIN)")
                    return
        except FrameError as error:
            self.broken = str(error)
            self._note("note", "protocol", self.broken)
            if not self._close_sent:
                await self.send_close(1002)
            self._writer.close()
        except OSError as error:  # reset, timed out, unreachable, or no TLS any more
            what = "reset" if isinstance(error, ConnectionError) else "broken"
            self._end(f"the connection was {what}, not by the suite: {error.strerror or error}")
        finally:
            self._end()

    async def _take(self, frame: Frame) -> None:
        now_s = self._loop.time()
        if frame.is_control:
            if self.close_code is not None or len(self.controls) > MAX_MESSAGES:
                return
            self.controls.append(Control(now_s, frame.opcode, frame.payload))
            if frame.opcode is Opcode.CLOSE:
                self.close_code, self.close_reason = parse_close(frame.payload)
                self._note("received", "close", f"{self.close_code} {self.close_reason}".strip())
                if self.answers_close and not self._close_sent:
                    await self.send_close(None if self.close_code == 1005 else self.close_code)
                if self.answers_close and not self._client:
                    self._writer.close()
                return
            self._note("received", _KINDS[frame.opcode], frame.payload)
            if frame.opcode is Opcode.PING and self.answers_pings and not self._close_sent:
                await self.send_frame(Opcode.PONG, frame.payload)
            return
        if self.close_code is not None:
            raise FrameError("a data frame behind the close frame")
        message = self._assembler.push(frame, now_s, self._clock.wall_ms())
        if message is None:
            return
        self._held.add(len(message.payload))
        if len(self.messages) >= MAX_MESSAGES or self._held.own_bytes > MAX_HELD_BYTES:
            raise FrameError(f"more than {MAX_MESSAGES} messages or {MAX_HELD_BYTES} bytes on one connection")
        if _Held.all_bytes > MAX_RUN_BYTES:
            raise FrameError(f"the peer sends more than the suite keeps: {MAX_RUN_BYTES} bytes in one run")
        self._note("received", _KINDS[message.opcode], message.payload, compressed=message.compressed)
        self.messages.append(message)
        # The suite's own words are no answer; who repeats them must not pass for somebody who understood them.
        if not self.is_echo(message):
            self._unread.append(message)

    def _note(self, direction: str, kind: str, payload: bytes | str, *, compressed: bool = False) -> None:
        self._log.add(self._loop.time(), direction, kind, payload, compressed=compressed)

    def _end(self, how: str = "the connection has ended") -> None:
        if self.ended_s is None:
            self.ended_s = self._loop.time()
            self._note("note", "tcp", "the connection has ended" if self._writer.is_closing() else how)
            self._writer.close()
        self._news.set()

    async def _wait(self) -> None:
        self._news.clear()
        await self._news.wait()

    @contextlib.asynccontextmanager
    async def _waiting(self, timeout_s: float, what: str) -> Any:
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except TimeoutError:
            raise SilenceError(f"{what} within {timeout_s:g} s") from None

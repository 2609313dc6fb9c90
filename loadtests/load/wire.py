"""One WebSocket over a plain socket: framing by the sans-I/O half of ``websockets``, waiting by whoever patched
``socket`` (gevent, under Locust). A message of 17 KB costs about 5 us here, a third of what a full client takes."""

import socket
import time
from collections import deque
from collections.abc import Mapping
from typing import Final

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import parse_uri

__all__ = ["Ended", "Wire", "now_us"]

_CHUNK: Final = 65_536
_MAX_MESSAGE: Final = 1_048_576
_OPEN_S: Final = 5.0
_CLOSE_S: Final = 1.0


class Ended(Exception):  # noqa: N818 - not every end is an error
    """The connection ended, or never began; the message says how."""


def now_us() -> int:
    """``CLOCK_MONOTONIC`` in microseconds, the clock of the probe."""
    return time.monotonic_ns() // 1000


class Wire:
    """An open WebSocket. ``receive_buffer`` (bytes) makes the kernel hold little for a reader that is slow."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None, receive_buffer: int = 0) -> None:
        uri = parse_uri(url)
        self._protocol = ClientProtocol(uri, max_size=_MAX_MESSAGE)
        self._parts: list[bytes] = []
        self._ready: deque[bytes] = deque()
        self._socket = socket.socket(socket.AF_INET6 if ":" in uri.host else socket.AF_INET)
        try:
            if receive_buffer:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.settimeout(_OPEN_S)
            self._socket.connect((uri.host, uri.port))
            self._shake_hands(headers or {})
        except (OSError, InvalidHandshake) as error:
            self._socket.close()
            raise Ended(f"could not connect: {error}") from None
        except BaseException:
            self._socket.close()
            raise

    def _shake_hands(self, headers: Mapping[str, str]) -> None:
        protocol = self._protocol
        request = protocol.connect()
        for name, value in headers.items():
            request.headers[name] = value
        protocol.send_request(request)
        self._flush()
        while protocol.state is State.CONNECTING:
            self._feed(_CHUNK)
            if protocol.handshake_exc is not None:
                raise protocol.handshake_exc

    @property
    def has_message(self) -> bool:
        """Whether :meth:`message` has one."""
        return bool(self._ready)

    def message(self) -> bytes | None:
        """The next message that is here already."""
        return self._ready.popleft() if self._ready else None

    def wait(self, seconds: float, chunk: int = _CHUNK) -> bool:
        """Wait for bytes, at most ``chunk`` of them; False when none came in ``seconds``.

        Raises:
            Ended: the connection is over.
        """
        self._socket.settimeout(max(seconds, 0.001))
        try:
            self._feed(chunk)
        except TimeoutError:
            return False
        except OSError as error:
            raise Ended(str(error)) from None
        return True

    def send(self, text: str) -> None:
        """Send a text message. Raises Ended if the connection is over."""
        try:
            self._protocol.send_text(text.encode())
            self._flush()
        except (OSError, RuntimeError) as error:  # RuntimeError: of websockets, when it is closing
            raise Ended(str(error)) from None

    def ping(self) -> None:
        """Tell the server that somebody is here. Raises Ended if the connection is over."""
        try:
            self._protocol.send_ping(b"")
            self._flush()
        except (OSError, RuntimeError) as error:
            raise Ended(str(error)) from None

    def close(self) -> None:
        """Say goodbye with 1000 and wait a little for the answer."""
        try:
            self._protocol.send_close(1000)
            self._flush()
            until_s = time.monotonic() + _CLOSE_S
            while (left_s := until_s - time.monotonic()) > 0:
                self.wait(left_s)
        except (OSError, RuntimeError, Ended):
            pass
        finally:
            self._socket.close()

    def drop(self) -> None:
        """Be gone without a word."""
        self._socket.close()

    def _feed(self, chunk: int) -> None:
        protocol = self._protocol
        data = self._socket.recv(chunk)
        if not data:
            protocol.receive_eof()
            raise Ended(f"closed by the server ({_code(protocol)})")
        protocol.receive_data(data)
        for event in protocol.events_received():
            if isinstance(event, Response):
                continue
            assert isinstance(event, Frame)
            if event.opcode is Opcode.TEXT or event.opcode is Opcode.CONT:
                self._parts.append(bytes(event.data))
                if event.fin:
                    self._ready.append(b"".join(self._parts) if len(self._parts) > 1 else self._parts[0])
                    self._parts.clear()
            elif event.opcode is Opcode.BINARY:
                raise Ended("a binary message arrived")
        self._flush()
        if protocol.parser_exc is not None:
            raise Ended(str(protocol.parser_exc))

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._socket.sendall(data)
            else:
                self._socket.shutdown(socket.SHUT_WR)


def _code(protocol: ClientProtocol) -> str:
    code = protocol.close_code
    return f"{code} {protocol.close_reason}".strip() if code else "no close frame"

"""The writing end of a connection: bytes go to the kernel at once as long as it takes them.

A transport queues what it is given and writes at the end of the event loop's turn; over 1000 connections that is a
tenth of what a tick costs. So it is left out until the kernel's buffer is full. From then on everything goes
through it, until its own buffer is empty again: the order of bytes is kept, and so are the limits at which it pauses
its protocol.
"""

import asyncio
import os

__all__ = ["Outlet"]


class Outlet:
    """The socket of a link. Whoever owns ``transport`` tells :meth:`ended` before its socket is closed."""

    __slots__ = ("_fd", "_has_ended", "_held", "_is_direct", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._has_ended = False
        self._held = b""
        sock = transport.get_extra_info("socket")
        has_descriptor = sock is not None and os.name == "posix"  # elsewhere it is a handle, which write() can't use
        is_plain = has_descriptor and transport.get_extra_info("sslcontext") is None
        self._fd: int = sock.fileno() if is_plain else -1
        self._is_direct = self._fd >= 0 and not transport.get_write_buffer_size()

    def write(self, data: bytes, /) -> None:
        """Send ``data`` after everything that was written or held before; nothing once the connection has ended."""
        if self._held:
            data, self._held = self._held + data, b""
        if self._is_direct:
            try:
                sent = os.write(self._fd, data)
            except OSError:  # full, or broken: then the transport meets the same error, and ends the connection
                sent = 0
            if sent == len(data):
                return
            self._is_direct = False
            if sent:
                data = data[sent:]
        elif self._has_ended:
            return
        elif self._fd >= 0 and not self._transport.get_write_buffer_size():
            self._is_direct = True
            self.write(data)
            return
        self._transport.write(data)

    def hold(self, data: bytes) -> None:
        """Send ``data`` with what is written next, or at :meth:`release`."""
        if not self._has_ended:
            self._held += data

    def release(self) -> None:
        """Send what is held."""
        if self._held:
            self.write(b"")

    def get_write_buffer_size(self) -> int:
        """Bytes written that the kernel has not taken."""
        return self._transport.get_write_buffer_size()

    def abort(self) -> None:
        """End the connection at once."""
        self.ended()
        self._transport.abort()

    def ended(self) -> None:
        """The transport is closing: its socket may be somebody else's soon."""
        self._has_ended = True
        self._held = b""
        self._is_direct = False
        self._fd = -1

"""uvicorn's HTTP protocol, with an end to everybody's patience.

uvicorn keeps a connection that never completes its request, and a head of any size. Here:

* no complete head within ``timeout_s`` of the connection, or of the first byte of a later request: 408 (nothing
  is said to a peer that sent nothing), close
* no byte of the body within ``timeout_s`` while the application reads, or not all of it within ``timeout_s``
  once it has answered: the same
* a head above ``max_head_bytes``: 431, close
* a peer that does not read its answer for ``timeout_s``: abort

No timer is left once a request is complete or has become a WebSocket.
"""

import asyncio
from http import HTTPStatus
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tokenwire_schemas import limits

__all__ = ["MAX_HEAD_BYTES", "TimedHttpProtocol"]

MAX_HEAD_BYTES: Final = 65_536


class TimedHttpProtocol(HttpToolsProtocol):
    """To give uvicorn as ``Config(http=TimedHttpProtocol)``. The limits are class attributes: derive to change."""

    timeout_s: float = limits.CONNECTION_TIMEOUT_MS / 1000
    max_head_bytes: int = MAX_HEAD_BYTES

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._request_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._begun = False  # a request has begun and is not complete
        self._begun_now = False  # ... in the chunk that is being parsed
        self._in_body = False
        self._head_bytes = 0  # of this head, as far as the parser reported it
        self._head_fed_bytes = 0  # of this head, in chunks after its first
        self._handed_over = False
        self._segment = b""  # while it is being parsed
        self._refused = False
        self._refusal = 400

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    # --- the connection ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._begun_now = False
        self._segment = data
        super().data_received(data)
        self._segment = b""
        if self._handed_over or self._refused or self.transport.is_closing():
            return
        if not self._begun:
            if self._answering:
                self._disarm()
            elif self._request_timer is None:
                # Bytes that begin no request, such as empty lines, have ended uvicorn's keep-alive timer.
                self._arm()
        elif self._in_body:
            # Each byte buys time only while somebody waits for it; after the answer the time runs out.
            if self._answering or self._request_timer is None:
                self._arm()
        elif not self._begun_now:
            # The parser reports a name or value only when it is complete; an endless one is counted here.
            self._head_fed_bytes += len(data)
            if self._head_fed_bytes > self.max_head_bytes:
                self._refuse(431)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._set_write_timer(None)
        super().connection_lost(exc)
        # uvicorn leaves its keep-alive timer running when a connection ends in an error.
        self._unset_keepalive_if_required()

    def handle_websocket_upgrade(self) -> None:
        _, end, rest = self._segment.partition(b"\r\n\r\n")
        if self._answering or (end and rest):
            # Behind an unanswered request, or with data before the answer (RFC 6455 4.1): the bytes would mix.
            self._refuse(400)
            return
        self._handed_over = True
        self._disarm()
        self._set_write_timer(None)
        super().handle_websocket_upgrade()

    # --- the parser's callbacks ----------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._begun = self._begun_now = True
        self._in_body = False
        self._head_bytes = self._head_fed_bytes = 0
        self._arm()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers of a chunked body come here too, and count.
        self._count_head(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._begun = self._in_body = False

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self.max_head_bytes:
            self._refusal = 431
            # The parser turns it into its own error, and that reaches send_400_response.
            raise ValueError("the head of the request is too large")

    # --- the ends ------------------------------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that can't be parsed."""
        self._refuse(self._refusal)

    def _refuse(self, status: int) -> None:
        """Answer with ``status`` and close; without the answer if that of an earlier request is under way."""
        self._refused = True
        self._disarm()
        unanswered = not self._answering
        if self._answering:
            unanswered = self._in_body and not self.cycle.response_started and not self.pipeline
            # The application sees a client that left, and what it still sends is dropped.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if unanswered:
            phrase = HTTPStatus(status).phrase
            self.transport.write(
                f"HTTP/1.1 {status} {phrase}\r\ncontent-type: text/plain; charset=utf-8\r\n"
                f"content-length: {len(phrase) + 1}\r\nconnection: close\r\n\r\n{phrase}\n".encode()
            )
        if unanswered and self.transport.can_write_eof():
            # Closing while the peer still sends would reset the connection, and the answer with it: what comes
            # is dropped until the peer has seen the end, or for as long again.
            self.transport.write_eof()
            self._arm()
        else:
            self._close()

    def _close(self) -> None:
        self.transport.close()
        # close() waits for the peer to read what was written; the peer may never do so.
        if self._write_timer is None and self.transport.get_write_buffer_size():
            self._set_write_timer(self.loop.call_later(self.timeout_s, self.transport.abort))

    def _arm(self) -> None:
        self._disarm()
        self._request_timer = self.loop.call_later(self.timeout_s, self._timed_out)

    def _disarm(self) -> None:
        if self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None

    def _timed_out(self) -> None:
        self._request_timer = None
        if self.transport.is_closing():
            return
        if self._refused:
            self._close()
        elif self._answering and (self.flow.read_paused or not self._in_body):
            # Not the peer's fault: nothing is read, or the next request waits, until an answer is complete.
            self._arm()
        elif self._begun and not (self._in_body and not self._answering):
            self._refuse(408)
        else:
            self._close()

    def shutdown(self) -> None:
        """Called by uvicorn when the server ends."""
        if self._refused:
            self.transport.close()
        else:
            super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, even if the peer has not read all of the last answer."""
        if not self.transport.is_closing():
            self._close()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._set_write_timer(self.loop.call_later(self.timeout_s, self.transport.abort))

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._set_write_timer(None)

    def _set_write_timer(self, handle: asyncio.TimerHandle | None) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
        self._write_timer = handle

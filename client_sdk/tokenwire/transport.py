"""One WebSocket, opened with the ``websockets`` package, which is imported when the first one is opened.

The driver above sees only :class:`Socket` and the two exceptions; a test puts its own opener in the place of
:func:`opener`.
"""

import contextlib
import email.utils
import logging
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from tokenwire.actions import Connect
from tokenwire_schemas import limits

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

__all__ = ["Opener", "RefusedError", "Socket", "SocketClosedError", "opener", "retry_after_ms"]

# The library logs whole handshakes, credentials included, where DEBUG is enabled. That takes an explicit wish here.
_log: Final = logging.getLogger("tokenwire.websockets")
if _log.level == logging.NOTSET:
    _log.setLevel(logging.INFO)

_CLOSE_TIMEOUT_S: Final = limits.CLOSE_TIMEOUT_MS / 1_000
_MAX_UNWRITTEN: Final = 1 << 20  # bytes for a peer who does not read; answers to its pings could grow without end
_MAX_RETRY_AFTER_MS: Final = 24 * 3_600_000


class RefusedError(Exception):
    """No WebSocket came about. ``status`` is that of the HTTP answer, None when there was none."""

    def __init__(self, status: int | None, retry_after_ms: int | None, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after_ms = retry_after_ms
        self.text = text


class SocketClosedError(Exception):
    """The socket has ended. ``code`` is what the peer said, 1006 without a close frame from it."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}".rstrip())
        self.code = code
        self.reason = reason


class Socket(Protocol):
    """What the driver needs of an open WebSocket. All but ``abort`` raise :class:`SocketClosedError` after its end."""

    compression: str | None
    """The extension in force, as the handshake agreed on it; None without one."""

    async def receive(self) -> str | bytes:
        """The next message: text or binary."""

    async def send(self, text: str) -> None:
        """Send one text message."""

    async def ping(self) -> None:
        """Send a ping; what comes back is seen as any other byte."""

    async def close(self, code: int, reason: str) -> None:
        """End in good order; returns when the peer has answered, at the latest after 5 s."""

    def abort(self) -> None:
        """End at once."""

    async def wait_closed(self) -> None:
        """Return when the descriptor is released."""


Opener = Callable[[Connect, Callable[[], None]], Awaitable[Socket]]
"""Opens a socket, or raises :class:`RefusedError`; it calls the second argument whenever bytes arrive."""


class _WebSocket:
    """:class:`Socket` over a connection of the ``websockets`` package."""

    def __init__(self, connection: "ClientConnection", closed: type[Exception]) -> None:
        self._connection = connection
        self._closed = closed
        accepted: list[str] = [extension.name for extension in connection.protocol.extensions]
        self.compression: str | None = accepted[0] if accepted else None

    async def receive(self) -> str | bytes:
        try:
            return await self._connection.recv()
        except self._closed as error:
            raise self._end(error) from None

    async def send(self, text: str) -> None:
        try:
            await self._connection.send(text)
        except self._closed as error:
            raise self._end(error) from None

    async def ping(self) -> None:
        try:
            await self._connection.ping()
        except self._closed as error:
            raise self._end(error) from None

    async def close(self, code: int, reason: str) -> None:
        await self._connection.close(code, reason)

    def abort(self) -> None:
        self._connection.transport.abort()

    async def wait_closed(self) -> None:
        await self._connection.wait_closed()

    def _end(self, error: Exception) -> SocketClosedError:
        # Also when it was this side that found a frame broken or too large: one bad frame is worth another try.
        code = self._connection.close_code or 1006
        # With a reason from the peer that is the reason; else what happened here (a broken frame, a reset …).
        cause = error.__cause__
        return SocketClosedError(code, self._connection.close_reason or (str(cause) if cause else str(error)))


def opener(tls: ssl.SSLContext | None, user_agent: str, proxy: str | Literal[True] | None = None) -> Opener:
    """An :data:`Opener` for real sockets. ``tls``: the context for wss URLs, None for the system's certificates.

    ``proxy``: the URL of a proxy, True for the system's setting, None to connect directly.
    """

    async def open_socket(action: Connect, heard: Callable[[], None]) -> Socket:
        # Imported here, because `import tokenwire` must not pay for it.
        from websockets.asyncio.client import ClientConnection, connect  # noqa: PLC0415
        from websockets.exceptions import ConnectionClosed  # noqa: PLC0415

        from tokenwire.compression import OnlyLargeFactory  # noqa: PLC0415

        class Listening(ClientConnection):
            """Tells of every byte, pings and pongs included: any of them proves that the peer lives (I-41)."""

            def data_received(self, data: bytes) -> None:
                if self.response is not None:
                    heard()
                super().data_received(data)
                if self.transport.get_write_buffer_size() > _MAX_UNWRITTEN:
                    self.transport.abort()  # dead as far as anything for it is concerned

        class Direct(connect):
            """Follows no redirect: the session's secret is in a header that must not go to another server."""

            def process_redirect(self, exc: Exception) -> Exception | str:
                return exc

        options: dict[str, Any] = {}
        if action.url.startswith("wss:") and tls is not None:
            options["ssl"] = tls
        try:
            connection = await Direct(
                action.url,
                additional_headers=list(action.headers),
                user_agent_header=user_agent,
                compression=None,
                extensions=[OnlyLargeFactory()] if action.deflate else None,
                open_timeout=action.timeout_ms / 1_000,
                ping_interval=None,
                close_timeout=_CLOSE_TIMEOUT_S,
                max_size=limits.MAX_MESSAGE_BYTES,
                create_connection=Listening,
                proxy=proxy,
                logger=_log,
                **options,
            )
        except Exception as error:
            raise _refusal(error, action) from error
        return _WebSocket(connection, ConnectionClosed)

    return open_socket


def _refusal(error: Exception, action: Connect) -> RefusedError:
    """Whatever prevented a connection, as a text for a person. It never holds the query, which may be secret."""
    from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI  # noqa: PLC0415

    match error:
        case InvalidStatus():
            response = error.response
            text = f"the server answered HTTP {response.status_code} {response.reason_phrase}".rstrip()
            if 300 <= response.status_code < 400:
                target = response.headers.get("Location", "elsewhere").partition("?")[0]
                text += f" and redirects to {target}; redirects are not followed, use that address"
            return RefusedError(response.status_code, retry_after_ms(response.headers.get("Retry-After")), text)
        case TimeoutError():
            text = f"no WebSocket within {action.timeout_ms} ms"
        case ssl.SSLCertVerificationError():
            text = f"the server's certificate is not trusted: {error.verify_message}"
        case ssl.SSLError():
            text = f"TLS failed: {error.reason or error}"
        case InvalidURI():
            text = "the URL cannot be used for a WebSocket"
        case InvalidHandshake():
            text = f"the server does not speak WebSocket here: {_chain(error)}"
        case OSError():
            text = f"cannot connect: {error.strerror or str(error) or 'the other side hung up'}"
        case _:
            text = f"cannot connect: {_chain(error)}"
    return RefusedError(None, None, text)


def _chain(error: BaseException) -> str:
    """The text of ``error`` and of what caused it."""
    texts = [str(error) or type(error).__name__]
    while (cause := error.__cause__) is not None and len(texts) < 4:
        texts.append(str(cause) or type(cause).__name__)
        error = cause
    return ": ".join(texts)


def retry_after_ms(value: str | None) -> int | None:
    """The header in milliseconds; it holds seconds or a date. None when absent or unreadable."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(int(value[:9]) * 1_000, _MAX_RETRY_AFTER_MS)
    with contextlib.suppress(ValueError, OverflowError):
        seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        return min(max(0, int(seconds * 1_000)), _MAX_RETRY_AFTER_MS)
    return None

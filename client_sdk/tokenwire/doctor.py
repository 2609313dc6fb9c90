"""What ``tokenwire doctor`` does: try every step of a connection, say what works, and stop at what does not."""

import asyncio
import contextlib
import json
import socket
import ssl
import statistics
import time
import urllib.parse
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, Final

import msgspec

from tokenwire.actions import Connect
from tokenwire.aio import TokenClient, default_capabilities, user_agent
from tokenwire.errors import TokenwireError
from tokenwire.events import Connected, Resumed
from tokenwire.transport import RefusedError, Socket, SocketClosedError, opener
from tokenwire.url import endpoint_url
from tokenwire_schemas import limits

__all__ = ["Finding", "examine"]

_TIMEOUT_S: Final = limits.CONNECTION_TIMEOUT_MS / 1_000
_PINGS: Final = 5
_LIMITS: Final = (
    "maxSubscriptions",
    "heartbeatMs",
    "idleTimeoutMs",
    "resumeWindowMs",
    "updateIntervalMs",
    "maxMessageBytes",
    "maxBatch",
)
_UNEXPECTED: Final = (SocketClosedError, TimeoutError, ValueError, KeyError, TypeError, ArithmeticError)
_TLS_DAYS: Final = 14  # a certificate that ends sooner is worth a word


class Finding(msgspec.Struct, frozen=True):
    """The outcome of one step. ``ok`` None: it works, but less well than it could."""

    step: str
    ok: bool | None
    text: str
    ms: float | None = None
    data: dict[str, Any] = {}


class _CannotGoOnError(Exception):
    """A step that the later ones need did not work."""


async def examine(
    url: str,
    token_name: str | None = None,
    *,
    credentials: str | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncGenerator[Finding, None]:
    """Yield a finding for each step; after a failed one that all others need, none follow.

    ``token_name`` is subscribed to, and the connection cut and resumed while it is; None leaves both out.

    Raises:
        InvalidUrlError: ``url`` cannot be dialled at all.
    """
    target = endpoint_url(url)
    parts = urllib.parse.urlsplit(target)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "wss" else 80)
    headers = () if credentials is None else (("Authorization", f"Bearer {credentials}"),)
    with contextlib.suppress(_CannotGoOnError):
        for finding in (await _dns(host, port), await _tcp(host, port)):
            yield finding
            if finding.ok is False:
                return
        if parts.scheme == "wss":
            finding = await _tls(host, port, tls)
            yield finding
            if finding.ok is False:
                return
        async for finding in _handshake(target, headers, tls):
            yield finding
        if token_name is not None:
            async for finding in _subscription(target, token_name, credentials, tls):
                yield finding


async def _dns(host: str, port: int) -> Finding:
    started = time.perf_counter()
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError:
        return Finding("name", False, f"nobody says within {_TIMEOUT_S:.0f} s what address {host} has")
    except OSError as error:
        return Finding("name", False, f"{host} has no address: {error.strerror or error}")
    except UnicodeError:
        return Finding("name", False, f"{host} is no name of a computer")
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    return Finding("name", True, f"{host} is {', '.join(addresses)}", _since(started), {"addresses": addresses})


async def _tcp(host: str, port: int) -> Finding:
    started = time.perf_counter()
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return Finding("tcp", False, f"port {port} does not answer within {_TIMEOUT_S:.0f} s; a firewall may drop it")
    except OSError as error:
        text = "nobody listens there" if isinstance(error, ConnectionRefusedError) else str(error.strerror or error)
        return Finding("tcp", False, f"port {port} cannot be reached: {text}")
    elapsed = _since(started)
    await _hang_up(writer)
    return Finding("tcp", True, f"port {port} accepts connections", elapsed)


async def _tls(host: str, port: int, tls: ssl.SSLContext | None) -> Finding:
    context = tls or ssl.create_default_context()
    started = time.perf_counter()
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        return Finding("tls", False, f"the certificate is not trusted: {error.verify_message}")
    except (ssl.SSLError, OSError) as error:
        return Finding("tls", False, f"no TLS there: {error.strerror or str(error) or 'time-out'}")
    elapsed = _since(started)
    session = writer.get_extra_info("ssl_object")
    certificate = session.getpeercert() or {}
    await _hang_up(writer)
    text, ok = str(session.version()), True
    if "notAfter" in certificate:
        days = (ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()) / 86_400
        text += f", certificate valid for {days:.0f} more days"
        ok = days >= _TLS_DAYS
    return Finding("tls", ok or None, text, elapsed, {"version": session.version()})


async def _handshake(
    url: str, headers: tuple[tuple[str, str], ...], tls: ssl.SSLContext | None
) -> AsyncIterator[Finding]:
    """The WebSocket itself: what the server grants and says about itself, and how far away it is."""
    asked = default_capabilities()
    separator = "&" if "?" in url else "?"
    url = f"{url}{separator}caps={','.join(asked)}"
    action = Connect(url, headers, limits.CONNECTION_TIMEOUT_MS, deflate=True)
    heard = _Pulse()
    started = time.perf_counter()
    try:
        web_socket = await opener(tls, user_agent())(action, heard.beat)
    except RefusedError as refused:
        yield Finding("handshake", False, _with_advice(refused), data={"status": refused.status})
        raise _CannotGoOnError from None
    try:
        first, arrived_ms = await _receive(web_socket), _wall()
        if first.get("type") != "connection":
            said = _data(first)
            yield Finding(
                "handshake", False, f"the server said {first.get('type')}: {said.get('code')} {said.get('message')}"
            )
            raise _CannotGoOnError
        data = _data(first)
        granted = data.get("capabilities", [])
        yield Finding("handshake", True, f"WebSocket open, connection {data['connectionId']}", _since(started))
        missing = [name for name in asked if name not in granted]
        text = f"{', '.join(granted) or 'strict v1.0 only'}" + (f"; not {', '.join(missing)}" if missing else "")
        yield Finding("granted", True if granted else None, text, data={"granted": granted, "asked": list(asked)})
        said = {name: data[name] for name in _LIMITS if name in data}
        yield Finding("limits", True, ", ".join(f"{name} {value}" for name, value in said.items()), data=said)
        compression = "zstd" if "zstd" in granted else web_socket.compression
        yield Finding("compression", True if compression else None, compression or "none", data={"used": compression})
        yield await _round_trips(web_socket, heard, "heartbeat" in granted, first["timestamp"] - arrived_ms)
    except _UNEXPECTED as error:
        reason = f"{type(error).__name__} {error}" if str(error) else f"no answer within {_TIMEOUT_S:.0f} s"
        yield Finding("handshake", False, f"the connection opened, but what followed is not this protocol: {reason}")
        raise _CannotGoOnError from None
    finally:
        with contextlib.suppress(SocketClosedError):
            await web_socket.close(1000, "")
        web_socket.abort()
        await web_socket.wait_closed()


async def _round_trips(web_socket: Socket, heard: "_Pulse", heartbeats: bool, first_offset_ms: int) -> Finding:
    """Several pings. With ``heartbeat`` the answer holds the server's clock; else it is known only roughly."""
    times: list[float] = []
    offsets: list[tuple[float, float]] = []
    for number in range(_PINGS):
        started, sent_ms = time.perf_counter(), _wall()
        async with asyncio.timeout(_TIMEOUT_S):  # for the answer; other messages do not extend it
            if heartbeats:
                answered_at = await _echo(web_socket, f"doctor-{number}")
                offsets.append((_since(started), answered_at - (sent_ms + _wall()) / 2))
            else:
                heard.reset()
                await web_socket.ping()
                await heard.wait()
        times.append(_since(started))
    # The quickest answer tells the clock best: least of it can have been spent on one way only.
    offset = min(offsets)[1] if offsets else first_offset_ms + min(times) / 2
    text = f"round trip {min(times):.1f} ms (median {statistics.median(times):.1f}), "
    text += f"the server's clock is {abs(offset):.0f} ms {'ahead' if offset >= 0 else 'behind'}"
    data = {"min_ms": min(times), "median_ms": statistics.median(times), "clock_offset_ms": offset, "pings": _PINGS}
    return Finding("round trip", True, text, data=data)


async def _echo(web_socket: Socket, echo: str) -> float:
    """Send a ping and wait for its own answer; the server's clock in it."""
    await web_socket.send(json.dumps({"type": "ping", "data": {"echo": echo}}))
    while True:
        answer = await _receive(web_socket)
        if answer.get("type") == "heartbeat" and _data(answer).get("echo") == echo:
            return float(answer["timestamp"])


async def _subscription(
    url: str, name: str, credentials: str | None, tls: ssl.SSLContext | None
) -> AsyncIterator[Finding]:
    """The same through the client: subscribe, get a value, lose the socket, come back."""
    async with TokenClient(url, token=credentials, ssl=tls, max_retries=2) as client:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(2 * _TIMEOUT_S):
                result = await client.subscribe([name])
                yield Finding(
                    "subscription", True, f"{name} is {result.accepted.get(name, 'accepted')}", _since(started)
                )
                await _until(client, lambda _: bool(client.latest))
            quote = next(iter(client.latest.values()))
            yield Finding(
                "value", True, f"price {quote.price}, sent {_wall() - quote.timestamp} ms ago", _since(started)
            )
        except TimeoutError:
            yield Finding("value", False, f"no value of {name} arrived within {2 * _TIMEOUT_S:.0f} s")
            return
        except TokenwireError as error:
            yield Finding("subscription", False, str(error))
            return
        started = time.perf_counter()
        client.drop_connections()
        try:
            async with asyncio.timeout(4 * _TIMEOUT_S):
                event = await _until(client, lambda event: isinstance(event, Connected | Resumed))
        except (TimeoutError, TokenwireError) as error:
            yield Finding("resume", False, f"the socket was cut, and no connection came back: {error or 'time-out'}")
            return
        elapsed = _since(started)
        if isinstance(event, Resumed):
            yield Finding("resume", True, "the socket was cut; the session went on, nothing was lost", elapsed)
        else:
            why = f" ({event.reason})" if isinstance(event, Connected) and event.reason else ""
            text = f"the socket was cut; a new session{why} sends current values, what lay between is not replayed"
            yield Finding("resume", None, text, elapsed)


async def _until(client: TokenClient, wanted: Callable[[Any], bool]) -> Any:
    async for event in client:
        if wanted(event):
            return event
    raise TokenwireError("CLIENT_CLOSED", "the client ended", "")


class _Pulse:
    """Set when bytes arrive."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.beat = self._event.set
        self.reset = self._event.clear

    async def wait(self) -> None:
        await self._event.wait()


async def _receive(web_socket: Socket) -> dict[str, Any]:
    async with asyncio.timeout(_TIMEOUT_S):
        while True:
            message = await web_socket.receive()
            if isinstance(message, str):
                try:
                    return msgspec.json.decode(message, type=dict[str, Any])
                except (msgspec.DecodeError, RecursionError) as error:
                    raise ValueError(f"a message is not a JSON object: {error}") from None


def _data(message: dict[str, Any]) -> dict[str, Any]:
    data = message.get("data", {})
    if not isinstance(data, dict):
        raise ValueError(f"the data of a message of type {message.get('type')} is not an object")
    return data


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def _with_advice(refused: RefusedError) -> str:
    advice = {
        401: "the credentials are missing or wrong (--token-file or TOKENWIRE_TOKEN)",
        403: "the credentials do not allow this, or the server does not allow this origin",
        404: "there is no such path; the specification's is /api/v1/ws/token-data",
        429: "too many tries; wait",
        503: "the server is full or restarting; wait",
    }.get(refused.status or 0)
    return f"{refused.text}: {advice}" if advice else refused.text


def _since(started: float) -> float:
    return round((time.perf_counter() - started) * 1_000, 1)


def _wall() -> int:
    return time.time_ns() // 1_000_000

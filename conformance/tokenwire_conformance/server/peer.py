"""A client of the server under test: the wire of ``wire.wire`` with the messages of v1.0 on top."""

import asyncio
import contextlib
import errno
import re
import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tokenwire_conformance.figures import CONNECTION_TIMEOUT_S, QUIET_S, REPLY_S
from tokenwire_conformance.wire.handshake import (
    DEFLATE_OFFER,
    HandshakeError,
    Response,
    ResponseReader,
    check_upgrade,
    deflate_of,
    new_key,
    request_bytes,
)
from tokenwire_conformance.wire.log import LogBuilder
from tokenwire_conformance.wire.messages import Received
from tokenwire_conformance.wire.target import Target
from tokenwire_conformance.wire.wire import Clock, EndedError, SilenceError, Wire, cut

__all__ = ["NUMBER", "TIME", "Answer", "ConnectFailedError", "Opened", "Peer", "open_connection", "tokens_of"]

NUMBER: Final = "{number}"
"""Stands for the number of a message in a text that ``Peer.stamped`` completes; ``TIME`` for its timestamp."""
TIME: Final = "{time}"


class ConnectFailedError(Exception):
    """There is no WebSocket connection to the server; the text says at which step it failed."""

    def __init__(self, message: str, response: Response | None = None) -> None:
        super().__init__(message)
        self.response: Final = response
        """What the server answered over HTTP, if it did."""


@dataclass(slots=True)
class Answer:
    """What a server sent in reply to one request."""

    messages: list[Received] = field(default_factory=list)
    ending: str = ""
    """How the connection ended meanwhile, if it did."""

    def of(self, kind: str, **data: Any) -> list[Received]:
        """The messages of type ``kind`` whose data has these values."""
        return [m for m in self.messages if m.type == kind and all(m.data.get(k) == v for k, v in data.items())]

    def accepted(self) -> list[Any]:
        """The tokens of all ``success`` replies."""
        return [token for m in self.of("subscription", status="success") for token in tokens_of(m)]

    def refused(self) -> list[Any]:
        """The tokens of all ``error`` replies."""
        return [token for m in self.of("subscription", status="error") for token in tokens_of(m)]

    def codes(self) -> list[Any]:
        """The codes of all error messages."""
        return [m.data.get("code") for m in self.of("error")]


def tokens_of(message: Received) -> list[Any]:
    """``tokens`` of a message's data, empty when it is no list."""
    tokens = message.data.get("tokens")
    return tokens if isinstance(tokens, list) else []


@dataclass(frozen=True, slots=True)
class Opened:
    """A handshake that was answered: with a WebSocket after 101, else without."""

    response: Response
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    key: str


class Peer(Wire):
    """One client of the server under test."""

    number: int = 0
    """Within the case, to find it in the wire log."""
    response: Response
    capabilities: frozenset[str] = frozenset()
    """Asked for on this connection; the strict contract holds where it is empty."""
    _last_number: int = 0
    greeting: Received | None = None
    """The first message, once ``hello`` read it."""

    async def hello(self, timeout_s: float = CONNECTION_TIMEOUT_S) -> Received:
        """Read the first message, whatever it is.

        Raises:
            SilenceError, EndedError: There is none.
        """
        self.greeting = await self.receive(timeout_s)
        return self.greeting

    @property
    def granted(self) -> frozenset[str]:
        """The capabilities that the greeting lists."""
        names = self.greeting.data.get("capabilities") if self.greeting else None
        return frozenset(name for name in names if isinstance(name, str)) if isinstance(names, list) else frozenset()

    @property
    def limit(self) -> int:
        """``maxSubscriptions`` of the greeting; 100 where it has none."""
        value = self.greeting.data.get("maxSubscriptions") if self.greeting else None
        return value if isinstance(value, int) and not isinstance(value, bool) else 100

    async def until(self, wanted: Callable[[Received], bool] | str, timeout_s: float = REPLY_S) -> Received:
        """Read on until a message of that type, or one that fits; what comes before it stays in ``messages`` only.

        Raises:
            SilenceError: None came in time, counted over all of the reading.
            EndedError: The connection ended before.
        """
        fits = (lambda m: m.type == wanted) if isinstance(wanted, str) else wanted
        deadline_s = self._loop.time() + timeout_s
        while True:
            try:
                message = await self.receive(max(0.0, deadline_s - self._loop.time()))
            except SilenceError:
                name = f"no {wanted} message" if isinstance(wanted, str) else "not the expected message"
                raise SilenceError(f"{name} within {timeout_s:g} s") from None
            if fits(message):
                return message

    async def collect(self, seconds: float) -> list[Received]:
        """Everything that comes in that time; less when the connection ends."""
        found: list[Received] = []
        with contextlib.suppress(SilenceError, EndedError):
            deadline_s = self._loop.time() + seconds
            while True:
                found.append(await self.receive(max(0.0, deadline_s - self._loop.time())))
        return found

    async def answer(
        self, complete: Callable[[Answer], bool], timeout_s: float = REPLY_S, quiet_s: float = QUIET_S
    ) -> Answer:
        """What comes until ``complete`` holds and then nothing but values comes for ``quiet_s``.

        Time running out is no error: the answer then lacks what did not come.
        """
        answer = Answer()
        deadline_s = self._loop.time() + timeout_s
        with contextlib.suppress(SilenceError), self._ending_in(answer):
            while not complete(answer):
                answer.messages.append(await self.receive(max(0.0, deadline_s - self._loop.time())))
            quiet_at_s = self._loop.time() + quiet_s
            while True:
                answer.messages.append(await self.receive(max(0.0, quiet_at_s - self._loop.time())))
        return answer

    def subscription(self, action: Any, tokens: Any, *, sequence: int | None = None, **extra: Any) -> dict[str, Any]:
        """The next subscription message of this client: with all four keys, a number that rises, and the time.

        ``extra`` goes into its data. What is behind a given ``sequence`` counts on from there.
        """
        return {
            "type": "subscription", "sequence": self._next_number(sequence), "timestamp": self._now_ms(),
            "data": {"action": action, "tokens": tokens, **extra},
        }  # fmt: skip

    def stamped(self, text: str) -> str:
        """``text`` with the next numbers and the time in place of ``NUMBER`` and ``TIME``."""
        text = re.sub(re.escape(f'"{NUMBER}"'), lambda _: str(self._next_number()), text)
        return text.replace(f'"{TIME}"', str(self._now_ms()))

    def _next_number(self, given: int | None = None) -> int:
        number = self._last_number + 1 if given is None else given
        self._last_number = max(self._last_number, number)
        return number

    def _now_ms(self) -> int:
        return int(self._clock.wall_ms())

    @contextlib.contextmanager
    def _ending_in(self, answer: Answer) -> Iterator[None]:
        try:
            yield
        except EndedError as error:
            answer.ending = str(error)

    async def subscribe(self, tokens: Sequence[Any], timeout_s: float = REPLY_S, **extra: Any) -> Answer:
        """Subscribe and gather the answer: complete once every name is in a reply."""
        return await self.request("subscribe", tokens, timeout_s, **extra)

    async def unsubscribe(self, tokens: Sequence[Any], timeout_s: float = REPLY_S, **extra: Any) -> Answer:
        """Unsubscribe and gather the answer."""
        return await self.request("unsubscribe", tokens, timeout_s, **extra)

    async def request(self, action: str, tokens: Sequence[Any], timeout_s: float = REPLY_S, **extra: Any) -> Answer:
        """Send a subscription message and gather the answer to it."""
        await self.send_json(self.subscription(action, tokens, **extra))
        wanted = len(set(map(repr, tokens)))

        def complete(answer: Answer) -> bool:
            told = len(answer.accepted()) + len(answer.refused())
            return told >= wanted and (not answer.refused() or bool(answer.of("error")))

        return await self.answer(complete, timeout_s)


async def open_connection(
    target: Target, log: LogBuilder, clock: Clock, *, query: str = "", headers: Iterable[tuple[str, str]] = (),
    without: frozenset[str] = frozenset(), offer_deflate: bool = True, timeout_s: float = CONNECTION_TIMEOUT_S,
    behind: bytes = b"",
) -> Peer:  # fmt: skip
    """Connect, shake hands, and have a peer. ``behind`` is sent together with the upgrade request, right behind it.

    Raises:
        ConnectFailedError: At any step; ``response`` is set when the server answered over HTTP.
    """
    loop = asyncio.get_running_loop()
    headers = (*target.headers, *headers)
    if offer_deflate and not any(name.lower() == "sec-websocket-extensions" for name, _ in headers):
        headers = (*headers, ("Sec-WebSocket-Extensions", DEFLATE_OFFER))
    opened = await _handshake(
        target, log, query=query, headers=headers, without=without, timeout_s=timeout_s, behind=behind
    )
    response = opened.response
    try:
        if response.status != 101:
            raise ConnectFailedError(f"the server answered the upgrade with HTTP {response.status}", response)
        if problem := check_upgrade(response, opened.key):
            raise ConnectFailedError(f"the server answered {problem}", response)
        try:
            deflate = deflate_of(response.header("sec-websocket-extensions"))
        except HandshakeError as error:
            raise ConnectFailedError(f"the server answered with {error}", response) from error
        if deflate is not None and not any(name.lower() == "sec-websocket-extensions" for name, _ in headers):
            raise ConnectFailedError("the server accepted an extension that was not offered", response)
    except ConnectFailedError:
        cut(opened.writer)
        log.add(loop.time(), "note", "tcp", "the suite ends the connection")
        raise
    peer = Peer(opened.reader, opened.writer, client=True, log=log, clock=clock, deflate=deflate, early=response.rest)
    peer.response = response
    return peer


async def _handshake(
    target: Target, log: LogBuilder, *, query: str, headers: tuple[tuple[str, str], ...], without: frozenset[str],
    timeout_s: float, behind: bytes,
) -> Opened:  # fmt: skip
    loop = asyncio.get_running_loop()
    where = f"{target.host}:{target.port}"
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(timeout_s):
            try:
                hostname = target.host if target.tls else None
                reader, writer = (
                    await asyncio.open_connection(target.host, target.port, ssl=target.tls, server_hostname=hostname)
                    if target.tls
                    else await asyncio.open_connection(target.host, target.port)
                )
            except OSError as error:  # SSL errors and failed name resolution are OSErrors as well
                raise ConnectFailedError(f"no connection to {where}: {_plain(error)}") from error
            key = new_key()
            request = request_bytes(target.request_target(query), target.authority, key, headers, without)
            # What the user adds to every handshake may give access, so reports do not repeat its values.
            own = {name for name, _ in target.headers}
            shown = tuple((name, "***" if name in own else value) for name, value in headers)
            log.add(
                loop.time(), "sent", "http",
                request_bytes(target.request_target(query), target.authority, key, shown, without),
            )  # fmt: skip
            writer.write(request + behind)
            answer = ResponseReader()
            while True:
                data = await reader.read(65_536)
                log.add(loop.time(), "received", "http", data.partition(b"\r\n\r\n")[0], size=len(data))
                if (response := answer.feed(data)) is not None:
                    return Opened(response, reader, writer, key)
    except asyncio.CancelledError:
        if writer is not None:
            cut(writer)
        raise
    except TimeoutError:
        problem = "did not answer the upgrade request" if writer else "did not accept the connection"
        failure = ConnectFailedError(f"{where} {problem} within {timeout_s:g} s")
    except HandshakeError as error:
        failure = ConnectFailedError(f"{where}: {error}")
    except OSError as error:  # a broken TLS connection is no ConnectionError
        failure = ConnectFailedError(f"{where} broke the connection during the handshake: {_plain(error)}")
    if writer is not None:
        cut(writer)
    raise failure


def _plain(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted ({' '.join(error.verify_message.split())}): name the certificates to "
            "trust with --ca FILE, or trust any with --insecure"
        )
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or "").replace("_", " ").lower()
        if reason in {"wrong version number", "record layer failure", "http request", "packet length too long"}:
            return "the server does not speak TLS on this port; try ws://"
        return f"TLS failed: {reason or ' '.join(str(error).split())}"
    text = error.strerror or str(error) or type(error).__name__
    # asyncio tells of several addresses of one name in its own words.
    if isinstance(error, ConnectionRefusedError) or (
        "Multiple exceptions" in text
        and text.count("Connect call failed") == text.count(f"[Errno {errno.ECONNREFUSED}]")
    ):
        return "connection refused, nobody listens there"
    return " ".join(text.split())

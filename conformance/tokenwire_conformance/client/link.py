"""One connection of the client under test, seen from the scripted server."""

import asyncio
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import h11
from wsproto.utilities import generate_accept_token

from tokenwire_conformance.figures import CONNECTION_TIMEOUT_S, MAX_SUBSCRIPTIONS, REPLY_S
from tokenwire_conformance.wire.handshake import deflate_of
from tokenwire_conformance.wire.log import LogBuilder
from tokenwire_conformance.wire.messages import Received
from tokenwire_conformance.wire.wire import Clock, EndedError, Wire, cut

__all__ = ["Attempt", "Link", "Request"]

_MAX_REQUEST_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Request:
    """The upgrade request of a client."""

    target: str
    headers: tuple[tuple[str, str], ...]

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """What follows the question mark."""
        return self.target.partition("?")[2]

    def header(self, name: str) -> str | None:
        """All values of ``name``, joined by commas; ``None`` if it is absent."""
        values = [value for key, value in self.headers if key == name.lower()]
        return ", ".join(values) if values else None


class Attempt:
    """A TCP connection that the client opened. The case decides what becomes of it."""

    def __init__(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, log: LogBuilder, clock: Clock
    ) -> None:
        self.number: Final = number
        """From 1, within the case."""
        self.at_s: Final = asyncio.get_running_loop().time()
        """When it was opened."""
        self.link: Link | None = None
        """Once it was accepted."""
        self._reader = reader
        self._writer = writer
        self._log = log
        self._clock = clock
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_REQUEST_BYTES)
        self._request: Request | None = None

    async def request(self, timeout_s: float = REPLY_S) -> Request:
        """The upgrade request.

        Raises:
            EndedError: The client ended the connection, sent no HTTP, or nothing in time.
        """
        if self._request is not None:
            return self._request
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    event = self._http.next_event()
                    if isinstance(event, h11.Request):
                        break
                    if event is not h11.NEED_DATA:
                        raise EndedError("the client ended the connection before its upgrade request")
                    data = await self._reader.read(_MAX_REQUEST_BYTES)
                    self._note("received", "http", data)
                    self._http.receive_data(data)
        except TimeoutError:
            raise EndedError(f"the client sent no upgrade request within {timeout_s:g} s") from None
        except (h11.RemoteProtocolError, ConnectionError) as error:
            raise EndedError(f"the client sent no upgrade request: {error}") from error
        headers = tuple((k.decode("latin-1").lower(), v.decode("latin-1")) for k, v in event.headers)
        self._request = Request(event.target.decode("latin-1"), headers)
        return self._request

    async def accept(
        self, *, deflate: str | None = None, headers: Mapping[str, str] | None = None, answers: bool = True
    ) -> "Link":
        """Complete the handshake. ``deflate`` is the answer to an offer of permessage-deflate, if the client made one.

        ``answers`` says whether the link answers subscriptions by itself.

        Raises:
            EndedError: There is no upgrade request to answer.
        """
        request = await self.request()
        key = request.header("sec-websocket-key") or ""
        offered = request.header("sec-websocket-extensions") or ""
        agreed = deflate if deflate is not None and "permessage-deflate" in offered else None
        lines = {
            "Upgrade": "websocket", "Connection": "Upgrade",
            "Sec-WebSocket-Accept": generate_accept_token(key.encode()).decode(), **(headers or {}),
        }  # fmt: skip
        if agreed is not None:
            lines["Sec-WebSocket-Extensions"] = agreed
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        await self.send_raw(f"HTTP/1.1 101 Switching Protocols\r\n{head}\r\n".encode())
        self.link = Link(
            self._reader, self._writer, client=False, log=self._log, clock=self._clock,
            deflate=deflate_of(agreed, from_server=False), early=self._http.trailing_data[0],
        )  # fmt: skip
        self.link.number = self.number
        self.link.request = request
        self.link.answers = answers
        return self.link

    async def reject(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        """Answer the upgrade with an HTTP status and end the connection."""
        await self.request()
        lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        await self.send_raw(f"HTTP/1.1 {status} x\r\nContent-Length: 0\r\nConnection: close\r\n{lines}\r\n".encode())
        await self.finish()

    async def send_raw(self, data: bytes) -> None:
        """Bytes in place of an HTTP answer, or a part of one."""
        self._note("sent", "http", data)
        try:
            self._writer.write(data)
            await self._writer.drain()
        except ConnectionError as error:
            raise EndedError(f"the client ended the connection: {error}") from error

    async def finish(self) -> None:
        """End the TCP connection in order."""
        self._writer.close()

    async def drop(self) -> None:
        """Reset the TCP connection."""
        if self.link is not None:
            await self.link.abort()
        cut(self._writer)

    async def ended(self, timeout_s: float) -> float:
        """Wait, without answering the handshake, until the client ends the connection; when it did, on the loop's
        clock.

        Raises:
            SilenceError, TimeoutError: It did not in time.
        """
        async with asyncio.timeout(timeout_s):
            try:
                while await self._reader.read(_MAX_REQUEST_BYTES):
                    pass
            except ConnectionError:
                pass
        return asyncio.get_running_loop().time()

    def _note(self, direction: str, kind: str, payload: bytes) -> None:
        self._log.add(asyncio.get_running_loop().time(), direction, kind, payload)


class Link(Wire):
    """A WebSocket to the client under test. It numbers what it sends, and answers subscriptions if it is to."""

    number: int = 0
    request: Request
    answers: bool = True
    """Whether subscriptions are answered, with a value for each token."""
    values: bool = True
    """Whether such an answer is followed by values."""
    details: bool = False
    """Whether values carry ``version`` and ``sourceTime``, as they do where ``details`` was granted."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.sequence = 0
        """The number of the last message sent."""
        self.held: dict[str, None] = {}
        """What the client is subscribed to by its requests so far."""
        self.requests: list[Received] = []
        """Its subscription messages."""
        self.price = 0
        self.versions = 0
        super().__init__(*args, **options)

    # --- sending -------------------------------------------------------------------------------------------
    def envelope(self, kind: str, data: Mapping[str, Any], sequence: int | None = None) -> dict[str, Any]:
        """A message with the next number, or with another one that does not count."""
        if sequence is None:
            self.sequence += 1
            sequence = self.sequence
        return {"type": kind, "sequence": sequence, "timestamp": round(self._clock.wall_ms()), "data": dict(data)}

    async def send(self, kind: str, data: Mapping[str, Any], sequence: int | None = None) -> dict[str, Any]:
        """Send a message and return it."""
        message = self.envelope(kind, data, sequence)
        await self.send_json(message)
        return message

    async def greet(self, **extra: Any) -> None:
        """The connection message, with ``extra`` in its data."""
        data = {"status": "connected", "connectionId": str(uuid.uuid4()), "maxSubscriptions": MAX_SUBSCRIPTIONS}
        await self.send("connection", data | extra)

    async def update(self, address: str, price: str | None = None, sequence: int | None = None) -> dict[str, Any]:
        """A token_update; without ``price`` each has another one."""
        return await self.send("token_update", self.update_data(address, price), sequence)

    def update_data(self, address: str, price: str | None = None) -> dict[str, Any]:
        """The data of a token_update."""
        if price is None:
            self.price += 1
            price = f"{self.price}.5"
        volume = {"h24": "1000000.25", "h1": "5000", "m5": "0"}
        data = {"address": address, "price": price, "marketCap": "123456789", "volume": volume}
        if not self.details:
            return data
        self.versions += 1
        return data | {"version": self.versions, "sourceTime": round(self._clock.wall_ms())}

    async def error(self, code: str, level: str, message: str = "made by the conformance suite") -> None:
        """An error message."""
        await self.send("error", {"code": code, "message": message, "level": level})

    # --- receiving -----------------------------------------------------------------------------------------
    async def subscribed(self, wanted: Iterable[str], timeout_s: float = REPLY_S) -> bool:
        """Wait until the client holds exactly ``wanted``; whether it came to that."""
        goal = set(wanted)
        try:
            async with asyncio.timeout(timeout_s):
                while set(self.held) != goal:
                    if self.ended_s is not None:
                        return False
                    await self._wait()
        except TimeoutError:
            return False
        return True

    async def first_request(self, timeout_s: float = CONNECTION_TIMEOUT_S) -> bool:
        """Wait for a subscription message; whether one came."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self.requests:
                    if self.ended_s is not None:
                        return False
                    await self._wait()
        except TimeoutError:
            return False
        return True

    async def _take(self, frame: Any) -> None:
        before = len(self.messages)
        await super()._take(frame)
        for message in self.messages[before:]:
            if message.type == "subscription":
                self.requests.append(message)
                await self._request(message)

    async def _request(self, message: Received) -> None:
        named = message.data.get("tokens")
        tokens = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
        action = message.data.get("action")
        if action == "subscribe":
            self.held |= dict.fromkeys(tokens)
        elif action == "unsubscribe":
            for name in tokens:
                self.held.pop(name, None)
        if not self.answers or not tokens:
            return
        extra = {"requestId": message.data["requestId"]} if "requestId" in message.data else {}
        await self.send("subscription", {"action": action, "tokens": tokens, "status": "success", **extra})
        if self.values and action == "subscribe":
            for name in tokens:
                await self.update(name)

"""The listener: handshakes, capacity, sessions, and the ticks of the market."""

import asyncio
import base64
import contextlib
import hashlib
import json
from typing import Final
from urllib.parse import parse_qs, urlsplit

from conformance.tests.reference.connection import Connection
from conformance.tests.reference.events import Events
from conformance.tests.reference.feed import Feed
from conformance.tests.reference.market import Market
from conformance.tests.reference.requests import error_data
from conformance.tests.reference.session import Session, Shared
from conformance.tests.reference.settings import Settings

__all__ = ["ReferenceServer"]

_PATH: Final = "/api/v1/ws/token-data"
_OPEN_S: Final = 5.0
_WINDOW_S: Final = 120.0
_RACE_S: Final = 5.0
_MAX_REFUSED: Final = 50
_MAX_STREAM: Final = 20_000
_SESSION_CAPS: Final = frozenset({"batch", "channels", "details", "resume"})
_SOCKET_CAPS: Final = frozenset({"heartbeat", "zstd"})
_GUID: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class ReferenceServer:
    """Start it within the loop that is to run it."""

    def __init__(self, settings: Settings) -> None:
        self.settings: Final = settings
        self.faults: Final = settings.faults
        self._loop = asyncio.get_running_loop()
        self.market: Final = Market(settings.tokens, settings.wall_ms(), settings.faults)
        self.events: Final = Events(self.market, settings.wall_ms())
        self.stream: Final = "reference"
        self._shared = Shared(self.market, settings.faults)
        self.connections: dict[Connection, None] = {}
        self._served = 0
        self._ends = 0
        self._vanished = 0
        self._refused = 0
        self._sessions: dict[str, Session] = {}
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def wall_ms(self) -> float:
        """Unix time."""
        return self.settings.wall_ms()

    def now_s(self) -> float:
        """The loop's time."""
        return self._loop.time()

    async def start(self, host: str, port: int) -> None:
        """Listen, and let the market move."""
        self._listener = await asyncio.start_server(self._accept, host, port)
        for work in Feed(self).works():
            self._tasks.add(asyncio.create_task(work))

    async def stop(self) -> None:
        """End everything at once."""
        for connection in list(self.connections):
            connection.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()

    # --- handshakes --------------------------------------------------------------------------------------------
    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._greet(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = b""
        limit_s = None if "opening_never_times_out" in self.faults else _OPEN_S
        try:
            async with asyncio.timeout(limit_s):
                while b"\r\n\r\n" not in data:
                    more = await reader.read(65_536)
                    if not more or len(data) > 65_536:
                        return
                    data += more
        except TimeoutError:
            writer.transport.abort()
            return
        head, _, early = data.partition(b"\r\n\r\n")
        request, *lines = head.decode("latin-1").split("\r\n")
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        target = urlsplit(request.split(" ")[1] if request.count(" ") == 2 else "/")
        status = self._refusal(target.path, target.query, headers, early)
        if status is not None:
            await self._http(writer, *status)
            return
        await self._upgrade(reader, writer, parse_qs(target.query), headers, early)

    def _refusal(
        self, path: str, query: str, headers: dict[str, str], early: bytes
    ) -> tuple[str, bytes, tuple[str, ...]] | None:
        upgrade = headers.get("upgrade", "").lower() == "websocket"
        if path == "/api/v1/tokens" and not upgrade:
            rows = [{"address": name} for name in self.market.names]
            return "200 OK", json.dumps({"data": rows, "nextCursor": None}).encode(), ()
        if path != _PATH and "path_any" not in self.faults:
            return "404 Not Found", b"", ()
        if not upgrade or not headers.get("sec-websocket-key"):
            return "400 Bad Request", b"", ()
        if headers.get("sec-websocket-version") != "13":
            return "426 Upgrade Required", b"", ("Sec-WebSocket-Version: 13",)
        if early and "early_bytes_taken" not in self.faults:
            return "400 Bad Request", b"", ()
        if "unknown_query_refused" in self.faults and set(parse_qs(query)) - {"caps", "delivery", "seq", "attempt"}:
            return "400 Bad Request", b"", ()
        if "sec-websocket-extensions" not in headers and "compression_demanded" in self.faults:
            return "400 Bad Request", b"", ()
        full = self._served >= self.settings.max_connections
        busy = self._refused >= _MAX_REFUSED
        if full and "capacity_ignored" not in self.faults and busy:
            return "503 Service Unavailable", b"", ("Retry-After: 5",)
        return None

    async def _http(self, writer: asyncio.StreamWriter, status: str, body: bytes, extra: tuple[str, ...]) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *extra]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        with contextlib.suppress(ConnectionError):
            await writer.drain()

    async def _upgrade(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, query: dict[str, list[str]],
        headers: dict[str, str], early: bytes,
    ) -> None:  # fmt: skip
        faults = self.faults
        asked = frozenset(name for text in query.get("caps", ()) for name in text.split(","))
        granted = asked & self.settings.capabilities
        if "grants_unasked" in faults:
            granted |= {"heartbeat"}
        offered = "permessage-deflate" in headers.get("sec-websocket-extensions", "")
        deflate = offered and ("zstd" not in granted or "deflate_besides_zstd" in faults)
        if "vanished_wear_out" in faults and self._vanished >= 10:
            await asyncio.sleep(3600)
        accept = base64.b64encode(hashlib.sha1((headers["sec-websocket-key"] + _GUID).encode()).digest()).decode()
        lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
        lines.append(f"Sec-WebSocket-Accept: {accept}")
        protocols = [name.strip() for name in headers.get("sec-websocket-protocol", "").split(",")]
        if "token-data.v1" in protocols and "subprotocol_not_echoed" not in faults:
            lines.append("Sec-WebSocket-Protocol: token-data.v1")
        elif protocols[0] and "subprotocol_any" in faults:
            lines.append(f"Sec-WebSocket-Protocol: {protocols[0]}")
        bits = _window(headers.get("sec-websocket-extensions", ""))
        if deflate:
            client = "" if "client_takeover" in faults else "; client_no_context_takeover"
            lines.append(f"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover{client}")
        elif "extension_unoffered" in faults:
            lines.append("Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover")
        if deflate and bits != 15 and "window_ignored" not in faults:
            lines[-1] += f"; server_max_window_bits={bits}"
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        if self._served >= self.settings.max_connections and "capacity_ignored" not in faults:
            await self._turn_away(reader, writer)
            return
        every = query.get("delivery") == ["every"] and "resume" in granted
        secret = headers.get("x-tokenwire-session") or query.get("session", [""])[0]
        connection = self._admit(reader, writer, granted, every=every, deflate=deflate, secret=secret, query=query)
        connection.bits = 15 if "window_ignored" in faults else bits
        await connection.run(early)

    async def _turn_away(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._refused += 1
        session = Session(self._shared, frozenset())
        connection = Connection(self, reader, writer, session, deflate=False, caps=frozenset())
        session.connection = connection
        connection.fail("MAX_CONNECTIONS", "the instance is full", 1013)
        try:
            await connection.run()
        finally:
            self._refused -= 1

    # --- sessions ----------------------------------------------------------------------------------------------
    def _admit(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, granted: frozenset[str], *, every: bool,
        deflate: bool, secret: str, query: dict[str, list[str]],
    ) -> Connection:  # fmt: skip
        faults = self.faults
        caps = granted & _SESSION_CAPS
        old, reason = (
            (self._find(secret, caps, granted & _SOCKET_CAPS, every, query)) if "resume" in granted else (None, None)
        )
        attempt = _digits(query.get("attempt", ["0"])[0])
        position = _digits(query.get("seq", [""])[0])
        resumed = old is not None and reason is None
        if resumed:
            assert old is not None
            session = old
        else:
            session = Session(self._shared, caps, every=every, strict=not granted)
            if old is not None and reason in {"position_evicted", "position_ahead"}:
                self._sessions.pop(old.secret, None)
                if "lost_position_loses_subscriptions" not in faults:
                    session.held = old.held
                    session.sets = old.sets
        socket_caps = granted & _SOCKET_CAPS
        connection = Connection(self, reader, writer, session, deflate=deflate, caps=socket_caps)
        connection._opened_s = self._loop.time()
        before = old.connection if old is not None else None
        if before is not None and old is not None and not before.ended:
            racing = self._loop.time() - old.attached_s < _RACE_S and attempt < old.attempt
            if "attempt_counts_for_ever" in faults:
                racing = attempt < old.attempt
            if racing and resumed and "attempt_ignored" not in faults:
                self.connections[connection] = None
                self._served += 1
                connection.session = Session(self._shared, frozenset())
                connection.session.connection = connection
                connection.close(4500, "superseded")
                return connection
            before.session = Session(self._shared, frozenset())
            before.session.connection = before
            if "takeover_leaves_old_open" not in faults:
                before.close(4500, "superseded")
        session.connection = connection
        session.socket_caps = socket_caps
        session.attempt, session.attached_s, session.detached_s = attempt, self._loop.time(), None
        if "resume" in granted:
            self._sessions[session.secret] = session
        self.connections[connection] = None
        self._served += 1
        self._welcome(connection, granted | ({"delivery"} if every else set()), reason, position, resumed=resumed)
        return connection

    def _find(
        self, secret: str, caps: frozenset[str], socket_caps: frozenset[str], every: bool, query: dict[str, list[str]]
    ) -> tuple[Session | None, str | None]:
        """The session to go on with, and why not."""
        faults = self.faults
        if not secret:
            return None, None
        session = self._sessions.get(secret)
        detached_s = None if session is None else session.detached_s
        if detached_s is not None and self._loop.time() - detached_s > _WINDOW_S:
            session = None
        if session is None or session.dead or "resume_never" in faults:
            self._sessions.pop(secret, None)
            return None, "unknown_session"
        if "socket_caps_kept" in faults and session.socket_caps != socket_caps:
            return session, "caps_changed"
        if (session.caps != caps or session.every != every) and "caps_change_ignored" not in faults:
            self._sessions.pop(secret, None)
            return session, "caps_changed"
        position = _digits(query.get("seq", [""])[0], missing=-1)
        if position < 0 or position > session.sequence:
            return session, "position_ahead"
        if position < session.floor:
            return session, "position_evicted"
        return session, None

    def _welcome(  # noqa: PLR0912
        self, connection: Connection, granted: frozenset[str], reason: str | None, position: int, *, resumed: bool
    ) -> None:
        session = connection.session
        faults = session.faults
        data = connection.connection_data("connected")
        capabilities = sorted(granted & self.settings.capabilities)
        if capabilities:
            data["capabilities"] = capabilities
            if "capabilities_list_more" in faults:
                data["capabilities"] = [*capabilities, "turbo"]
        if "resume" in granted:
            data["session"] = session.secret
            data["resumed"] = resumed
            if reason is not None:
                data["reason"] = "lost" if "reason_own" in faults else reason
            if resumed:
                data["replayFrom"] = position + 1
        if granted & {"details", "resume"} and "figures_missing" not in faults:
            data["subscriptions"] = [
                {"token": name, "channels": list(channels)} for name, channels in session.held.items()
            ]
            data |= {"stream": self.stream, "heartbeatMs": 15_000, "idleTimeoutMs": 20_000}
            if "resume" in granted:
                data["resumeWindowMs"] = 120_000
            interval_ms = round(self.settings.update_interval_s * 1000)
            data |= {"maxMessageBytes": 1_048_576, "maxBatch": 1000, "updateIntervalMs": interval_ms}
        if not resumed:
            session.outbox.append(("connection", data, True))
        if "connection_second" in session.faults:
            warning = error_data("UPSTREAM_STALE", "welcome", "warning", details=False)
            session.outbox.appendleft(("error", warning, True))
        if reason is not None and "resume_failure_untold" not in faults:
            connection.error("RESUME_FAILED", f"a new session: {reason}")
        if "starts_with_subscriptions" in faults:
            session.held[self.market.names[-1]] = {"token": None}
            session.want_all()
        if not resumed:
            session.want_all()
            connection.flush()
            return
        now_ms = self.wall_ms()
        connection.send(session.unnumbered("connection", data, now_ms))
        session.ack(position)
        first = position + 1
        if "resume_off_by_one" in faults:
            first += 1
        connection.replay(max(first, session.floor + 1), session.sequence)

    # --- what happens ------------------------------------------------------------------------------------------
    def happened(self, session: Session) -> None:
        """Queue what is due of the channels of a session."""
        now_ms = self.wall_ms()
        before = len(session.stream)
        for address, channels in list(session.effective().items()):
            for channel in channels:
                if channel != "token":
                    session.stream.extend(self.events.due(session, address, channel, now_ms))
        connection = session.connection
        if len(session.stream) == before or connection is None:
            return
        connection.flush()
        if "trades_conflated_for_slow" in session.faults and session.stream:
            newest = {(kind, data["address"]): (kind, data) for kind, data in session.stream}
            session.stream = type(session.stream)(newest.values())
        if len(session.stream) > _MAX_STREAM:
            connection.close(4003, "overflow")

    def follow(self, session: Session) -> None:
        """Have the session hold what its sets hold now, and tell its client who came and who went."""
        faults = session.faults
        for name in session.sets:
            before = session.told.get(name)
            members = self.market.members(name, self.wall_ms()) or ()
            if before == members:
                continue
            removed = [address for address in before or () if address not in members]
            added = [address for address in members if address not in (before or ())]
            session.told[name] = members if "set_gone_goes_on" not in faults else (*(before or ()), *added)
            held = session.effective()
            for address in removed:
                if address not in held:
                    session.forget(address)
            if "set_values_first" in faults and session.connection is not None:
                for address in added:
                    session.want(address)
                session.connection.flush()
            if ("set_members_untold" if before is None else "set_change_untold") not in faults:
                shown = [address[:4] for address in added] if "set_of_symbols" in faults else added
                told = {"set": name, "added": shown, "removed": removed, "size": len(members)}
                if "set_size_missing" in faults:
                    del told["size"]
                session.outbox.append(("set", told, True))
            for address in added:
                session.want(address)

    def end_others(self, connection: Connection) -> None:
        """A mistake: one socket's end is that of all."""
        for other in list(self.connections):
            if other is not connection:
                other.abort()

    def detached(self, connection: Connection) -> None:
        """A socket has ended."""
        session = connection.session
        self._vanished += not connection.closing
        if connection in self.connections:
            del self.connections[connection]
            self._ends += 1
            if not ("leaks_a_place" in self.faults and self._ends % 2):
                self._served -= 1
        if session.connection is connection:
            session.connection = None
            session.detached_s = self._loop.time()
            if session.dead or "resume" not in session.caps:
                self._sessions.pop(session.secret, None)
                session.held.clear()
                session.sets.clear()

    def sessions(self) -> list[Session]:
        """Those that something may be due to."""
        found = {id(connection.session): connection.session for connection in self.connections}
        found |= {id(session): session for session in self._sessions.values()}
        if "updates_to_everyone" in self.faults:
            return list(found.values())
        return [
            session for session in found.values()
            if session.held or session.sets or (session.connection is not None and session.connection.haunted)
        ]  # fmt: skip


def _digits(text: str, *, missing: int = 0) -> int:
    return int(text) if text.isdecimal() else missing


def _window(offer: str) -> int:
    """What ``server_max_window_bits`` asks for; zlib has no raw window of 8 bits."""
    _, _, value = offer.partition("server_max_window_bits=")
    digits = value.strip('" ')[:2].strip(';, "')
    return max(9, int(digits)) if digits.isdecimal() else 15

"""What a server case works with: connections to the server, names to subscribe to, and how to complain."""

import asyncio
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NoReturn

from tokenwire_conformance.figures import CONNECTION_TIMEOUT_S, UPDATE_INTERVAL_S
from tokenwire_conformance.model import NotTestableError, Role, Violation, ViolationError, WireLog
from tokenwire_conformance.registry import Suite
from tokenwire_conformance.server.peer import Peer, open_connection
from tokenwire_conformance.wire.log import LogBuilder
from tokenwire_conformance.wire.target import Target
from tokenwire_conformance.wire.wire import Clock, EndedError, SilenceError

__all__ = ["SERVER", "Bench", "History", "ServerFacts", "made_up_name"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What is known of the server before the first case."""

    target: Target
    tokens: tuple[str, ...] = ()
    """Names that can be subscribed to, as the server writes them in its replies."""
    live: tuple[str, ...] = ()
    """Those of ``tokens`` for which a value came while the suite looked."""
    given: bool = False
    """Whether the user named the tokens; then a value that never comes is the server's fault."""
    accepts_any: bool = False
    """Whether a made-up name was accepted."""
    granted: frozenset[str] = frozenset()
    """Capabilities that the server grants when all are asked for."""
    update_interval_s: float = UPDATE_INTERVAL_S
    clock: Clock = field(default_factory=Clock)


@dataclass(frozen=True, slots=True)
class History:
    """What one connection received, for the checkers."""

    case_id: str
    peer: Peer
    strict: bool
    """Whether nothing was negotiated on it."""


SERVER: Final["Suite[Bench]"] = Suite(Role.SERVER)
"""Every server case. ``server.cases`` imports the modules that fill it."""


@dataclass
class Bench:
    """One case's view of the server under test."""

    facts: ServerFacts
    case_id: str
    violations: list[Violation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    histories: list[History] = field(default_factory=list)
    """Of this case's connections."""
    over_run: bool = False
    run_histories: list[History] = field(default_factory=list)
    """Of every case of the run so far, for cases that are registered with ``over_run``."""
    untold: set[int] = field(default_factory=set)
    """Numbers of connections whose wire logs the report leaves out, where hundreds are alike."""
    _logs: list[LogBuilder] = field(default_factory=list)

    # --- connections ---------------------------------------------------------------------------------------
    async def connect(
        self, *, caps: Iterable[str] = (), query: str = "", headers: Iterable[tuple[str, str]] = (),
        without: Iterable[str] = (), offer_deflate: bool = True, target: Target | None = None,
        timeout_s: float = CONNECTION_TIMEOUT_S, behind: bytes = b"",
    ) -> Peer:  # fmt: skip
        """Connect without reading anything yet. ``caps`` are asked for in the query, ``behind`` is sent together with
        the upgrade request.

        Raises:
            ConnectFailedError: There is no connection.
        """
        target = target or self.facts.target
        asked = frozenset(caps)
        parts = [f"caps={','.join(sorted(asked))}"] if asked else []
        query = "&".join([*parts, query] if query else parts)
        number = len(self._logs) + 1
        log = LogBuilder(number, target.url(query), asyncio.get_running_loop().time())
        self._logs.append(log)
        peer = await open_connection(
            target, log, self.facts.clock, query=query, headers=headers, without=frozenset(without),
            offer_deflate=offer_deflate, timeout_s=timeout_s, behind=behind,
        )  # fmt: skip
        peer.number = number
        peer.capabilities = asked
        self.histories.append(History(self.case_id, peer, strict=not asked and "delivery=" not in query))
        return peer

    async def strict(self, *, offer_deflate: bool = True, query: str = "") -> Peer:
        """A connection with nothing negotiated, its first message read."""
        peer = await self.connect(query=query, offer_deflate=offer_deflate)
        await self.greet(peer)
        return peer

    async def extended(
        self, *caps: str, query: str = "", headers: Iterable[tuple[str, str]] = (), offer_deflate: bool = True
    ) -> Peer:
        """A connection with these capabilities granted, its first message read.

        Raises:
            NotTestableError: One of them is not granted.
        """
        peer = await self.connect(caps=caps, query=query, headers=headers, offer_deflate=offer_deflate)
        await self.greet(peer)
        missing = sorted(set(caps) - peer.granted)
        if missing:
            raise NotTestableError(f"the server does not grant {', '.join(missing)}")
        return peer

    async def greet(self, peer: Peer) -> None:
        """Read the first message; none within the connection timeout violates ``MC.first``."""
        try:
            await peer.hello()
        except (SilenceError, EndedError) as error:
            self.fail("MC.first", f"no connection message: {error}", peer)

    # --- names ---------------------------------------------------------------------------------------------
    def tokens(self, count: int) -> list[str]:
        """``count`` names that can be subscribed to; a server that accepts any name gets made-up ones if need be.

        Raises:
            NotTestableError: There are fewer.
        """
        missing = count - len(self.facts.tokens)
        if missing > 0 and self.facts.accepts_any:
            return [*self.facts.tokens, *(made_up_name(f"Further{number}x") for number in range(missing))]
        if missing > 0:
            raise NotTestableError(
                f"needs {count} different tokens and has {len(self.facts.tokens)}: name more with --tokens"
            )
        return list(self.facts.tokens[:count])

    def live_tokens(self, count: int) -> list[str]:
        """``count`` names that have values.

        Raises:
            NotTestableError: There are fewer, and the names are made up; of given ones the missing are filled in, and
                the case will see that they have none.
        """
        if len(self.facts.live) >= count:
            return list(self.facts.live[:count])
        if not self.facts.given:
            raise NotTestableError(
                f"needs {count} tokens with values and saw {len(self.facts.live)}: name some with --tokens"
            )
        rest = [name for name in self.tokens(count) if name not in self.facts.live]
        return [*self.facts.live, *rest][:count]

    def unknown(self) -> str:
        """A name that no server knows by chance.

        Raises:
            NotTestableError: The server accepts any name.
        """
        if self.facts.accepts_any:
            raise NotTestableError("the server accepts any name, so none is unknown")
        return made_up_name("Unknown")

    # --- verdicts ------------------------------------------------------------------------------------------
    def fail(self, clause: str, message: str, peer: Peer | None = None) -> NoReturn:
        """End the case with a violation of ``clause``."""
        raise ViolationError(_violation(clause, message, peer))

    def require(self, holds: object, clause: str, message: str, peer: Peer | None = None) -> None:
        """End the case with a violation unless ``holds``."""
        if not holds:
            self.fail(clause, message, peer)

    def expect(self, holds: object, clause: str, message: str, peer: Peer | None = None) -> bool:
        """Note a violation unless ``holds``, and go on; for what the rest of the case does not rest on."""
        if not holds:
            self.violations.append(_violation(clause, message, peer))
        return bool(holds)

    def note(self, text: str) -> None:
        """Something the reader of the report should know that is no violation."""
        self.notes.append(text)

    def need(self, holds: object, reason: str, peer: Peer | None = None) -> None:
        """Skip the case unless ``holds``. It is no reason that the server has ended the connection ``peer``, which it
        has no cause to do: that violates ``CM.stays-open``."""
        if holds:
            return
        if peer is not None and peer.is_left:
            self.fail("CM.stays-open", f"a client that did nothing wrong lost its connection: {peer.ending()}", peer)
        raise NotTestableError(reason)

    # --- the end -------------------------------------------------------------------------------------------
    async def close(self) -> None:
        """End every connection of the case."""
        for history in self.histories:
            await history.peer.abort()
            history.peer.let_go()
        if not self.over_run:
            self.run_histories.extend(self.histories)

    def logs(self) -> tuple[WireLog, ...]:
        """The wire logs of the case's connections."""
        return tuple(log.build() for number, log in enumerate(self._logs, 1) if number not in self.untold)


def _violation(clause: str, message: str, peer: Peer | None) -> Violation:
    """Says how the connection ended, too: then it is no wonder that something did not come."""
    if peer is not None and peer.is_left and peer.ending() not in message and str(peer.close_code) not in message:
        message = f"{message} (and the connection has ended: {peer.ending()})"
    return Violation(clause, message, peer.number if peer else None)


def made_up_name(word: str) -> str:
    """A well-formed name that nobody has: 43 characters in the alphabet of base58, as addresses of Solana are."""
    alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    number = uuid.uuid4().int << 100 | uuid.uuid4().int >> 28
    digits = ""
    while len(digits) < 43:
        number, digit = divmod(number, 58)
        digits += alphabet[digit]
    return (word.replace("l", "L") + digits)[:43]

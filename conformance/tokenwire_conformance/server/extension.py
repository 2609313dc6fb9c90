"""What the extension cases share: values out of single updates and batches, sessions that are left and resumed."""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any, Final
from urllib.parse import quote

from tokenwire_conformance.figures import REPLY_S
from tokenwire_conformance.server.bench import Bench
from tokenwire_conformance.server.peer import Answer, Peer
from tokenwire_conformance.wire.messages import Received, shown
from tokenwire_conformance.wire.wire import EndedError, SilenceError

__all__ = [
    "LEFT",
    "SESSION_HEADER",
    "ack",
    "began_with",
    "begun",
    "codes",
    "gathered",
    "last_number",
    "leave",
    "numbered",
    "reason",
    "replay",
    "replayed",
    "require_alive",
    "require_new",
    "require_resumed",
    "resume",
    "resumed",
    "secret_of",
    "up_to", "updates_of",
]  # fmt: skip

SESSION_HEADER: Final = "X-Tokenwire-Session"
LEFT: Final = "a session with 3 tokens, its socket closed with 1001, everything sent until then read"
"""What most cases of a resume send first."""


def updates_of(messages: Iterable[Received]) -> list[dict[str, Any]]:
    """The token updates in ``messages``, single ones and those in batches, in order."""
    found: list[dict[str, Any]] = []
    for message in messages:
        if message.type == "token_update":
            found.append(message.data)
        elif message.type == "token_batch" and isinstance(entries := message.data.get("updates"), list):
            found.extend(entry for entry in entries if isinstance(entry, dict))
    return found


def codes(messages: Iterable[Received]) -> list[Any]:
    """The codes of the error messages among ``messages``."""
    return [message.data.get("code") for message in messages if message.type == "error"]


def numbered(messages: Iterable[Received]) -> list[Received]:
    """Those that take a number of their own: not heartbeat and gap, nor the first message of a resumed socket."""
    return [
        m
        for m in messages
        if m.type not in {"heartbeat", "gap"} and not (m.type == "connection" and m.data.get("resumed") is True)
    ]


def last_number(peer: Peer) -> int:
    """The highest number received on the connection, 0 without any."""
    return max((m.sequence for m in numbered(peer.messages) if m.sequence is not None), default=0)


async def gathered(
    peer: Peer, since: int, complete: Callable[[list[Received]], object], timeout_s: float = REPLY_S
) -> list[Received]:
    """The connection's messages from its ``since``-th on, once ``complete`` holds; fewer when time or the connection
    ends."""
    with contextlib.suppress(SilenceError, EndedError):
        await peer.until(lambda _: bool(complete(peer.messages[since:])), timeout_s)
    return peer.messages[since:]


async def began_with(bench: Bench, peer: Peer, tokens: list[str]) -> Answer:
    """Subscribe to ``tokens``, which has to succeed."""
    answer = await peer.subscribe(tokens)
    bench.require(answer.accepted(), "MS.answered", "the subscribe was not answered with success", peer)
    return answer


async def begun(bench: Bench, *caps: str, count: int = 3, offer_deflate: bool = True) -> Peer:
    """A new session with ``resume`` and ``caps`` that holds ``count`` tokens."""
    peer = await bench.extended("resume", *caps, offer_deflate=offer_deflate)
    if count:
        await began_with(bench, peer, bench.live_tokens(count))
    return peer


def secret_of(bench: Bench, peer: Peer) -> str:
    """The secret that resumes the session of ``peer``."""
    secret = peer.greeting.data.get("session") if peer.greeting else None
    bench.require(isinstance(secret, str) and secret, "XR.secret", "the first message has no session", peer)
    assert isinstance(secret, str)
    return secret


async def leave(peer: Peer) -> None:
    """End the socket in good order, with everything read that the server had sent; the session stays."""
    await peer.close(1001, timeout_s=REPLY_S)


async def resume(
    bench: Bench, secret: str, *, seq: int | None, attempt: int = 1, caps: Iterable[str] = ("resume",),
    in_query: bool = False, offer_deflate: bool = True, greet: bool = True,
) -> Peer:  # fmt: skip
    """A socket that asks to go on with a session behind the number ``seq``, its first message read."""
    parts = [f"session={quote(secret, safe='')}"] if in_query else []
    parts += [] if seq is None else [f"seq={seq}"]
    peer = await bench.connect(
        caps=caps, query="&".join([*parts, f"attempt={attempt}"]), offer_deflate=offer_deflate,
        headers=() if in_query else [(SESSION_HEADER, secret)],
    )  # fmt: skip
    if greet:
        await bench.greet(peer)
    return peer


def resumed(peer: Peer) -> bool:
    """Whether the first message says that the session goes on."""
    return peer.greeting is not None and peer.greeting.data.get("resumed") is True


def reason(peer: Peer) -> Any:
    """Why a resume was not possible, as the first message tells."""
    return peer.greeting.data.get("reason") if peer.greeting else None


def require_resumed(bench: Bench, peer: Peer, clause: str = "XR.resumed") -> None:
    """The session goes on, or the case ends."""
    told = f"reason {shown(reason(peer))}" if reason(peer) else (peer.greeting.brief() if peer.greeting else "nothing")
    bench.require(resumed(peer), clause, f"the session was not resumed: {told}", peer)


async def replayed(peer: Peer, highest: int) -> list[Received]:
    """The numbered messages behind the first one of a resumed socket, up to the number ``highest``."""
    messages = await gathered(peer, 1, lambda ms: any((m.sequence or 0) >= highest for m in numbered(ms)))
    return [message for message in numbered(messages) if (message.sequence or 0) <= highest]


def require_new(bench: Bench, peer: Peer, old_secret: str, clause: str, why: str) -> None:
    """The first message begins a new session for the reason ``why``."""
    assert peer.greeting is not None
    greeting = peer.greeting
    bench.require(greeting.type == "connection" and not resumed(peer), clause, f"came {greeting.brief()}", peer)
    bench.require(greeting.sequence == 1, clause, f"the new session begins at {greeting.sequence}", peer)
    bench.require(secret_of(bench, peer) != old_secret, clause, "the new session has the old secret", peer)
    bench.require(reason(peer) == why, clause, f"the reason is {shown(reason(peer))}, not {why}", peer)


async def ack(peer: Peer, number: object) -> None:
    """Acknowledge ``number``."""
    await peer.send_json({"type": "ack", "data": {"sequence": number}})


async def replay(peer: Peer, begin: int, end: int) -> None:
    """Ask for the numbers ``begin`` to ``end`` once more."""
    await peer.send_json({"type": "replay", "data": {"from": begin, "to": end}})


def up_to(messages: list[Received], end: int) -> list[Received]:
    """Those that are replayed: their numbers are not above ``end``, which was sent before."""
    return [message for message in numbered(messages) if (message.sequence or 0) <= end]


async def require_alive(bench: Bench, peer: Peer, clause: str) -> None:
    """The connection still answers a subscribe."""
    answer = await peer.subscribe(bench.live_tokens(3))
    bench.require(answer.accepted(), clause, "the connection does not answer any more", peer)

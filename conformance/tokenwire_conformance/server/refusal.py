"""What the cases about bad input share: having a message refused, and seeing that the server serves on."""

from typing import Any

from tokenwire_conformance.figures import REPLY_S
from tokenwire_conformance.server.bench import Bench
from tokenwire_conformance.server.peer import Peer, subscription
from tokenwire_conformance.wire.messages import Received
from tokenwire_conformance.wire.wire import EndedError, SilenceError

__all__ = ["is_answer", "is_refusal", "refused", "served"]

_UNASKED = ("UPSTREAM_", "DATA_", "SLOW_")
"""Codes of warnings that a server may send at any time."""


def is_answer(message: Received) -> bool:
    """Whether ``message`` answers a subscribe or unsubscribe, well or badly. Its fields are up to other cases."""
    return message.type == "subscription" and bool(message.data)


def is_refusal(message: Received) -> bool:
    """Whether ``message`` may answer a bad request: an error message, or an answer with the status error."""
    if message.type == "subscription":
        return message.data.get("status") == "error"
    return message.type == "error" and not str(message.data.get("code")).startswith(_UNASKED)


async def refused(
    bench: Bench, peer: Peer, bad: str, *, clause: str = "EH.invalid-answered", fragments: int = 1
) -> Received:
    """Send ``bad`` and have what refuses it. Silence violates ``clause``, the end ``EH.invalid-survived``."""
    told = f"{bad[:110]!r}{'…' if len(bad) > 110 else ''}"
    await peer.send_text(bad, fragments=fragments)
    try:
        return await peer.until(is_refusal)
    except SilenceError:
        bench.fail(clause, f"{told} was not answered with an error within {REPLY_S:g} s", peer)
    except EndedError as error:
        bench.fail("EH.invalid-survived", f"{told} ended the connection: {error}", peer)


async def served(bench: Bench, peer: Peer, clause: str, after: str, request: Any = None) -> Received:
    """Send a good request and have the first answer to it; none violates ``clause``."""
    await peer.send_json(request or subscription("subscribe", bench.tokens(1)))
    try:
        return await peer.until(is_answer)
    except SilenceError:
        bench.fail(clause, f"{after}, a good request was not answered within {REPLY_S:g} s", peer)
    except EndedError as error:
        bench.fail(clause, f"{after}, the connection ended: {error}", peer)

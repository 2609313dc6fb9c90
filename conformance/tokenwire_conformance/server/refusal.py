"""What the cases about bad input share: having a message refused, and seeing that the server serves on."""

from typing import Any, Final

from tokenwire_conformance.figures import REPLY_S
from tokenwire_conformance.server.bench import Bench, made_up_name
from tokenwire_conformance.server.peer import Peer
from tokenwire_conformance.wire.messages import Received, clipped, shown
from tokenwire_conformance.wire.wire import EndedError, SilenceError

__all__ = ["fatal_end", "is_answer", "is_any_answer", "is_fatal", "is_refusal", "refused", "served", "shown_text"]

_END_S: Final = 1.0
"""For the end behind a fatal error; whether it comes at all is up to other cases."""

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


async def refused(bench: Bench, peer: Peer, bad: str, *, clause: str = "EH.invalid-answered") -> tuple[Received, Peer]:
    """Send ``bad`` and have what refuses it, and the connection to go on with.

    Silence violates ``clause``, the end without an error ``EH.invalid-survived``. A fatal error is an error, and the
    end that belongs to it not what the specification rules out: only a reading does (I-25).
    """
    text = peer.stamped(bad)
    told = shown_text(text)
    await peer.send_text(text)
    try:
        answer = await peer.until(is_refusal)
    except SilenceError:
        bench.fail(clause, f"{told} was not answered with an error within {REPLY_S:g} s", peer)
    except EndedError as error:
        if not await fatal_end(bench, peer, told):
            bench.fail("EH.invalid-survived", f"{told} ended the connection: {error}", peer)
        bench.fail(clause, f"{told} was not answered before the end", peer)
    if is_fatal(answer) and await fatal_end(bench, peer, told):
        return answer, await bench.strict()
    return answer, peer


def is_fatal(message: Received) -> bool:
    """Whether ``message`` is an error of the level fatal."""
    return message.type == "error" and message.data.get("level") == "fatal"


async def fatal_end(bench: Bench, peer: Peer, told: str) -> bool:
    """Whether ``peer`` ends, or has ended, with a fatal error; that there was one is a violation of a reading."""
    if not any(map(is_fatal, peer.messages)):
        return False
    try:
        await peer.closing(_END_S)
    except SilenceError:
        return False  # up to the cases of levels
    bench.expect(False, "EH.tenth-refusal", f"{told} was refused with a fatal error already, which ended it", peer)
    return True


def shown_text(text: str) -> str:
    """A text that is sent, for a report."""
    return clipped(text) if text.startswith(("{", "[")) else shown(text)


async def served(
    bench: Bench, peer: Peer, clause: str, after: str, request: Any = None, *, or_error: bool = False
) -> Received:  # fmt: skip
    """Send a good request and have the first answer to it; none violates ``clause``.

    It subscribes to a token that the connection has not named yet, as a server may refuse what is held already; where
    there is none, and with ``or_error``, an error is an answer as well.
    """
    fits = is_any_answer if or_error else is_answer
    if request is None:
        named = {token for _, value in peer.sent_json for token in _named(value)}
        fresh = next((name for name in bench.facts.tokens if name not in named), None)
        if fresh is None and bench.facts.accepts_any:
            fresh = made_up_name("Further")
        elif fresh is None:
            fresh, fits = bench.tokens(1)[0], is_any_answer
        request = peer.subscription("subscribe", [fresh])
    await peer.send_json(request)
    try:
        return await peer.until(fits)
    except SilenceError:
        bench.fail(clause, f"{after}, a good request was not answered within {REPLY_S:g} s", peer)
    except EndedError as error:
        bench.fail(clause, f"{after}, the connection ended: {error}", peer)


def is_any_answer(message: Received) -> bool:
    """Whether ``message`` answers a request, be it by an error; warnings do not."""
    return is_answer(message) or (is_refusal(message) and message.data.get("level") != "warning")


def _named(value: Any) -> list[str]:
    data = value.get("data") if isinstance(value, dict) else None
    tokens = data.get("tokens") if isinstance(data, dict) else None
    return [token for token in tokens if isinstance(token, str)] if isinstance(tokens, list) else []

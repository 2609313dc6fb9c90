"""What the cases of channels share."""

from typing import Any, Final

from tokenwire_conformance.server.bench import Bench
from tokenwire_conformance.server.channel_checkers import trades_of
from tokenwire_conformance.server.extension import gathered
from tokenwire_conformance.server.peer import Peer
from tokenwire_conformance.wire.messages import Received

__all__ = ["NOT_TRADED", "WAIT_S", "asked", "granted", "traded"]

WAIT_S: Final = 30.0
"""For a trade or a bar of busy tokens."""
NOT_TRADED: Final = f"none of 5 tokens was traded within {WAIT_S:g} s: name busier ones"


async def granted(bench: Bench, *caps: str) -> Peer:
    """A connection with channels and ``caps``, and with details for the versions where the server has both."""
    return await bench.extended("channels", *caps, *sorted({"details"} & bench.facts.granted))


async def asked(
    bench: Bench, peer: Peer, action: str, tokens: list[str], *channels: str, clause: str = "XC.default", **extra: Any
) -> list[Received]:
    """Send the request, which has to succeed; what comes until a moment after the answer."""
    named: dict[str, Any] = {"channels": list(channels)} if channels else {}
    answer = await peer.request(action, tokens, **named, **extra)
    bench.require(answer.accepted(), clause, f"no success for {action}; errors: {answer.codes()}", peer)
    return answer.messages


async def traded(bench: Bench, peer: Peer, since: int = 1) -> None:
    """Wait until a trade came. The case is skipped if none does."""
    messages = await gathered(peer, since, trades_of, WAIT_S)
    bench.need(trades_of(messages), NOT_TRADED, peer)

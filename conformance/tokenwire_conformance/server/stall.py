"""A client that does not read: how to fill the way to it."""

import asyncio
from collections.abc import Sequence
from typing import Final

from tokenwire_conformance.server.bench import Bench
from tokenwire_conformance.server.peer import Peer

__all__ = ["FILLING", "fill", "held"]

FILLING: Final = 45
"""Requests. With 100 tokens each they bring about 1.3 MB of values and answers, more than a connection of the same
machine or network buffers. The answers alone are 0.2 MB, less than I-37 lets a server hold."""
_PACE_S: Final = 0.1  # fewer a second than I-36 allows, and slow enough for values in between
_TOKENS: Final = 100
_VALUES: Final = 50
_VALUES_S: Final = 1.0


async def held(bench: Bench, peer: Peer, clause: str) -> list[str]:
    """Subscribe to as many tokens as it takes.

    Raises:
        NotTestableError: There are fewer tokens, or fewer values of them.
    """
    bench.need(peer.limit >= _TOKENS, f"maxSubscriptions is {peer.limit}, and the case needs {_TOKENS}")
    tokens = bench.tokens(_TOKENS)
    answer = await peer.subscribe(tokens)
    bench.require(answer.of("subscription"), clause, "a subscribe was not answered", peer)
    came = [*answer.messages, *await peer.collect(_VALUES_S)]
    values = {str(m.data.get("address")) for m in came if m.type == "token_update"}
    told = f"{len(values)} of {_TOKENS} tokens had a value at once, too few to fill a connection"
    bench.need(len(values) >= _VALUES, f"{told}: name more with --tokens", peer)
    return tokens


async def fill(peer: Peer, tokens: Sequence[str]) -> None:
    """Stop reading, and ask for values until the buffers on the way are full."""
    peer.pause()
    for _ in range(FILLING):
        await peer.send_json(peer.subscription("subscribe", list(tokens)))
        await asyncio.sleep(_PACE_S)

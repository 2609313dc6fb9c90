"""XC: trades that a client missed: before it subscribed, while it was away, while it did not read."""

import asyncio
from typing import Any, Final

from tokenwire_conformance.figures import REPLY_S
from tokenwire_conformance.server.bench import SERVER, Bench
from tokenwire_conformance.server.channel_checkers import trade_problem, trades_of
from tokenwire_conformance.server.channel_steps import NOT_TRADED, WAIT_S, asked, traded
from tokenwire_conformance.server.extension import (
    codes,
    gathered,
    last_number,
    numbered,
    require_resumed,
    resume,
    secret_of,
)
from tokenwire_conformance.server.peer import Peer
from tokenwire_conformance.wire.messages import Received, shown
from tokenwire_conformance.wire.wire import EndedError

__all__: list[str] = []

_AWAY_S: Final = 3.0
_MORE_S: Final = 3.0
_BEFORE: Final = 2
"""Trades that are asked for once more."""
_OVERFLOW: Final = 4003
_SLOW: Final = 4001
_FILLING: Final = 90
"""Requests. Each brings 50 values: 1.2 MB in all, of which the answers are less than I-37 lets a server hold."""
_PACE_S: Final = 0.1  # fewer a second than I-36 allows
_HELD: Final = 50
_STALL_S: Final = 4.0


def _versions(trades: list[dict[str, Any]], address: str) -> list[int]:
    found = [trade.get("version") for trade in trades if trade.get("address") == address]
    return [version for version in found if isinstance(version, int)]


def _busiest(messages: list[Received]) -> str:
    addresses = [str(trade.get("address")) for trade in trades_of(messages)]
    return max(set(addresses), key=addresses.count, default="")


async def _watched(bench: Bench) -> tuple[Peer, str]:
    """A connection that gets trades, and the token of which it got several; with ``details``, for their numbers."""
    peer = await bench.extended("channels", "details")
    await asked(bench, peer, "subscribe", bench.live_tokens(5), "trades")
    enough = _BEFORE + 1
    messages = await gathered(peer, 1, lambda ms: len(_versions(trades_of(ms), _busiest(ms))) >= enough, WAIT_S)
    address = _busiest(messages)
    told = f"no token was traded {enough} times within {WAIT_S:g} s: name busier ones"
    bench.need(len(_versions(trades_of(messages), address)) >= enough, told, peer)
    return peer, address


@SERVER.case(
    "S-XC-09", "ext.channels", "XC.after", "EH.invalid-message",
    sends="on one connection a subscribe with trades; when several came, on another a subscribe with trades, with "
    f"after naming the trade before the last {_BEFORE} and with the stream of its greeting; then one whose after has a "
    "string for a number",
    expects=f"the last {_BEFORE} come first, as they were, then later ones: versions without repetitions or holes; "
    "skipped where the server did not have them at hand; the string is INVALID_MESSAGE",
    why="Who reconnects wants what happened in between, once and in order.", deadline_s=60.0,
)  # fmt: skip
async def after(bench: Bench) -> None:
    """Trades after the one that a client holds are sent once, in order, before later ones."""
    watching, address = await _watched(bench)
    held = trades_of(watching.messages)
    newest = _versions(held, address)[-1]
    begin = newest - _BEFORE
    peer = await bench.extended("channels", "details")
    stream = peer.greeting.data.get("stream") if peer.greeting else None
    await asked(bench, peer, "subscribe", [address], "trades", clause="XC.after", after={address: begin}, stream=stream)
    await gathered(peer, 1, trades_of, REPLY_S)
    await peer.collect(_MORE_S)
    trades = trades_of(peer.messages)
    versions = _versions(trades, address)
    bench.require(all(version > begin for version in versions), "XC.after", f"after {begin} came {versions[:9]}", peer)
    problem = trade_problem(trades)
    bench.require(problem is None, "XC.after", problem[1] if problem else "", peer)
    bench.need(versions and versions[0] == begin + 1, "the server did not have the last trades at hand", peer)
    before = {trade.get("version"): trade for trade in held if trade.get("address") == address}
    for trade in trades:
        first = before.get(trade.get("version"), trade)
        bench.require(trade == first, "XC.after", f"{shown(trade)} was {shown(first)} before", peer)
    answer = await peer.subscribe([address], REPLY_S / 2, channels=["trades"], after={address: "1"}, stream=stream)
    refused = not answer.accepted() and "INVALID_MESSAGE" in codes(answer.messages)
    bench.require(refused, "EH.invalid-message", "after with a string for a number was not refused", peer)


@SERVER.case(
    "S-XC-10", "ext.channels", "XC.after",
    sends="the same with a stream that is not the server's",
    expects="no trade that the first connection had before",
    why="Another server's numbers, or those of before a restart, say nothing of what the client holds.",
    deadline_s=90.0,
)  # fmt: skip
async def after_another_stream(bench: Bench) -> None:
    """Numbers of another stream are not looked at."""
    watching, address = await _watched(bench)
    peer = await bench.extended("channels", "details")
    await watching.collect(0.1)  # what came meanwhile
    newest = _versions(trades_of(watching.messages), address)[-1]
    await asked(
        bench, peer, "subscribe", [address], "trades", clause="XC.after", after={address: newest - _BEFORE},
        stream="another",
    )  # fmt: skip
    await gathered(peer, 1, trades_of, WAIT_S)
    versions = _versions(trades_of(peer.messages), address)
    bench.need(versions, NOT_TRADED, peer)
    told = f"trade {versions[0]} came, of before the subscribe: the newest then was {newest}"
    bench.require(versions[0] > newest, "XC.after", told, peer)


@SERVER.case(
    "S-XC-11", "ext.channels", "XC.complete",
    sends=f"a session with resume and 5 tokens with trades, whose TCP connection breaks; {_AWAY_S:g} s later a socket "
    "that resumes it",
    expects="the session is resumed, and over both sockets the versions of each token's trades have no holes and no "
    "repetitions",
    why="What happened while nobody read is what a session is kept for.", deadline_s=75.0,
)  # fmt: skip
async def while_away(bench: Bench) -> None:
    """Trades that happened while the client was away are there after a resume."""
    caps = ("resume", "channels", "details")
    old = await bench.extended(*caps)
    await asked(bench, old, "subscribe", bench.live_tokens(5), "trades")
    await traded(bench, old)
    await old.abort()
    await asyncio.sleep(_AWAY_S)
    peer = await resume(bench, secret_of(bench, old), seq=last_number(old), caps=caps)
    require_resumed(bench, peer)
    mark = len(peer.messages)
    await gathered(peer, 1, lambda _: trades_of(peer.messages[mark:]), WAIT_S)
    await peer.collect(_MORE_S)
    bench.need(trades_of(peer.messages), NOT_TRADED, peer)
    problem = trade_problem(trades_of([*numbered(old.messages), *numbered(peer.messages)]))
    bench.require(problem is None, "XC.complete", f"over the break {problem[1] if problem else ''}", peer)


@SERVER.case(
    "S-XC-12", "ext.channels", "XC.complete",
    sends=f"a subscribe to {_HELD} tokens with token and trades, {_FILLING} times over without reading the answers; "
    f"{_STALL_S:g} s later the reading goes on",
    expects="the versions of each token's trades have no holes, unless the connection is closed with 4003, or with "
    "4001 as one that is slow",
    why="A trade may be late, but none is left out in silence.", deadline_s=75.0,
)  # fmt: skip
async def while_not_reading(bench: Bench) -> None:
    """A reader that was slow misses no trade, or is told by the close code that it did."""
    peer = await bench.extended("channels", "details", offer_deflate=False)
    pairs = min(_HELD, peer.limit // 2)
    tokens = bench.tokens(pairs)
    await asked(bench, peer, "subscribe", tokens, "token", "trades")
    await traded(bench, peer)
    peer.pause()
    try:
        for _ in range(_FILLING):
            await peer.send_json(peer.subscription("subscribe", tokens, channels=["token", "trades"]))
            await asyncio.sleep(_PACE_S)
    except EndedError:
        pass  # the close code tells why
    await asyncio.sleep(_STALL_S)
    mark = len(peer.messages)
    peer.resume()
    await peer.collect(2 * _MORE_S)
    problem = trade_problem(trades_of(peer.messages))
    bench.require(problem is None, "XC.complete", f"for a slow reader {problem[1] if problem else ''}", peer)
    if peer.is_left:
        is_told = peer.close_code in {_OVERFLOW, _SLOW}
        bench.require(is_told, "XC.complete", f"the connection of a slow reader ended: {peer.ending()}", peer)
        return
    bench.need(trades_of(peer.messages[mark:]), NOT_TRADED, peer)

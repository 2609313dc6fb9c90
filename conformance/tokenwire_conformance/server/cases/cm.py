"""CM: signs of life, dead and slow peers, and what is left of a connection after its end."""

import asyncio
import contextlib
from itertools import pairwise

from tokenwire_conformance.figures import (
    CONNECTION_TIMEOUT_S,
    HEARTBEAT_S,
    IDLE_TIMEOUT_S,
    REPLY_S,
    SLACK_S,
)
from tokenwire_conformance.server.bench import SERVER, Bench
from tokenwire_conformance.server.peer import Peer
from tokenwire_conformance.server.stall import FILLING, fill, held
from tokenwire_conformance.wire.frames import Opcode
from tokenwire_conformance.wire.messages import shown
from tokenwire_conformance.wire.wire import EndedError, SilenceError

__all__: list[str] = []

_WATCH_S = 33.0  # two heartbeats and some
_STAY_S = 45.0  # more than twice the idle time-out
_DEAD_S = 60.0  # by which a silent client is dropped by any reading
_SIGN_S = 8.0
_VANISHING = 10
_STALL_S = 8.0
_SLOW_S = 45.0


# --- signs of life -----------------------------------------------------------------------------------------
@SERVER.case(
    "S-CM-01", "timing", "CM.heartbeat",
    sends="nothing but pongs, for 33 s",
    expects="never more than 16 s without a frame from the server",
    why="A client has no other means to tell an idle server from one that is gone.",
    deadline_s=60,
)  # fmt: skip
async def heartbeat(bench: Bench) -> None:
    """An idle connection has a sign of life every 15 s."""
    peer = await bench.strict()
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    await peer.collect(_WATCH_S)
    bench.require(peer.ended_s is None, "CM.heartbeat", f"the idle connection ended: {peer.ending()}", peer)
    signs = [*(m.at_s for m in peer.messages), *(c.at_s for c in peer.controls)]
    times = sorted([begun_s, *signs, loop.time()])
    longest_s = max(b - a for a, b in pairwise(times))
    told = f"nothing came for {longest_s:.1f} s"
    bench.require(longest_s <= HEARTBEAT_S + SLACK_S, "CM.heartbeat", told, peer)


@SERVER.case(
    "S-CM-02", "timing", "CM.heartbeat-ping",
    sends="on one connection a subscribe with tokens that have values, on another nothing; pongs on both, for 33 s",
    expects="on both a ping frame 15 s after the beginning and again 15 s later, give or take a second",
    why="A ping is the heartbeat that every WebSocket library answers by itself.",
    deadline_s=60,
)  # fmt: skip
async def heartbeat_is_ping(bench: Bench) -> None:
    """The sign of life is a ping every 15 s, to idle and busy connections."""
    idle, busy = await bench.strict(), await bench.strict()
    await busy.subscribe(bench.tokens(1))
    await asyncio.gather(idle.collect(_WATCH_S), busy.collect(_WATCH_S))
    for name, peer in (("idle", idle), ("busy", busy)):
        pings = [c.at_s for c in peer.controls if c.opcode is Opcode.PING]
        times = [peer.opened_s, *pings]
        gaps = [b - a for a, b in pairwise(times)]
        told = f"on the {name} connection pings came after {', '.join(f'{gap:.1f}' for gap in gaps) or 'no'} s"
        # The beat may be the server's own, so the first may come early.
        fits = len(pings) >= 2 and gaps[0] <= HEARTBEAT_S + SLACK_S
        fits = fits and all(abs(gap - HEARTBEAT_S) <= SLACK_S for gap in gaps[1:])
        bench.require(fits, "CM.heartbeat-ping", told, peer)


@SERVER.case(
    "S-CM-03", "core", "EP.websocket",
    sends="a ping frame with the payload tokenwire-ping",
    expects="a pong frame with the same payload within 5 s",
    why="RFC 6455: a ping is answered with a pong as soon as possible. Clients measure their server by it.",
)  # fmt: skip
async def ping_answered(bench: Bench) -> None:
    """A client's ping is answered with a pong."""
    peer = await bench.strict()
    await peer.ping(b"tokenwire-ping")
    pong = await peer.control(Opcode.PONG, REPLY_S)
    bench.require(pong.payload == b"tokenwire-ping", "EP.websocket", f"the pong carried {shown(pong.payload)}", peer)


@SERVER.case(
    "S-CM-04", "timing", "CM.stays-open",
    sends="nothing but pongs for 45 s, then a subscribe",
    expects="the connection stays open, and the subscribe is answered",
    why="A client that waits for its first token is no dead one.",
    deadline_s=70,
)  # fmt: skip
async def idle_stays_open(bench: Bench) -> None:
    """An idle client that answers pings stays connected."""
    peer = await bench.strict()
    await peer.collect(_STAY_S)
    bench.require(peer.ended_s is None, "CM.stays-open", f"{_lived(peer)}: {peer.ending()}", peer)
    answer = await peer.subscribe(bench.tokens(1))
    bench.require(answer.of("subscription"), "CM.stays-open", "after 45 s a subscribe was not answered", peer)


@SERVER.case(
    "S-CM-05", "timing", "CM.any-frame-is-life",
    sends="no answer to any ping; on one connection a subscribe every 8 s, on another a pong nobody asked for",
    expects="both stay open for 45 s",
    why="Whoever sends is alive; a browser's page cannot even see whether its pongs went out.",
    deadline_s=70,
)  # fmt: skip
async def any_frame_is_life(bench: Bench) -> None:
    """Any frame counts as life."""
    talking, ponging = await bench.strict(), await bench.strict()
    tokens = bench.tokens(1)
    talking.answers_pings = ponging.answers_pings = False
    for _ in range(round(_STAY_S / _SIGN_S)):
        await asyncio.gather(talking.collect(_SIGN_S), ponging.collect(_SIGN_S))
        await talking.send_json(talking.subscription("subscribe", tokens))
        await ponging.send_frame(Opcode.PONG, b"")
    for name, peer in (("messages", talking), ("pongs", ponging)):
        told = f"with {name} every {_SIGN_S:g} s {_lived(peer)}: {peer.ending()}"
        bench.require(peer.ended_s is None, "CM.any-frame-is-life", told, peer)
    came = any(message.type == "subscription" for message in talking.messages)
    bench.require(came, "CM.any-frame-is-life", "no message was answered", talking)


# --- dead peers --------------------------------------------------------------------------------------------
@SERVER.case(
    "S-CM-06", "timing", "CM.dead-client",
    sends="nothing at all, no pong either",
    expects="the server closes or ends the connection within 60 s",
    why="Clients vanish without a word, and each would keep its place for ever.",
    deadline_s=75,
)  # fmt: skip
async def dead_client(bench: Bench) -> None:
    """A client that falls silent is dropped in the end."""
    peer = await _silent(bench)
    try:
        await peer.closing(_DEAD_S)
    except SilenceError:
        bench.fail("CM.dead-client", f"after {_DEAD_S:g} s of silence the connection was still open", peer)


@SERVER.case(
    "S-CM-07", "timing", "CM.dead-limit",
    sends="nothing at all, no pong either",
    expects="the server closes or ends the connection 20 s after the last byte, give or take two seconds",
    why="Sooner would cost a client in a tunnel its connection, later its place.",
    deadline_s=75,
)  # fmt: skip
async def dead_limit(bench: Bench) -> None:
    """A silent client is dropped after 20 s."""
    peer = await _silent(bench)
    loop = asyncio.get_running_loop()
    with contextlib.suppress(SilenceError):
        await peer.closing(_DEAD_S)
    spent_s = loop.time() - peer.opened_s
    told = f"it was {'dropped' if spent_s < _DEAD_S else 'still open'} after {spent_s:.1f} s"
    bench.require(abs(spent_s - IDLE_TIMEOUT_S) <= 2 * SLACK_S, "CM.dead-limit", told, peer)


@SERVER.case(
    "S-CM-08", "timing", "CM.dead-code",
    sends="nothing at all, no pong either",
    expects="the connection is closed with the code 4000",
    why="By the code a client that is alive after all knows that it may come back at once.",
    deadline_s=75,
)  # fmt: skip
async def dead_code(bench: Bench) -> None:
    """A silent client is closed with 4000."""
    peer = await _silent(bench)
    code = await peer.closing(_DEAD_S)
    bench.require(code == 4000, "CM.dead-code", f"the connection ended with {code}", peer)


async def _silent(bench: Bench) -> Peer:
    peer = await bench.connect()
    peer.answers_pings = False
    await bench.greet(peer)
    return peer


# --- the end of a connection -------------------------------------------------------------------------------
@SERVER.case(
    "S-CM-09", "core", "EP.websocket", "CM.cleanup",
    sends="a close frame with the code 1000",
    expects="a close frame within 5 s, and the end of the TCP connection within 5 s more",
    why="RFC 6455: a close frame is answered by one, and the server then ends the TCP connection.",
)  # fmt: skip
async def close_answered(bench: Bench) -> None:
    """A client's close is answered, and the connection ends."""
    peer = await bench.strict()
    await peer.send_close(1000, "done")
    with contextlib.suppress(SilenceError):
        await peer.closing(REPLY_S)
    told = f"a close frame was not answered by one: {'it stayed open' if peer.ended_s is None else peer.ending()}"
    bench.require(peer.close_code is not None, "EP.websocket", told, peer)
    if peer.close_code != 1000:
        bench.note(f"the close frame 1000 was answered with {peer.close_code}")
    try:
        await peer.ended(CONNECTION_TIMEOUT_S + SLACK_S)
    except SilenceError:
        bench.fail("CM.cleanup", "behind its close frame the server did not end the TCP connection", peer)


@SERVER.case(
    "S-CM-10", "core", "CM.cleanup",
    sends=f"{_VANISHING} connections that subscribe and break off without a word; then one that subscribes",
    expects="the last is greeted, and its subscribe is answered with success",
    why="Clients vanish all the time; the others must not notice.",
)  # fmt: skip
async def vanishing_clients(bench: Bench) -> None:
    """Clients that vanish leave the server healthy."""
    tokens = bench.tokens(1)
    crowd = await asyncio.gather(*(bench.strict() for _ in range(_VANISHING)))
    for peer in crowd:
        await peer.send_json(peer.subscription("subscribe", tokens))
        await peer.abort()
    after = await bench.strict()
    answer = await after.subscribe(tokens)
    told = f"after {_VANISHING} clients vanished a subscribe was not answered with success"
    bench.require(answer.accepted(), "CM.cleanup", told, after)


# --- slow peers --------------------------------------------------------------------------------------------
@SERVER.case(
    "S-CM-11", "timing", "CM.slow-warned",
    sends=f"{FILLING} subscribes with the same 100 tokens, ten a second; nothing is read meanwhile, nor for "
    f"{_STALL_S:g} s more",
    expects="once reading goes on, an error message SLOW_CONSUMER of the level warning",
    why="A client should learn that it was too slow, and that values in between were left out.",
    deadline_s=40,
)  # fmt: skip
async def slow_warned(bench: Bench) -> None:
    """A reader that stalls for more than 5 s is warned."""
    peer = await bench.strict(offer_deflate=False)
    await fill(peer, await held(bench, peer, "CM.slow-warned"))
    await asyncio.sleep(_STALL_S)
    peer.resume()
    try:
        warning = await peer.until(lambda m: m.data.get("code") == "SLOW_CONSUMER", REPLY_S)
    except (SilenceError, EndedError) as error:
        bench.fail("CM.slow-warned", f"no SLOW_CONSUMER came: {error}", peer)
    level = warning.data.get("level")
    bench.require(level == "warning", "CM.slow-warned", f"SLOW_CONSUMER has the level {shown(level)}", peer)


@SERVER.case(
    "S-CM-12", "timing", "CM.slow-closed",
    sends=f"{FILLING} subscribes with the same 100 tokens, ten a second, then for {_SLOW_S:g} s a pong every "
    f"{_SIGN_S:g} s, and nothing read meanwhile; then reading goes on",
    expects="the server has ended the connection by then",
    why="Answers that nobody reads fill the server's memory.",
    deadline_s=75,
)  # fmt: skip
async def slow_closed(bench: Bench) -> None:
    """A client that sends without reading is closed."""
    peer = await bench.strict(offer_deflate=False)
    await fill(peer, await held(bench, peer, "CM.slow-closed"))
    for _ in range(round(_SLOW_S / _SIGN_S)):
        await peer.send_frame(Opcode.PONG)  # only to show that the client lives
        await asyncio.sleep(_SIGN_S)
    peer.resume()
    try:
        await peer.ended(CONNECTION_TIMEOUT_S)
    except SilenceError:
        told = f"a client that read nothing for {_SLOW_S:g} s is still connected"
        bench.fail("CM.slow-closed", told, peer)
    code = peer.close_code
    # The close frame stands behind what was not read, so it may have been lost with it.
    bench.require(code in {4001, None}, "CM.slow-closed", f"the connection ended with {code}", peer)


def _lived(peer: Peer) -> str:
    return f"the connection ended after {(peer.ended_s or 0) - peer.opened_s:.1f} s"

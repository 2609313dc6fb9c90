"""XR: which socket has a session, which ends keep it, and what belongs to the socket, where ``resume`` is granted."""

import asyncio
import contextlib

from tokenwire_conformance.figures import QUIET_S, REPLY_S, SLACK_S
from tokenwire_conformance.server.bench import SERVER, Bench
from tokenwire_conformance.server.extension import (
    LEFT,
    begun,
    gathered,
    last_number,
    leave,
    numbered,
    reason,
    replayed,
    require_new,
    require_resumed,
    resume,
    resumed,
    secret_of,
)
from tokenwire_conformance.server.peer import ConnectFailedError, Peer
from tokenwire_conformance.wire.messages import Received, shown

__all__: list[str] = []

_RACE_S = 5.0
"""As long as a socket is younger, a lower attempt does not take the session from it."""


@SERVER.case(
    "S-XR-12", "ext.resume", "XR.takeover",
    sends="a second socket that resumes a session whose first socket is still open",
    expects="the second has the session, and the first is closed with 4500",
    why="A client comes back before the server has noticed that the old socket is dead; two readers would race.",
)  # fmt: skip
async def takeover(bench: Bench) -> None:
    """An older socket of the session is closed with 4500."""
    old = await begun(bench)
    peer = await resume(bench, secret_of(bench, old), seq=last_number(old))
    require_resumed(bench, peer)
    code = await old.closing(REPLY_S)
    bench.require(code == 4500, "XR.takeover", f"the old socket was closed with {code}", old)


async def _racing(bench: Bench) -> tuple[Peer, str, int]:
    """A session resumed with attempt 5: its socket, secret, and last number before."""
    old = await begun(bench)
    await leave(old)
    last = last_number(old)
    secret = secret_of(bench, old)
    winner = await resume(bench, secret, seq=last, attempt=5)
    require_resumed(bench, winner)
    return winner, secret, last


@SERVER.case(
    "S-XR-13", "ext.resume", "XR.attempt",
    sends="a resume with attempt=5 and, right behind it, one of the same session with attempt=4",
    expects="the second is refused or closed; the first still has the session and answers a subscribe",
    why="A late packet of an earlier try must not throw out the later one.",
)  # fmt: skip
async def lower_attempt_loses(bench: Bench) -> None:
    """Of two racing sockets the one with the higher attempt stays."""
    winner, secret, last = await _racing(bench)
    with contextlib.suppress(ConnectFailedError):
        loser = await resume(bench, secret, seq=last, attempt=4, greet=False)
        await loser.closing(REPLY_S)
        took = any(message.data.get("resumed") is True for message in loser.messages)
        bench.require(not took, "XR.attempt", "the lower attempt took the session", loser)
    bench.require(winner.ended_s is None, "XR.attempt", "the higher attempt lost its connection", winner)
    answer = await winner.subscribe(bench.live_tokens(3))
    bench.require(answer.accepted(), "XR.attempt", "the higher attempt does not answer any more", winner)


@SERVER.case(
    "S-XR-14", "ext.resume", "XR.attempt",
    sends="a resume with attempt=5 and, 6 s later, one of the same session with attempt=1",
    expects="the second has the session, and the first is closed with 4500",
    why="The number decides a race, nothing else: a program that was started anew counts from 1 again.",
    deadline_s=30.0,
)  # fmt: skip
async def later_newest_wins(bench: Bench) -> None:
    """Once the winner is 5 s old, the newest socket has the session, whatever its attempt."""
    first, secret, _ = await _racing(bench)
    await asyncio.sleep(_RACE_S + SLACK_S)
    peer = await resume(bench, secret, seq=last_number(first) or 1, attempt=1, greet=False)
    # A refused socket may be closed without a word, which is this clause's matter.
    await gathered(peer, 0, len)
    peer.greeting = peer.messages[0] if peer.messages else None
    require_resumed(bench, peer, "XR.attempt")
    code = await first.closing(REPLY_S)
    bench.require(code == 4500, "XR.attempt", f"the older socket was closed with {code}", first)


@SERVER.case(
    "S-XR-15", "ext.resume", "XR.ended-by-client",
    sends="a session whose socket the client closes with 1000; then a resume of it",
    expects="the session is unknown",
    why="A client that says goodbye wants nothing kept, and frees the server's memory.",
)  # fmt: skip
async def normal_close_ends(bench: Bench) -> None:
    """The client's close with 1000 ends the session."""
    old = await begun(bench)
    await old.close(1000, timeout_s=REPLY_S)
    await _require_ended(bench, old)


@SERVER.case(
    "S-XR-16", "ext.resume", "XR.ended-by-client",
    sends="a session on whose socket the client sends a frame with the reserved opcode 3; then a resume of it",
    expects="the socket is closed, and the session is unknown",
    why="A client that breaks the framing is in a state that nobody knows.",
)  # fmt: skip
async def violation_ends(bench: Bench) -> None:
    """The client's violation of the framing ends the session."""
    old = await begun(bench)
    await old.send_frame(0x3, b"?")
    await old.ended(REPLY_S)
    await _require_ended(bench, old)


async def _require_ended(bench: Bench, old: Peer) -> None:
    secret = secret_of(bench, old)
    peer = await resume(bench, secret, seq=last_number(old))
    bench.require(not resumed(peer), "XR.ended-by-client", "the session was resumed all the same", peer)
    require_new(bench, peer, secret, "XR.ended-by-client", "unknown_session")


@SERVER.case(
    "S-XR-17", "ext.resume", "XR.kept",
    sends="three sessions whose sockets end by a reset, by FIN without a close frame, and by a close with 1001; then a "
    "resume of each",
    expects="each is resumed",
    why="These are the ends that networks, sleeping laptops and restarting programs make.",
)  # fmt: skip
async def other_ends_keep(bench: Bench) -> None:
    """An abrupt end, and a close with 1001, leave the session waiting."""
    for end in ("a reset", "FIN without a close frame", "a close with 1001"):
        old = await begun(bench)
        if end == "a reset":
            await old.abort()
        elif end.startswith("FIN"):
            await old.half_close()
        else:
            await leave(old)
        peer = await resume(bench, secret_of(bench, old), seq=last_number(old))
        bench.require(resumed(peer), "XR.kept", f"the session did not survive {end}: {reason(peer)}", peer)


@SERVER.case(
    "S-XR-18", "ext.resume", "MC.fresh-id", "XR.resumed",
    sends=f"{LEFT}; then a socket that resumes it",
    expects="the first message of the second socket has another connectionId than that of the first",
    why="The id names the connection, not the session: support has to tell two sockets apart.",
)  # fmt: skip
async def fresh_id(bench: Bench) -> None:
    """Each socket of a session has a connectionId of its own."""
    old = await begun(bench)
    await leave(old)
    peer = await resume(bench, secret_of(bench, old), seq=last_number(old))
    require_resumed(bench, peer)
    assert peer.greeting is not None
    assert old.greeting is not None
    ids = [greeting.data.get("connectionId") for greeting in (old.greeting, peer.greeting)]
    bench.require(isinstance(ids[1], str), "MC.fresh-id", f"connectionId is {shown(ids[1])}", peer)
    bench.require(ids[0] != ids[1], "MC.fresh-id", "the resumed socket has the connectionId of the first", peer)


@SERVER.case(
    "S-XR-19", "ext.resume", "XR.of-the-socket",
    sends="a session begun with permessage-deflate offered; then a resume without it and, where the server grants "
    "heartbeat, with heartbeat asked for in addition",
    expects="the session is resumed, without compression, and heartbeat is listed in capabilities",
    why="These are properties of the line, so a client may come back through another proxy or program.",
)  # fmt: skip
async def of_the_socket(bench: Bench) -> None:
    """Compression and heartbeat may differ from one socket of a session to the next."""
    old = await begun(bench)
    await old.abort()
    extra = {"heartbeat"} & bench.facts.granted
    peer = await resume(
        bench, secret_of(bench, old), seq=1, caps={"resume"} | extra, offer_deflate=False
    )  # fmt: skip
    require_resumed(bench, peer, "XR.of-the-socket")
    missing = ", ".join(extra - peer.granted)
    bench.require(not missing, "XR.of-the-socket", f"{missing} was not granted on the second socket", peer)
    again = await replayed(peer, last_number(old))
    bench.require(again and peer.broken is None, "XR.of-the-socket", "nothing readable was replayed", peer)


@SERVER.case(
    "S-XR-20", "ext.resume", "XR.last-words",
    sends="a binary message in a session",
    expects="before the close come error (fatal) and connection, with the next numbers",
    why="The last words of a session are numbered like all others, so that a client knows it missed none.",
)  # fmt: skip
async def last_words(bench: Bench) -> None:
    """The last words of a connection that reads along have the next numbers."""
    peer = await begun(bench)
    mark = len(peer.messages)
    before = last_number(peer)
    await peer.send_frame(0x2, b"\x00")
    await peer.closing(REPLY_S)
    words = numbered(peer.messages[mark:])
    told = any(message.data.get("level") == "fatal" for message in words if message.type == "error")
    bench.require(told, "XR.last-words", "the connection was closed without an error (fatal)", peer)
    numbers = [message.sequence for message in words]
    wanted = list(range(before + 1, before + 1 + len(numbers)))
    bench.require(numbers == wanted, "XR.last-words", f"behind {before} came {shown(numbers)}", peer)


@SERVER.case(
    "S-XR-21", "ext.resume", "XR.late-replies",
    sends="a subscribe to a further token and, in the same moment, the end of the socket; then a resume from the last "
    "number received",
    expects="the answer to the subscribe comes, numbered behind the last",
    why="A request that the server took is answered, even if the line broke before.",
)  # fmt: skip
async def late_replies(bench: Bench) -> None:
    """The answer to a request that was sent before the break comes after it."""
    old = await begun(bench)
    token = bench.live_tokens(4)[3]
    last = last_number(old)
    await old.send_json({"type": "subscription", "data": {"action": "subscribe", "tokens": [token]}})
    await old.half_close()
    await asyncio.sleep(QUIET_S)  # once the session is taken over, nobody reads what the old socket brought
    peer = await resume(bench, secret_of(bench, old), seq=last)
    require_resumed(bench, peer)

    def answers(messages: list[Received]) -> list[Received]:
        return [m for m in messages if m.type == "subscription" and m.data.get("tokens") == [token]]

    found = answers(await gathered(peer, 1, answers))
    bench.require(found, "XR.late-replies", "the answer never came", peer)
    bench.require((found[0].sequence or 0) > last, "XR.late-replies", f"it has the number {found[0].sequence}", peer)
    bench.require(len(found) == 1, "XR.late-replies", f"it came {len(found)} times", peer)


@SERVER.case(
    "S-XR-22", "ext.resume", "XR.resumed",
    sends=f"{LEFT}; then a socket that resumes it with the query session= in place of the header",
    expects="the session is resumed",
    why="A browser cannot send a header of its own with a WebSocket.",
)  # fmt: skip
async def by_query(bench: Bench) -> None:
    """The secret may come in the query, as from a browser."""
    old = await begun(bench)
    await leave(old)
    peer = await resume(bench, secret_of(bench, old), seq=last_number(old), in_query=True)
    require_resumed(bench, peer)

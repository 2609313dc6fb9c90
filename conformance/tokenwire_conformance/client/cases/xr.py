"""XR: sessions that outlive their socket, and lost messages that are replayed, where the client asks for resume."""

import asyncio
from typing import Any, Final
from urllib.parse import parse_qs

from tokenwire_conformance.client.bench import CLIENT, ClientBench
from tokenwire_conformance.client.cases.steps import (
    RETURN_S,
    SECRET,
    asked_caps,
    dropped,
    hears,
    lives,
    need_resume,
    order_heard,
    session_with,
    shown,
    terms,
)
from tokenwire_conformance.client.link import Attempt, Link, Request
from tokenwire_conformance.wire.messages import Received
from tokenwire_conformance.wire.wire import SilenceError

__all__: list[str] = []

_HEADER: Final = "x-tokenwire-session"
_ASK_S: Final = 4.0
_GIVE_UP_S: Final = 5.0


def _secret(request: Request) -> str | None:
    """The secret that the client came back with, wherever it sent it."""
    return request.header(_HEADER) or _query(request, "session")


def _query(request: Request, name: str) -> str | None:
    return parse_qs(request.query).get(name, [None])[-1]


async def _resumed(attempt: Attempt, last: Link, replay: list[dict[str, Any]]) -> Link:
    """Accept an attempt as the same session, and replay these messages."""
    granted = asked_caps(await attempt.request())
    link = await attempt.accept()
    link.details = last.details
    link.sequence = last.sequence
    link.versions = last.versions
    link.held = dict(last.held)
    names = [name for name in ("resume", "details") if name in granted]
    held = [{"token": name, "channels": ["token"]} for name in last.held]
    extra = {"resumed": True, "subscriptions": held, "status": "connected", "maxSubscriptions": 100}
    if replay:
        extra["replayFrom"] = replay[0]["sequence"]
    data = {"connectionId": f"00000000-0000-4000-8000-{attempt.number:012d}"} | terms(*names) | extra
    await link.send("connection", data, last.sequence)
    for message in replay:
        await link.send_json(message)
    return link


@CLIENT.case(
    "C-XR-01", "ext.resume", "XR.client-returns", deadline_s=150,
    sends="resume granted with a secret; a session and its reset; the same once more, after a resume",
    expects="each time the client comes back with the secret, with seq as the last number that it received, and with "
    "attempt higher than before",
    why="Only so does the server know what to send again.",
)  # fmt: skip
async def returns(bench: ClientBench) -> None:
    """The client comes back to its session."""
    clause = "XR.client-returns"
    await bench.start()
    link = await session_with(bench, "resume")
    attempts: list[int] = []
    for _ in range(2):
        await link.update(bench.wanted[0])
        await asyncio.sleep(0.5)
        await dropped(link)
        attempt = await bench.attempt(RETURN_S)
        request = await attempt.request()
        same = _secret(request) == SECRET
        bench.require(same, clause, "the client came back without the secret of its session", attempt.number)
        sequence = _query(request, "seq")
        text = f"the client came back with seq={sequence}; the last number that it was sent is {link.sequence}"
        bench.require(sequence == str(link.sequence), clause, text, attempt.number)
        count = _query(request, "attempt") or ""
        bench.require(count.isdecimal(), clause, f"the client came back with attempt={shown(count)}", attempt.number)
        attempts.append(int(count))
        link = await _resumed(attempt, link, [])
    text = f"the client came back with attempt={attempts[0]}, then with attempt={attempts[1]}"
    bench.require(attempts[1] > attempts[0], clause, text)


@CLIENT.case(
    "C-XR-02", "ext.resume", "XR.client-returns",
    sends="resume granted; a session, an update whose number leaves one out, and at once the reset",
    expects="the client comes back with the last number before the hole as seq, or without its session",
    why="With the number behind the hole, what was lost would be lost for good.",
)  # fmt: skip
async def returns_before_hole(bench: ClientBench) -> None:
    """The client comes back with the last number in order."""
    await bench.start()
    link = await session_with(bench, "resume")
    await asyncio.sleep(0.5)
    last = link.sequence
    link.sequence += 1
    await link.update(bench.wanted[0])
    await asyncio.sleep(0.2)
    await dropped(link)
    attempt = await bench.attempt(RETURN_S)
    request = await attempt.request()
    need_resume(request)
    sequence = _query(request, "seq")
    text = f"the client came back with seq={sequence}; the last number that it received in order is {last}"
    bench.require(sequence == str(last), "XR.client-returns", text, attempt.number)


@CLIENT.case(
    "C-XR-03", "ext.resume", "XR.client-secret-header",
    sends="resume granted with a secret; a session and its reset",
    expects="the client comes back with the secret in the header X-Tokenwire-Session, and nowhere in the URL",
    why="URLs end up in the logs of everything on the way.",
)  # fmt: skip
async def secret_in_header(bench: ClientBench) -> None:
    """The secret travels in a header."""
    clause = "XR.client-secret-header"
    await bench.start()
    link = await session_with(bench, "resume")
    await dropped(link)
    attempt = await bench.attempt(RETURN_S)
    request = await attempt.request()
    need_resume(request)
    bench.require(SECRET not in request.target, clause, "the secret of the session is in the URL", attempt.number)
    text = "the header X-Tokenwire-Session does not hold the secret"
    bench.require(request.header(_HEADER) == SECRET, clause, text, attempt.number)


@CLIENT.case(
    "C-XR-04", "ext.resume", "XR.client-replayed-errors", deadline_s=150,
    sends="resume granted; a session and its reset; on the client's return a replay of a fatal error, a connection "
    "message with the status disconnected, and an update",
    expects="the client stays, and the update reaches the application",
    why="What was meant for the old socket is history on the new one.",
)  # fmt: skip
async def replayed_fatal(bench: ClientBench) -> None:
    """A replayed fatal error does not end the connection."""
    clause = "XR.client-replayed-errors"
    await bench.start()
    link = await session_with(bench, "resume")
    await asyncio.sleep(0.5)
    # These were assigned and never arrived.
    price = bench.fresh_price()
    error = {"code": "SERVER_SHUTDOWN", "message": "made by the conformance suite", "level": "fatal"}
    ended = {"status": "disconnected", "connectionId": "00000000-0000-4000-8000-000000000000", "maxSubscriptions": 100}
    replay = [
        link.envelope("error", error), link.envelope("connection", ended),
        link.envelope("token_update", link.update_data(bench.wanted[0], price)),
    ]  # fmt: skip
    await dropped(link)
    attempt = await bench.attempt(RETURN_S)
    need_resume(await attempt.request())
    link = await _resumed(attempt, link, replay)
    if "update" in bench.facts.events:
        text = "an update that was replayed behind a fatal error did not reach the application"
        bench.require(await hears(bench, price), clause, text, link.number)
    await lives(bench, link, clause, "the replay of a fatal error and of disconnected")


async def _replay_request(bench: ClientBench, link: Link, since: int) -> Received:
    loop = asyncio.get_running_loop()
    until_s = loop.time() + _ASK_S
    while not (found := [message for message in link.messages[since:] if message.type == "replay"]):
        text = f"a number was missing, and the client asked for no replay within {_ASK_S:g} s"
        bench.require(loop.time() < until_s, "XR.client-repairs", text, link.number)
        await asyncio.sleep(0.02)
    return found[0]


@CLIENT.case(
    "C-XR-05", "ext.resume", "XR.client-repairs", deadline_s=40,
    sends="resume granted; a session; of four updates the second and third are left out until the client asks for them",
    expects="one replay request, from the second to the third exactly; and the four values reach the application in "
    "order",
    why="A lost message can be repaired without a new connection.",
)  # fmt: skip
async def repairs(bench: ClientBench) -> None:
    """A hole is repaired by one replay, and all is delivered in order."""
    clause = "XR.client-repairs"
    await bench.start()
    link = await session_with(bench, "resume")
    await asyncio.sleep(0.5)
    since = len(link.messages)
    sent = [bench.fresh_price() for _ in range(4)]
    messages = [link.envelope("token_update", link.update_data(bench.wanted[0], price)) for price in sent]
    await link.send_json(messages[0])
    await link.send_json(messages[3])
    request = await _replay_request(bench, link, since)
    first, last = messages[1]["sequence"], messages[2]["sequence"]
    asked = (request.data.get("from"), request.data.get("to"))
    text = f"the numbers {first} and {last} were missing, and the client asked for {asked[0]} to {asked[1]}"
    bench.require(asked == (first, last), clause, text, link.number)
    await asyncio.sleep(0.5)
    await link.send_json(messages[1])
    await link.send_json(messages[2])
    if "update" in bench.facts.events:
        heard = await order_heard(bench, sent)
        text = f"of {', '.join(sent)} the application heard {', '.join(heard) or 'nothing'}"
        bench.require(heard == sent, clause, text, link.number)
    requests = sum(message.type == "replay" for message in link.messages[since:])
    bench.require(requests == 1, clause, f"the client asked for {requests} replays of one hole", link.number)
    bench.require(link.ended_s is None, clause, f"the client left: {link.ending()}", link.number)


@CLIENT.case(
    "C-XR-06", "ext.resume", "XR.client-repairs", deadline_s=40,
    sends="resume granted; a session; an update that leaves a number out and two that follow it; the replay request is "
    "answered after 1.5 s",
    expects="one replay request, and no value from behind the hole reaches the application before it is filled",
    why="Each message behind the hole shows the same loss, and asking once is enough.",
)  # fmt: skip
async def asks_once(bench: ClientBench) -> None:
    """A hole is asked for once, and what is behind it waits."""
    clause = "XR.client-repairs"
    await bench.start()
    link = await session_with(bench, "resume")
    await asyncio.sleep(0.5)
    since = len(link.messages)
    sent = [bench.fresh_price() for _ in range(4)]
    messages = [link.envelope("token_update", link.update_data(bench.wanted[0], price)) for price in sent]
    for message in messages[1:]:
        await link.send_json(message)
        await asyncio.sleep(0.1)
    await _replay_request(bench, link, since)
    await asyncio.sleep(1.5)
    early = await order_heard(bench, sent, 0.1)
    text = f"{', '.join(early)} reached the application although the number before was still missing"
    bench.require(not early, clause, text, link.number)
    await link.send_json(messages[0])
    await asyncio.sleep(0.5)
    requests = sum(message.type == "replay" for message in link.messages[since:])
    bench.require(requests == 1, clause, f"the client asked for {requests} replays of one hole", link.number)


@CLIENT.case(
    "C-XR-07", "ext.resume", "XR.client-gives-up", deadline_s=150,
    sends="resume granted; a session; an update that leaves a number out, and no answer to the replay request",
    expects="the client leaves 5 s later (between 3 and 9 s), and comes back without its session",
    why="A hole that cannot be repaired must not hold up everything behind it for ever.",
)  # fmt: skip
async def gives_up(bench: ClientBench) -> None:
    """A hole that stays open ends the session after 5 s."""
    clause = "XR.client-gives-up"
    await bench.start()
    link = await session_with(bench, "resume")
    await asyncio.sleep(0.5)
    link.sequence += 1
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await link.update(bench.wanted[0])
    try:
        await link.closing(_GIVE_UP_S + 4)
    except SilenceError:
        text = "9 s after a number was missing, and its replay not answered, the client was still there"
        bench.fail(clause, text, link.number)
    waited_s = loop.time() - began_s
    bench.require(waited_s >= _GIVE_UP_S - 2, clause, f"the client left after {waited_s:.1f} s already", link.number)
    attempt = await bench.attempt(RETURN_S)
    same = _secret(await attempt.request()) is not None
    bench.require(not same, clause, "the client came back to the session whose hole it gave up on", attempt.number)

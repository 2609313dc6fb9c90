"""XR: sessions that are resumed or cannot be, where ``resume`` is granted."""

import asyncio
import re

from tokenwire_conformance.figures import REPLY_S, SLACK_S
from tokenwire_conformance.server.bench import SERVER, Bench
from tokenwire_conformance.server.extension import (
    LEFT,
    SESSION_HEADER,
    begun,
    gathered,
    last_number,
    leave,
    numbered,
    replayed,
    require_new,
    require_resumed,
    resume,
    secret_of,
    updates_of,
)
from tokenwire_conformance.server.shapes import expect_shapes
from tokenwire_conformance.wire.messages import shown

__all__: list[str] = []

_BASE64URL_128_BITS = re.compile(r"[A-Za-z0-9_-]{22,256}")


@SERVER.case(
    "S-XR-01", "ext.resume", "XR.secret",
    sends="nothing but two upgrade requests that ask for resume",
    expects="either first message has session, 22 to 256 characters of base64url and another each time, resumed false "
    "and resumeWindowMs",
    why="The secret gives access to what the session sent: it needs at least 128 bits and may not repeat.",
)  # fmt: skip
async def secret(bench: Bench) -> None:
    """A new session has a secret of its own, of at least 128 bits."""
    found = []
    for _ in range(2):
        peer = await bench.extended("resume")
        text = secret_of(bench, peer)
        fits = _BASE64URL_128_BITS.fullmatch(text)
        bench.require(fits, "XR.secret", f"session has {len(text)} characters or is not base64url", peer)
        found.append(text)
        assert peer.greeting is not None
        data = peer.greeting.data
        bench.require(data.get("resumed") is False, "XR.secret", f"resumed is {shown(data.get('resumed'))}", peer)
        window = data.get("resumeWindowMs")
        is_window = isinstance(window, int) and not isinstance(window, bool) and window >= 0
        bench.require(is_window, "XR.secret", f"resumeWindowMs is {shown(window)}", peer)
    bench.require(found[0] != found[1], "XR.secret", "two sessions have the same secret")


@SERVER.case(
    "S-XR-02", "ext.resume", "XR.resumed",
    sends=f"{LEFT}; then a socket with its header {SESSION_HEADER} and seq=N, the last number received",
    expects="connection comes first with resumed true, a replayFrom and, being unnumbered, the sequence N",
    why="The first message tells the client whether what it holds still counts.",
)  # fmt: skip
async def resumed_first(bench: Bench) -> None:
    """A held session resumes: connection first, unnumbered, with resumed and replayFrom."""
    old = await begun(bench)
    await leave(old)
    last = last_number(old)
    peer = await resume(bench, secret_of(bench, old), seq=last)
    require_resumed(bench, peer)
    assert peer.greeting is not None
    bench.require(peer.greeting.type == "connection", "XR.resumed", f"came first: {peer.greeting.brief()}", peer)
    begin = peer.greeting.data.get("replayFrom")
    bench.require(begin == last + 1, "XR.resumed", f"replayFrom is {shown(begin)}, not {last + 1}", peer)
    number = peer.greeting.sequence
    bench.require(number == last, "XR.resumed", f"its sequence is {number}; the last number was {last}", peer)


@SERVER.case(
    "S-XR-03", "ext.resume", "XR.replay-exact",
    sends="a session with 3 tokens whose TCP connection breaks; then a socket that resumes from seq=1",
    expects="the messages 2, 3 … up to the sequence of the first message, each once, in order, equal to their first "
    "sending",
    why="Guaranteed delivery means that nothing lies between the last message before a break and the first after it.",
)  # fmt: skip
async def replay_exact(bench: Bench) -> None:
    """What followed the client's number is sent again, complete, in order and unchanged."""
    old = await begun(bench)
    await old.abort()
    peer = await resume(bench, secret_of(bench, old), seq=1)
    require_resumed(bench, peer)
    assert peer.greeting is not None
    highest = max(last_number(old), peer.greeting.sequence or 0)
    again = await replayed(peer, highest)
    numbers = [message.sequence for message in again]
    wanted = list(range(2, highest + 1))
    bench.require(numbers == wanted, "XR.replay-exact", f"came {shown(numbers[:20])}, not 2 to {highest}", peer)
    first = {message.sequence: message for message in numbered(old.messages)}
    for message in again:
        before = first.get(message.sequence)
        same = before is None or (before.type, before.data) == (message.type, message.data)
        bench.require(same, "XR.replay-exact", f"{message.sequence} has changed: {message.brief()}", peer)


@SERVER.case(
    "S-XR-04", "ext.resume", "XR.replay-timestamps",
    sends="a session with 3 tokens whose TCP connection breaks; a second later a socket that resumes from seq=1",
    expects="each replayed message has the timestamp of its first sending",
    why="The timestamp says when a value was sent; a replay that changes it makes old prices look new.",
)  # fmt: skip
async def replay_timestamps(bench: Bench) -> None:
    """Replayed messages keep their timestamps."""
    old = await begun(bench)
    await old.abort()
    await asyncio.sleep(1.1)
    peer = await resume(bench, secret_of(bench, old), seq=1)
    require_resumed(bench, peer)
    stamps = {message.sequence: message.timestamp for message in numbered(old.messages)}
    again = await replayed(peer, last_number(old))
    bench.require(again, "XR.replay-exact", "nothing was replayed", peer)
    for message in again:
        before = stamps.get(message.sequence, message.timestamp)
        bench.require(
            message.timestamp == before, "XR.replay-timestamps",
            f"{message.sequence} had the timestamp {before} and has {message.timestamp} now", peer,
        )  # fmt: skip


@SERVER.case(
    "S-XR-05", "ext.resume", "XR.replay-exact",
    sends=f"{LEFT}; more than an update interval later a socket that resumes from the last number N",
    expects="no number was assigned meanwhile; values of the 3 tokens come without a subscribe, from N+1 on, without "
    "holes or repetitions",
    why="A resumed session goes on where it stopped: with its subscriptions, and with the next number.",
    deadline_s=45.0,
)  # fmt: skip
async def goes_on(bench: Bench) -> None:
    """The subscriptions outlive the socket, and the numbers go on behind the last one."""
    old = await begun(bench)
    tokens = bench.live_tokens(3)
    await leave(old)
    last = last_number(old)
    await asyncio.sleep(bench.facts.update_interval_s + SLACK_S)
    peer = await resume(bench, secret_of(bench, old), seq=last)
    require_resumed(bench, peer)
    assert peer.greeting is not None
    number = peer.greeting.sequence
    bench.require(number == last, "XR.replay-exact", f"numbers went from {last} to {number} meanwhile", peer)
    messages = await gathered(peer, 1, updates_of, 2 * bench.facts.update_interval_s + SLACK_S)
    addresses = {update.get("address") for update in updates_of(messages)}
    bench.require(addresses & set(tokens), "XR.replay-exact", "no value of the subscribed tokens came", peer)
    numbers = [message.sequence for message in numbered(messages)]
    wanted = list(range(last + 1, last + 1 + len(numbers)))
    bench.require(numbers == wanted, "XR.replay-exact", f"came {shown(numbers[:20])}, behind {last}", peer)


@SERVER.case(
    "S-XR-06", "ext.resume", "XR.position-lost",
    sends=f"{LEFT}; then a socket that resumes from a number never sent; the same once more without seq",
    expects="a new session: connection with the sequence 1, resumed false, another secret, reason position_ahead",
    why="A client with a number from elsewhere holds values that the server knows nothing of.",
)  # fmt: skip
async def position_ahead(bench: Bench) -> None:
    """A number never sent, or none, starts a new session with the reason position_ahead."""
    for ahead in (1000, None):
        old = await begun(bench)
        await leave(old)
        secret = secret_of(bench, old)
        peer = await resume(bench, secret, seq=None if ahead is None else last_number(old) + ahead)
        require_new(bench, peer, secret, "XR.position-lost", "position_ahead")


@SERVER.case(
    "S-XR-07", "ext.resume", "XR.position-lost",
    sends="a session with 3 tokens, an ack of its last number, the socket closed with 1001; then a resume from seq=1",
    expects="a new session: connection with the sequence 1, resumed false, another secret, reason position_evicted",
    why="What was acknowledged is not held any more; a silent hole would be a loss that nobody sees.",
)  # fmt: skip
async def position_evicted(bench: Bench) -> None:
    """A number that is not held any more starts a new session with the reason position_evicted."""
    old = await begun(bench)
    await old.send_json({"type": "ack", "data": {"sequence": last_number(old)}})
    await old.unsubscribe(bench.live_tokens(3))  # once it is answered the ack has been read
    await leave(old)
    secret = secret_of(bench, old)
    peer = await resume(bench, secret, seq=1)
    require_new(bench, peer, secret, "XR.position-lost", "position_evicted")


@SERVER.case(
    "S-XR-08", "ext.resume", "XR.position-lost",
    sends=f"{LEFT}; then a socket that resumes from a number never sent",
    expects="the first message lists the 3 tokens in subscriptions, and their values come at once, without a subscribe",
    why="The position is lost, not what the client wants.", deadline_s=30.0,
)  # fmt: skip
async def position_lost_restores(bench: Bench) -> None:
    """A lost position keeps the subscriptions and sends their values."""
    old = await begun(bench)
    tokens = set(bench.live_tokens(3))
    await leave(old)
    peer = await resume(bench, secret_of(bench, old), seq=last_number(old) + 1000)
    assert peer.greeting is not None
    listed = peer.greeting.data.get("subscriptions")
    rows = listed if isinstance(listed, list) else []
    held = {row.get("token") for row in rows if isinstance(row, dict)}
    bench.require(held == tokens, "XR.position-lost", f"subscriptions lists {len(held)} of 3 tokens", peer)
    messages = await gathered(
        peer, 1, lambda ms: tokens <= {u.get("address") for u in updates_of(ms)},
        2 * SLACK_S,
    )  # fmt: skip
    missing = tokens - {update.get("address") for update in updates_of(messages)}
    bench.require(not missing, "XR.position-lost", f"{len(missing)} of 3 tokens got no value", peer)


@SERVER.case(
    "S-XR-09", "ext.resume", "XR.unknown-session",
    sends=f"an upgrade request with seq=5 and a made-up secret in the header {SESSION_HEADER}",
    expects="a new session: connection with the sequence 1, resumed false, a secret of its own, reason unknown_session",
    why="After a restart or on another instance nobody knows the session; the client has to notice and go on.",
)  # fmt: skip
async def unknown_session(bench: Bench) -> None:
    """An unknown secret starts a new session with the reason unknown_session."""
    await bench.extended("resume")
    made_up = "Conformance0123456789abcdefghij"
    peer = await resume(bench, made_up, seq=5)
    require_new(bench, peer, made_up, "XR.unknown-session", "unknown_session")


@SERVER.case(
    "S-XR-10", "ext.resume", "XR.failed-told",
    sends=f"an upgrade request with seq=5 and a made-up secret in the header {SESSION_HEADER}",
    expects="the second message is error with the code RESUME_FAILED, the level warning and the sequence 2",
    why="A program that only watches errors learns of the break as well.",
)  # fmt: skip
async def failed_told(bench: Bench) -> None:
    """A failed resume is told by the warning RESUME_FAILED, right behind connection."""
    await bench.extended("resume")
    peer = await resume(bench, "Conformance0123456789abcdefghij", seq=5)
    second = await peer.receive(REPLY_S)
    bench.require(second.type == "error", "XR.failed-told", f"came second: {second.brief()}", peer)
    seen = (second.data.get("code"), second.data.get("level"), second.sequence)
    bench.require(
        seen == ("RESUME_FAILED", "warning", 2), "XR.failed-told", f"code, level, sequence: {shown(seen)}", peer
    )


@SERVER.case(
    "S-XR-11", "ext.resume", "XR.caps-changed",
    sends="a session with resume and batch (or details), left; then a resume that asks for resume alone",
    expects="a new session with the reason caps_changed",
    why="Messages of the one kind cannot be replayed to a reader of the other.",
)  # fmt: skip
async def caps_changed(bench: Bench) -> None:
    """Asking for other capabilities of the session starts a new one with the reason caps_changed."""
    further = sorted({"batch", "details"} & bench.facts.granted)
    bench.need(further, "needs batch or details besides resume, and the server grants neither")
    old = await begun(bench, further[0])
    await leave(old)
    secret = secret_of(bench, old)
    peer = await resume(bench, secret, seq=last_number(old))
    require_new(bench, peer, secret, "XR.caps-changed", "caps_changed")


@SERVER.case(
    "S-XR-23", "ext.resume", "XR.secret", "XR.gap",
    sends="a resume; what other cases received is looked at as well",
    expects="every connection and gap message is valid by its schema in extended/server",
    why="A client reads the new fields by their schema.", over_run=True,
)  # fmt: skip
async def shape(bench: Bench) -> None:
    """Every connection and gap message has the shape of its schema."""
    old = await begun(bench)
    await leave(old)
    peer = await resume(bench, secret_of(bench, old), seq=last_number(old))
    histories = [*bench.histories, *bench.run_histories]
    judged = expect_shapes(bench, histories, "resume", {"connection": "XR.secret", "gap": "XR.gap"})
    bench.require(judged, "XR.secret", "no connection message came", peer)

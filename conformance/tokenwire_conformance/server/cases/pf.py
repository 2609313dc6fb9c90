"""PF: batching, compression, the update interval, latency."""

import asyncio
import statistics

from tokenwire_conformance.figures import COMPRESSION_THRESHOLD_BYTES, LATENCY_S, MAX_BATCH
from tokenwire_conformance.server.beat import observe
from tokenwire_conformance.server.bench import SERVER, Bench, made_up_name
from tokenwire_conformance.server.checkers import batch_sizes, compression
from tokenwire_conformance.server.over_run import judge_run
from tokenwire_conformance.server.peer import Peer
from tokenwire_conformance.wire.frames import Opcode
from tokenwire_conformance.wire.handshake import DEFLATE_OFFER
from tokenwire_conformance.wire.messages import Received

__all__: list[str] = []

_EARLY_S = 0.5  # by which an update may come before its time: a tick that was late makes the next one early
_LATE_S = 0.75
_ENOUGH_GAPS = 5
_REQUESTS = 11


# --- compression -------------------------------------------------------------------------------------------
@SERVER.case(
    "S-PF-01", "core", "PF.compress-large",
    sends="an upgrade that offers permessage-deflate, then a subscribe with so many tokens that the answer exceeds "
    "1024 bytes",
    expects="each message of more than 1024 bytes has the bit RSV1 set: it is compressed",
    why="The bit on the wire is the only proof; libraries hide it.",
)  # fmt: skip
async def compresses_large(bench: Bench) -> None:
    """Messages of more than 1 KB are compressed."""
    peer = await bench.strict()
    large = _large(await _talk(bench, peer))
    bench.need(large, f"no message of more than {COMPRESSION_THRESHOLD_BYTES} bytes came")
    bench.require(peer.deflate is not None, "PF.compress-large", "permessage-deflate was not accepted", peer)
    plain = [m for m in large if not m.compressed]
    told = f"{len(plain)} of {len(large)} messages were sent without compression, one of {_size(plain)} bytes"
    bench.require(not plain, "PF.compress-large", told, peer)


@SERVER.case(
    "S-PF-02", "core", "PF.compress-only-large",
    sends="an upgrade that offers permessage-deflate, then subscribes with one and with many tokens",
    expects="no message of 1024 bytes or fewer is compressed",
    why="On a small message compression costs time and memory and saves nothing.",
)  # fmt: skip
async def compresses_only_large(bench: Bench) -> None:
    """Small messages are not compressed."""
    peer = await bench.strict()
    bench.need(peer.deflate is not None, "the server did not accept permessage-deflate")
    await _talk(bench, peer)
    await peer.subscribe(bench.tokens(1))
    bench.require(len(peer.messages) > 1, "PF.compress-only-large", "no request was answered", peer)
    for finding in compression(peer.messages, deflate=True):
        bench.require(finding.clause != "PF.compress-only-large", finding.clause, finding.message, peer)


@SERVER.case(
    "S-PF-03", "core", "EP.websocket",
    sends="an upgrade that offers no extension, then a subscribe with so many tokens that the answer exceeds 1024 "
    "bytes",
    expects="the server accepts no extension, the answer comes, and no message has the bit RSV1 set",
    why="RFC 6455: without an extension the reserved bits are 0, and a client has to end a connection else.",
)  # fmt: skip
async def without_offer(bench: Bench) -> None:
    """Without an offer nothing is compressed."""
    peer = await bench.strict(offer_deflate=False)
    large = _large(await _talk(bench, peer))
    # A reserved bit nobody agreed on breaks the connection, and then there is no answer.
    bench.require(peer.ended_s is None, "EP.websocket", peer.ending(), peer)
    bench.need(large, f"no message of more than {COMPRESSION_THRESHOLD_BYTES} bytes came")


@SERVER.case(
    "S-PF-04", "core", "EP.websocket",
    sends="upgrades that offer permessage-deflate with client_no_context_takeover, server_no_context_takeover, or "
    "server_max_window_bits=10; on each, a subscribe and an unsubscribe with many tokens",
    expects="each offer is declined, or accepted with what it asks of the server, and what is compressed can be "
    "inflated in the window agreed on",
    why="RFC 7692: a client that offers a small window has no memory for a larger one.",
    deadline_s=40,
)  # fmt: skip
async def parameters_kept(bench: Bench) -> None:
    """Parameters of permessage-deflate are kept where they are accepted."""
    for parameter in ("client_no_context_takeover", "server_no_context_takeover", "server_max_window_bits=10"):
        offer = ("Sec-WebSocket-Extensions", f"permessage-deflate; {parameter}")
        peer = await bench.connect(headers=[offer])
        await bench.greet(peer)
        if peer.deflate is not None:
            taken = peer.response.header("sec-websocket-extensions")
            kept = {
                "server_no_context_takeover": not peer.deflate.inbound_takeover,
                "server_max_window_bits=10": peer.deflate.inbound_bits <= 10,
            }.get(parameter, True)
            told = f"the offer of {parameter} was accepted as {taken}"
            bench.require(kept, "EP.websocket", told, peer)
        came = await _talk(bench, peer)
        told = f"with {parameter} offered: {peer.ending()}"
        bench.require(peer.ended_s is None and came, "EP.websocket", told, peer)
        await peer.close()


@SERVER.case(
    "S-PF-05", "core", "PF.no-client-takeover",
    sends=f"an upgrade that offers {DEFLATE_OFFER}",
    expects="permessage-deflate is accepted with client_no_context_takeover",
    why="A server of a thousand connections need not keep a window for what each client sent.",
)  # fmt: skip
async def no_client_takeover(bench: Bench) -> None:
    """permessage-deflate is accepted with client_no_context_takeover."""
    peer = await bench.strict()
    bench.need(peer.deflate is not None, "the server did not accept permessage-deflate")
    taken = peer.response.header("sec-websocket-extensions")
    fits = "client_no_context_takeover" in (taken or "")
    bench.require(fits, "PF.no-client-takeover", f"it was accepted as {taken}", peer)


# --- time --------------------------------------------------------------------------------------------------
@SERVER.case(
    "S-PF-06", "timing", "PF.latency",
    sends=f"{_REQUESTS} subscribes with one token, one after the other, each behind a ping; no other case runs",
    expects="the median of the answers' times, less that of the pongs, is below 100 ms",
    why="The specification's tests ask for it. The pongs take the network out.",
    deadline_s=40, alone=True,
)  # fmt: skip
async def latency(bench: Bench) -> None:
    """A request is answered in less than 100 ms."""
    peer = await bench.strict()
    loop = asyncio.get_running_loop()
    pongs: list[float] = []
    answers: list[float] = []
    token = bench.tokens(1)
    for number in range(_REQUESTS):
        begun_s = loop.time()
        seen = len(peer.controls)
        await peer.ping(b"%d" % number)
        while (pong := await peer.control(Opcode.PONG, 5.0, after=seen)).payload != b"%d" % number:
            seen = peer.controls.index(pong) + 1
        pongs.append(pong.at_s - begun_s)
        begun_s = loop.time()
        await peer.send_json(peer.subscription("subscribe", token))
        # A server may well refuse what is held already.
        answers.append((await peer.until(lambda m: m.type in {"subscription", "error"})).at_s - begun_s)
        await peer.collect(0.1)
    spent_s = statistics.median(answers) - statistics.median(pongs)
    told = f"the median of {_REQUESTS} answers was {spent_s * 1000:.0f} ms"
    bench.note(told)
    bench.require(spent_s < LATENCY_S, "PF.latency", told, peer)


@SERVER.case(
    "S-PF-07", "timing", "PF.interval",
    sends="a subscribe with up to fifty tokens that have values",
    expects="over five intervals, the first value apart, no two token_updates of a token are closer than the update "
    "interval less half a second; and of tokens that the user named some come at that interval",
    why="A shorter interval floods clients, a longer one lets their values grow old. Another interval than 5 s can be "
    "given as an option.",
    deadline_s=75,
)  # fmt: skip
async def interval(bench: Bench) -> None:
    """Updates of a token come at the update interval."""
    beat = await observe(bench)
    gaps, interval_s = beat.gaps, beat.interval_s
    # A tick that came late makes the next seem early, so the timestamps have to say the same, or most of the gaps.
    told_s = [max(gap.come_s, gap.stamped_s) for gap in gaps]
    usual_s = statistics.median(gap.come_s for gap in gaps) if gaps else interval_s
    shortest_s = min((*told_s, usual_s))
    told = f"updates of a token came {shortest_s:.2f} s apart, where the interval is {interval_s:g} s"
    bench.require(shortest_s >= interval_s - _EARLY_S, "PF.interval", told, beat.peer)
    bench.need(
        len(gaps) >= _ENOUGH_GAPS, f"{len(gaps)} changes were seen: name tokens that change with --tokens", beat.peer
    )
    if shortest_s > interval_s + _LATE_S:
        told = f"no two updates of a token were closer than {shortest_s:.2f} s"
        bench.need(bench.facts.given, f"{told}; name tokens that keep changing with --tokens", beat.peer)
        bench.fail("PF.interval", f"{told}, where the interval is {interval_s:g} s", beat.peer)


# --- batches -----------------------------------------------------------------------------------------------
@SERVER.case(
    "S-PF-08", "limits", "PF.batch-accepted",
    sends=f"one subscribe with {MAX_BATCH} names, made-up ones where there are not enough tokens",
    expects="each of them is named in an answer, accepted or refused",
    why="1000 is the specification's largest batch, so one of that size has to be served.",
    deadline_s=40,
)  # fmt: skip
async def batch_accepted(bench: Bench) -> None:
    """A request with 1000 tokens is served as a whole."""
    peer = await bench.strict()
    known = list(bench.facts.tokens[:MAX_BATCH])
    names = [*known, *(made_up_name("Batch") for _ in range(MAX_BATCH - len(known)))]
    answer = await peer.subscribe(names, 10.0)
    told = {*map(repr, answer.accepted()), *map(repr, answer.refused())}
    message = f"of {MAX_BATCH} names {len(told)} were answered"
    bench.require(len(told) >= MAX_BATCH, "PF.batch-accepted", message, peer)


@SERVER.case(
    "S-PF-09", "limits", "PF.batch-size",
    sends="nothing of its own, unless no other case was run",
    expects="no message of the run names more than 1000 tokens",
    why="A client may size its memory for 1000.",
    deadline_s=30, over_run=True,
)  # fmt: skip
async def batch_size(bench: Bench) -> None:
    """No message names more than 1000 tokens."""
    await judge_run(bench, "PF.batch-size", batch_sizes)


# --- helpers -----------------------------------------------------------------------------------------------
async def _talk(bench: Bench, peer: Peer) -> list[Received]:
    """Bring about answers of more than 1 KB, as far as the limits allow."""
    names: list[str] = []
    size = 0
    for name in bench.tokens(max(1, min(100, peer.limit, len(bench.facts.tokens)))):
        names.append(name)
        size += len(name) + 3
        if size > 2 * COMPRESSION_THRESHOLD_BYTES:
            break
    answers = [await peer.subscribe(names), await peer.unsubscribe(names)]
    return [message for answer in answers for message in answer.messages]


def _large(messages: list[Received]) -> list[Received]:
    return [message for message in messages if len(message.payload) > COMPRESSION_THRESHOLD_BYTES]


def _size(messages: list[Received]) -> int:
    return len(messages[0].payload) if messages else 0

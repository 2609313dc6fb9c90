"""EH, continued: the rate of messages, long ones, and ones that are never complete."""

import asyncio
import json

from tokenwire_conformance.figures import INBOUND_BURST, REPLY_S
from tokenwire_conformance.server.bench import SERVER, Bench
from tokenwire_conformance.server.peer import Peer
from tokenwire_conformance.server.refusal import is_answer, served
from tokenwire_conformance.wire.frames import Opcode, encode_frame
from tokenwire_conformance.wire.messages import Received, shown
from tokenwire_conformance.wire.wire import EndedError, SilenceError

__all__: list[str] = []

_BEYOND = 120
_UNFINISHED_S = 20.0
_FLOOD_S = 10.0
_MAX_FRAGMENTS = 4096
_SHARE_BYTES = 16_384


def _limited(message: Received) -> bool:
    return message.type == "error" and message.data.get("code") == "RATE_LIMITED"


async def _requests(bench: Bench, peer: Peer, count: int) -> list[Received]:
    """Send so many requests at once and gather what answers them."""
    tokens = bench.tokens(1)
    for number in range(count):
        await peer.send_json(peer.subscription("unsubscribe" if number % 2 else "subscribe", tokens))
    answer = await peer.answer(lambda a: sum(map(is_answer, a.messages)) >= count)
    return answer.messages


@SERVER.case(
    "S-EH-23", "core", "EH.rate-burst",
    sends=f"{INBOUND_BURST} requests at once, subscribe and unsubscribe in turns",
    expects="an answer to each, no RATE_LIMITED",
    why="A client that begins may send some requests at once.",
)  # fmt: skip
async def burst(bench: Bench) -> None:
    """A burst of 40 requests is served."""
    peer = await bench.strict()
    messages = await _requests(bench, peer, INBOUND_BURST)
    answers = sum(map(is_answer, messages))
    told = f"{answers} of {INBOUND_BURST} requests were answered"
    bench.expect(answers >= INBOUND_BURST, "EH.rate-burst", told, peer)
    bench.expect(not any(map(_limited, messages)), "EH.rate-burst", f"{INBOUND_BURST} at once were too many", peer)


@SERVER.case(
    "S-EH-24", "core", "EH.rate-told",
    sends=f"{_BEYOND} requests at once; after 1.5 s one more",
    expects="an error message RATE_LIMITED of the level error, not more than one a second; an answer to the last",
    why="A client whose requests were dropped has to know, or it waits for answers for ever.",
)  # fmt: skip
async def rate_told(bench: Bench) -> None:
    """What goes beyond the rate is told, and survived."""
    peer = await bench.strict()
    tokens = bench.tokens(1)
    for number in range(_BEYOND):
        await peer.send_json(peer.subscription("unsubscribe" if number % 2 else "subscribe", tokens))
    messages = await peer.collect(1.5)
    limited = [message for message in messages if _limited(message)]
    bench.require(limited, "EH.rate-told", f"{_BEYOND} requests at once were not told RATE_LIMITED", peer)
    levels = [message.data.get("level") for message in limited]
    bench.expect(
        not any(level in ("fatal", "warning") for level in levels),
        "EH.rate-told",
        f"RATE_LIMITED has the levels {shown(levels)}",
        peer,
    )
    told = f"RATE_LIMITED came {len(limited)} times in 1.5 s"
    bench.expect(len(limited) <= 2, "EH.rate-told", told, peer)
    await served(bench, peer, "EH.rate-told", "after RATE_LIMITED and a pause")


@SERVER.case(
    "S-EH-25", "core", "EH.control-rate",
    sends=f"150 pings at once, then {INBOUND_BURST - 5} requests at once",
    expects="the pongs up to that of the last ping, and an answer to each request",
    why="A client that pings often must not lose requests by it.",
)  # fmt: skip
async def control_rate(bench: Bench) -> None:
    """Pings do not use up the rate of messages."""
    peer = await bench.strict()
    for number in range(150):
        await peer.ping(str(number).encode())
    count = INBOUND_BURST - 5
    messages = await _requests(bench, peer, count)
    answers = sum(map(is_answer, messages))
    told = f"after 150 pings {answers} of {count} requests were answered"
    bench.expect(answers >= count and not any(map(_limited, messages)), "EH.control-rate", told, peer)
    pongs = {control.payload for control in peer.controls if control.opcode is Opcode.PONG}
    bench.expect(b"149" in pongs, "EH.control-rate", "the last of 150 pings was not answered", peer)


@SERVER.case(
    "S-EH-26", "core", "EH.long-message-cost",
    sends="three subscribes of 256 KiB (padded by spaces), which count 17 times each, and a short one, at "
    "once",
    expects="an answer to the three, and RATE_LIMITED in place of one to the short one",
    why="Size must be no way round the rate, and a long request is a good one all the same.",
)  # fmt: skip
async def long_messages(bench: Bench) -> None:
    """A long message is served, and counts as several."""
    peer = await bench.strict()
    tokens = bench.tokens(1)
    for _ in range(3):
        await peer.send_text(json.dumps(peer.subscription("subscribe", tokens)).ljust(16 * _SHARE_BYTES))
    await peer.send_json(peer.subscription("subscribe", tokens))
    answer = await peer.answer(lambda a: sum(is_answer(m) or _limited(m) for m in a.messages) >= 4)
    answers = sum(map(is_answer, answer.messages))
    bench.expect(answers >= 3, "EH.long-message-cost", f"{answers} of three long requests were answered", peer)
    told = "a short request behind three of 256 KiB was not dropped"
    bench.expect(any(map(_limited, answer.messages)), "EH.long-message-cost", told, peer)


@SERVER.case(
    "S-EH-27", "timing", "EH.flood",
    sends="requests at 100 a second for up to 15 s",
    expects="RATE_LIMITED of the level fatal and the close code 4005, between 9 and 14 s after the beginning",
    why="A client that ignores what it is told costs the others.",
    deadline_s=40,
)  # fmt: skip
async def flood(bench: Bench) -> None:
    """A flood that lasts 10 s closes with 4005."""
    loop = asyncio.get_running_loop()
    peer = await bench.strict()
    tokens = bench.tokens(1)
    begun_s = loop.time()
    number = 0
    while loop.time() - begun_s < _FLOOD_S + 5 and peer.ended_s is None and peer.close_code is None:
        # By the clock, not by a pause for each: pauses are longer than asked for.
        while number < (loop.time() - begun_s) * 100:
            await peer.send_json(peer.subscription("unsubscribe" if number % 2 else "subscribe", tokens))
            number += 1
        await asyncio.sleep(0.05)
    lasted_s = loop.time() - begun_s
    try:
        code = await peer.closing(1.0)
    except SilenceError:
        bench.fail("EH.flood", f"{number} requests in {lasted_s:.0f} s, and the connection is still open", peer)
    bench.expect(code == 4005, "EH.flood", f"the close code is {code}", peer)
    told = f"the flood was ended after {lasted_s:.1f} s"
    bench.expect(_FLOOD_S - 1 <= lasted_s <= _FLOOD_S + 4, "EH.flood", told, peer)
    levels = [message.data.get("level") for message in peer.messages if _limited(message)]
    told = f"the levels of RATE_LIMITED were {shown(levels[-3:])}"
    bench.expect(levels[-1:] == ["fatal"], "EH.flood", told, peer)


@SERVER.case(
    "S-EH-28", "timing", "EH.unfinished",
    sends="the first fragment of a text message and never the rest, but a ping every 4 s",
    expects="the close code 1008, between 19 and 26 s after the fragment",
    why="Unfinished messages take memory; a client could keep a server's full with them.",
    deadline_s=45,
)  # fmt: skip
async def unfinished(bench: Bench) -> None:
    """A message that is not complete after 20 s ends the connection."""
    loop = asyncio.get_running_loop()
    peer = await bench.strict()
    await peer.send_frame(Opcode.TEXT, b'{"type":', fin=False)
    begun_s = loop.time()
    while loop.time() - begun_s < _UNFINISHED_S + 6:
        try:
            code = await peer.closing(4.0)
        except SilenceError:
            await peer.ping(b"here")
            continue
        lasted_s = loop.time() - begun_s
        bench.expect(code == 1008, "EH.unfinished", f"the close code is {code}", peer)
        told = f"the connection ended after {lasted_s:.1f} s"
        bench.expect(_UNFINISHED_S - 1 <= lasted_s <= _UNFINISHED_S + 6, "EH.unfinished", told, peer)
        return
    bench.fail("EH.unfinished", f"a message is unfinished for {loop.time() - begun_s:.0f} s, and nothing happens", peer)


@SERVER.case(
    "S-EH-29", "timing", "EH.fragments",
    sends="a good subscribe in more than 4096 fragments, most of them empty",
    expects="the close code 1008 or 1009",
    why="Each fragment costs more than its bytes; without a bound a message is a way to keep a server busy.",
)  # fmt: skip
async def many_fragments(bench: Bench) -> None:
    """A message in more than 4096 fragments ends the connection."""
    peer = await bench.strict()
    await served(bench, peer, "MS.answered", "on a good connection")
    text = json.dumps(peer.subscription("subscribe", bench.tokens(1))).encode()
    out = [encode_frame(Opcode.TEXT, text[:10], mask=True, fin=False)]
    out += [encode_frame(Opcode.CONTINUATION, b"", mask=True, fin=False)] * (_MAX_FRAGMENTS + 200)
    out.append(encode_frame(Opcode.CONTINUATION, text[10:], mask=True))
    await peer.send_raw(b"".join(out))
    try:
        await peer.until(is_answer, REPLY_S)
        bench.fail("EH.fragments", f"a request in {len(out)} fragments was served", peer)
    except SilenceError as error:
        bench.fail("EH.fragments", f"a request in {len(out)} fragments: {error}", peer)
    except EndedError:
        told = f"a request in {len(out)} fragments: the close code is {peer.close_code}"
        bench.expect(peer.close_code in {1008, 1009}, "EH.fragments", told, peer)

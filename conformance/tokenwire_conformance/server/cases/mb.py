"""MB: the base message format. The first of them judge what every connection of the run received."""

import asyncio
import itertools
import json

from tokenwire_conformance.figures import REPLY_S, SLACK_S
from tokenwire_conformance.server import checkers
from tokenwire_conformance.server.bench import SERVER, Bench
from tokenwire_conformance.server.checkers import sequence_contiguous, sequence_first
from tokenwire_conformance.server.over_run import judge_run
from tokenwire_conformance.server.peer import NUMBER, TIME
from tokenwire_conformance.server.refusal import is_answer, served
from tokenwire_conformance.server.stall import FILLING, fill, held
from tokenwire_conformance.wire.frames import Opcode
from tokenwire_conformance.wire.messages import shown
from tokenwire_conformance.wire.wire import EndedError, SilenceError

__all__: list[str] = []

_STALL_S = 3.0
_SENDS = "what every case sends; run alone: a subscribe, a text that is not JSON, an unsubscribe"


@SERVER.case(
    "S-MB-01", "core", "MB.object", "MB.type", "MB.sequence", "MB.timestamp",
    sends=_SENDS,
    expects="every message is one JSON object; type is a string, sequence and timestamp are numbers, data is an object",
    why="A reader finds its way by the envelope; what breaks it cannot even be refused in order.",
    over_run=True,
)  # fmt: skip
async def envelope(bench: Bench) -> None:
    """Every message is an object with the envelope's types."""
    await judge_run(bench, "MB.object", checkers.envelope)


@SERVER.case(
    "S-MB-02", "core", "MB.sequence-first",
    sends=_SENDS, expects="the first message of every connection has the sequence 1",
    why="A client that counts from 1 takes any other beginning for a loss.",
    over_run=True,
)  # fmt: skip
async def first_number(bench: Bench) -> None:
    """The first message of a connection has the number 1."""
    await judge_run(bench, "MB.sequence-first", sequence_first)


@SERVER.case(
    "S-MB-03", "core", "MB.sequence-contiguous", "MB.sequence",
    sends=_SENDS,
    expects="on every connection each message has the sequence of the one before plus one, whatever the types",
    why="The number is how a client notices a loss: a hole makes it reconnect for nothing, a repetition hides one.",
    over_run=True,
)  # fmt: skip
async def contiguous(bench: Bench) -> None:
    """Numbers go up by one over all types."""
    await judge_run(bench, "MB.sequence-contiguous", sequence_contiguous)


@SERVER.case(
    "S-MB-04", "core", "MB.timestamp-near-now",
    sends=_SENDS,
    expects="every timestamp is the Unix time in milliseconds at which the message came, give or take 60 s",
    why="Seconds in place of milliseconds is the classic mistake: a client that judges age by it drops everything.",
    over_run=True,
)  # fmt: skip
async def near_now(bench: Bench) -> None:
    """Timestamps are the present in milliseconds."""
    await judge_run(bench, "MB.timestamp-near-now", checkers.timestamps_near_now)


@SERVER.case(
    "S-MB-05", "core", "MB.timestamp-order",
    sends=_SENDS, expects="every timestamp is a whole number and none is below the one before on its connection",
    why="A client may sort by it, and one that is set back looks like old data.",
    over_run=True,
)  # fmt: skip
async def ordered(bench: Bench) -> None:
    """Timestamps are whole and never decrease."""
    await judge_run(bench, "MB.timestamp-order", checkers.timestamps_ordered)


@SERVER.case(
    "S-MB-06", "core", "MB.text-frame",
    sends=_SENDS, expects="every message is a text message, none a binary one",
    why="A browser hands a binary message over as a Blob, which no reader of JSON text expects.",
    over_run=True,
)  # fmt: skip
async def text_frames(bench: Bench) -> None:
    """Messages are text."""
    await judge_run(bench, "MB.text-frame", checkers.text_frames)


@SERVER.case(
    "S-MB-07", "core", "MB.four-keys",
    sends=_SENDS, expects="every object has the keys type, sequence, timestamp and data, and no other",
    why="A client may be as strict as the specification's format and refuse what it does not know.",
    over_run=True,
)  # fmt: skip
async def four_keys(bench: Bench) -> None:
    """Every message has exactly the four keys."""
    await judge_run(bench, "MB.four-keys", checkers.four_keys)


@SERVER.case(
    "S-MB-08", "core", "MB.strict-types",
    sends=_SENDS,
    expects="with nothing negotiated, every type is connection, token_update, subscription or error",
    why="A client that did not ask for extensions need not know their types.",
    over_run=True,
)  # fmt: skip
async def strict_types(bench: Bench) -> None:
    """Only the four types are sent to a client that asked for no more."""
    await judge_run(bench, "MB.strict-types", checkers.strict_types)


@SERVER.case(
    "S-MB-09", "core", "MB.strict-json",
    sends=_SENDS, expects="no message begins with a byte order mark or holds zero bytes, as UTF-16 does",
    why="Many JSON readers stop at a byte order mark.",
    over_run=True,
)  # fmt: skip
async def strict_json(bench: Bench) -> None:
    """Messages are UTF-8 without byte order mark."""
    await judge_run(bench, "MB.strict-json", checkers.strict_json)


@SERVER.case(
    "S-MB-10", "core", "MB.sequence-per-connection",
    sends="on one connection three requests, then on a second one that is opened behind them a request, in turns",
    expects="either connection counts from where it began, by one, whatever the other received",
    why="With a counter that connections share, each sees holes that are no losses.",
)  # fmt: skip
async def numbered_apart(bench: Bench) -> None:
    """Two connections are numbered independently."""
    first = await bench.strict()
    for _ in range(3):
        await served(bench, first, "MS.answered", "on an open connection")
    second = await bench.strict()
    for peer in (second, first, second, first):
        await served(bench, peer, "MS.answered", "with a second connection open")
    begun = first.messages[0].sequence, second.messages[0].sequence
    bench.expect(
        begun[0] == begun[1], "MB.sequence-per-connection",
        f"the first connection began with the number {shown(begun[0])}, the second, opened later, "
        f"with {shown(begun[1])}", second,
    )  # fmt: skip
    # One that leaves holes on a single connection too is judged by the case of contiguous numbers.
    for peer in (first, second):
        numbers = [message.sequence for message in peer.messages]
        others = {m.sequence for m in (second if peer is first else first).messages} - set(numbers)
        holes = [
            b for a, b in itertools.pairwise(numbers)
            if a is not None and b is not None and a + 1 < b < a + 1000 and set(range(a + 1, b)) <= others
        ]  # fmt: skip
        told = f"numbers that are missing before {shown(holes[:3])} were used on the other connection"
        bench.expect(not holes, "MB.sequence-per-connection", told, peer)


@SERVER.case(
    "S-MB-11", "core", "MB.optional-keys",
    sends="a subscribe with only the keys type and data", expects="a subscription message as the answer",
    why="So a person can type a request, and a client need not number what nobody counts.",
)  # fmt: skip
async def optional_keys(bench: Bench) -> None:
    """A request without sequence and timestamp is served."""
    peer = await bench.strict()
    request = {"type": "subscription", "data": {"action": "subscribe", "tokens": bench.tokens(1)}}
    answer = await served(bench, peer, "MB.optional-keys", "without sequence and timestamp", request)
    bench.expect(answer.data.get("status") != "error", "MB.optional-keys", f"it was refused: {answer.brief()}", peer)


@SERVER.case(
    "S-MB-12", "core", "MB.fragmented",
    sends="a subscribe as a text message in 3 fragments, then an unsubscribe in fragments of 2 bytes with a ping "
    "between",
    expects="a subscription message with the status success as the answer to each",
    why="A proxy may split a message anywhere; it is one message all the same.",
)  # fmt: skip
async def fragmented(bench: Bench) -> None:
    """A message in fragments is read as one."""
    peer = await bench.strict()
    token = bench.tokens(1)
    for action, fragments in (("subscribe", 3), ("unsubscribe", 0)):
        text = _text(peer.subscription(action, token))
        if fragments:
            await peer.send_text(text, fragments=fragments)
        else:
            pieces = [text[at : at + 2].encode() for at in range(0, len(text), 2)]
            for number, piece in enumerate(pieces):
                if number == 1:
                    await peer.ping(b"between")
                opcode = Opcode.CONTINUATION if number else Opcode.TEXT
                await peer.send_frame(opcode, piece, fin=number == len(pieces) - 1)
        try:
            answer = await peer.until(is_answer)
        except (SilenceError, EndedError) as error:
            bench.fail("MB.fragmented", f"{action} in fragments: {error}", peer)
        told = f"{action} in fragments was answered with {answer.brief()}"
        bench.expect(answer.data.get("status") != "error", "MB.fragmented", told, peer)


@SERVER.case(
    "S-MB-13", "core", "MB.binary-refused",
    sends="a good subscribe as a binary message",
    expects="an error message with the code BINARY_NOT_SUPPORTED, then the close code 1003",
    why="Messages are text; who sends binary ones by mistake should learn it at once.",
)  # fmt: skip
async def binary_refused(bench: Bench) -> None:
    """A binary message is told so and closes with 1003."""
    peer = await bench.strict()
    text = _text(peer.subscription("subscribe", bench.tokens(1)))
    await peer.send_frame(Opcode.BINARY, text.encode())
    try:
        code = await peer.closing(REPLY_S)
    except SilenceError as error:
        bench.fail("MB.binary-refused", f"a binary message was sent: {error}", peer)
    bench.expect(code == 1003, "MB.binary-refused", f"the close code is {code}", peer)
    codes = [message.data.get("code") for message in peer.unread() if message.type == "error"]
    told = f"the codes of the errors before the end are {shown(codes)}"
    bench.expect("BINARY_NOT_SUPPORTED" in codes, "MB.binary-refused", told, peer)


@SERVER.case(
    "S-MB-14", "core", "MB.liberal",
    sends="a subscribe with unknown keys in the envelope and in data",
    expects="a subscription message with the status success",
    why="A client that is newer than the server is understood all the same.",
)  # fmt: skip
async def unknown_fields(bench: Bench) -> None:
    """Unknown fields of a request are ignored."""
    text = _text(_request(bench, unheardOf=[1, {"a": None}]) | {"unknown": {"of": ["every", "kind"]}})
    await _liberal(bench, text, "with unknown fields")


@SERVER.case(
    "S-MB-15", "core", "MB.liberal",
    sends="a subscribe with \"sequence\": 1.0 and a timestamp such as 1764547200.123e3, the present",
    expects="a subscription message with the status success",
    why="JSON has one kind of number, and some writers print whole ones with a point or an exponent.",
)  # fmt: skip
async def whole_numbers(bench: Bench) -> None:
    """Whole numbers may be written with a point or an exponent."""
    data = _text({"action": "subscribe", "tokens": bench.tokens(1)})
    seconds = f"{bench.facts.clock.wall_ms() / 1000:.3f}"
    text = f'{{"type":"subscription","sequence":1.0,"timestamp":{seconds}e3,"data":{data}}}'
    await _liberal(bench, text, "with 1.0 as its sequence")


@SERVER.case(
    "S-MB-16", "core", "MB.liberal",
    sends="a message whose key type occurs twice: \"nonsense\" first, then \"subscription\"",
    expects="it is served as a subscribe",
    why="Most JSON readers let the last value count; one that reads otherwise than a filter before it is a hole.",
)  # fmt: skip
async def repeated_key(bench: Bench) -> None:
    """The last of a repeated key counts."""
    data = _text({"action": "subscribe", "tokens": bench.tokens(1)})
    text = f'{{"type":"nonsense","sequence":"{NUMBER}","timestamp":"{TIME}","data":{data},"type":"subscription"}}'
    await _liberal(bench, text, "with a repeated key")


async def _liberal(bench: Bench, text: str, how: str) -> None:
    peer = await bench.strict()
    await peer.send_text(peer.stamped(text))
    try:
        answer = await peer.until(lambda message: message.type in {"subscription", "error"})
    except (SilenceError, EndedError) as error:
        bench.fail("MB.liberal", f"a request {how}: {error}", peer)
    good = answer.type == "subscription" and answer.data.get("status") != "error"
    bench.expect(good, "MB.liberal", f"a request {how} was answered with {answer.brief()}", peer)


@SERVER.case(
    "S-MB-17", "core", "EP.websocket",
    sends="with permessage-deflate agreed on, a compressed subscribe, then a plain unsubscribe, then a compressed one",
    expects="a subscription message as the answer to each",
    why="Who agrees on permessage-deflate reads compressed messages and plain ones, in any order.",
)  # fmt: skip
async def compressed_request(bench: Bench) -> None:
    """Compressed requests are read where compression was agreed on."""
    peer = await bench.strict()
    bench.need(peer.deflate is not None, "the server does not agree on permessage-deflate")
    for action, compressed in (("subscribe", True), ("unsubscribe", False), ("subscribe", True)):
        await peer.send_text(_text(peer.subscription(action, bench.tokens(1))), compressed=compressed)
        how = f"a {'compressed' if compressed else 'plain'} {action}"
        try:
            await peer.until(is_answer)
        except (SilenceError, EndedError) as error:
            bench.fail("EP.websocket", f"{how}: {error}", peer)


@SERVER.case(
    "S-MB-18", "timing", "MB.numbered-last",
    sends=f"{FILLING} subscribes with the same 100 tokens, ten a second; nothing is read meanwhile, nor for "
    f"{_STALL_S:g} s more; then it reads again",
    expects="whatever comes, up to the end of the connection if the server gives the reader up, has no hole in its "
    "numbers",
    why="What is replaced by something newer before it is written must not have had a number.",
    deadline_s=40,
)  # fmt: skip
async def slow_reader(bench: Bench) -> None:
    """A reader that is behind sees no hole."""
    peer = await bench.strict(offer_deflate=False)
    tokens = await held(bench, peer, "MS.answered")
    before = len(peer.messages)
    await fill(peer, tokens)
    await asyncio.sleep(_STALL_S)
    peer.resume()
    await peer.collect(bench.facts.update_interval_s + SLACK_S)
    bench.require(len(peer.messages) > before, "MB.numbered-last", "nothing came once it read again", peer)
    for finding in sequence_contiguous(peer.messages):
        if finding.clause == "MB.sequence-contiguous":
            bench.fail("MB.numbered-last", finding.message, peer)


def _request(bench: Bench, **extra: object) -> dict[str, object]:
    data = {"action": "subscribe", "tokens": bench.tokens(1), **extra}
    return {"type": "subscription", "sequence": NUMBER, "timestamp": TIME, "data": data}


def _text(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))

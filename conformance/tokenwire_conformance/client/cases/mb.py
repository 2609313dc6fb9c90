"""MB: the envelope of what the client sends, and messages in several fragments."""

import json
from collections.abc import Sequence
from typing import Any, Final

from tokenwire_conformance.client.bench import CLIENT, TOKENS, ClientBench
from tokenwire_conformance.client.cases.steps import hears, shown
from tokenwire_conformance.client.link import Link
from tokenwire_conformance.model import NotTestableError
from tokenwire_conformance.wire.frames import Opcode
from tokenwire_conformance.wire.messages import Received
from tokenwire_conformance.wire.wire import SilenceError

__all__: list[str] = []

_KEYS: Final = {"type", "sequence", "timestamp", "data"}
_CLOCK_S: Final = 60.0
_MANY: Final = tuple(f"CONFORMANCE-{number:04d}" for number in range(1_100))


async def _requests(bench: ClientBench) -> tuple[Link, Sequence[Received]]:
    await bench.start()
    link = await bench.link()
    await link.subscribed(TOKENS, 3.0)
    # What is no subscription (an echo, say) shows nothing about a client's own messages.
    if not link.requests:
        sent = link.messages[0].brief() if link.messages else "nothing"
        raise SilenceError(f"no subscription message within 3 s of the connection message; the client sent {sent}")
    return link, link.messages


@CLIENT.case(
    "C-MB-01", "core", "MB.client-four-keys",
    sends="a connection message, and the answer to each subscription",
    expects="each message of the client is text, and one JSON object with exactly the keys type (a string), sequence, "
    "timestamp (numbers) and data (an object)",
    why="The base message format of the specification holds for both directions.",
)  # fmt: skip
async def four_keys(bench: ClientBench) -> None:
    """The client's messages are text with exactly the four keys."""
    link, messages = await _requests(bench)
    clause = "MB.client-four-keys"
    for message in messages:
        text = message.brief()
        bench.require(message.opcode is Opcode.TEXT, clause, f"not a text message: {text}", link.number)
        bench.require(isinstance(message.json, dict), clause, f"not a JSON object: {text}", link.number)
        keys = set(message.envelope)
        bench.require(keys == _KEYS, clause, f"the keys are {', '.join(sorted(keys)) or 'none'}: {text}", link.number)
        bench.require(message.type is not None, clause, f"type is no string: {text}", link.number)
        for key in ("sequence", "timestamp"):
            bench.require(_is_number(message.envelope[key]), clause, f"{key} is no number: {text}", link.number)
        bench.require(isinstance(message.envelope["data"], dict), clause, f"data is no object: {text}", link.number)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@CLIENT.case(
    "C-MB-02", "core", "MB.client-timestamp",
    sends="a connection message",
    expects="the timestamp of each message of the client is the present Unix time in milliseconds, give or take 60 s",
    why="The specification's timestamp is Unix time in milliseconds.",
)  # fmt: skip
async def timestamp(bench: ClientBench) -> None:
    """The timestamps of the client's messages are the present in milliseconds."""
    link, messages = await _requests(bench)
    for message in messages:
        stamp: Any = message.envelope.get("timestamp")
        # Compared, not subtracted: no float is as large as what JSON's digits may say.
        first, last = message.wall_ms - _CLOCK_S * 1_000, message.wall_ms + _CLOCK_S * 1_000
        near = _is_number(stamp) and first <= stamp <= last
        told = "missing" if stamp is None and "timestamp" not in message.envelope else shown(stamp)
        text = f"the timestamp is {told}, the present {message.wall_ms:.0f}"
        bench.require(near, "MB.client-timestamp", text, link.number)


@CLIENT.case(
    "C-MB-03", "core", "MB.client-sequence",
    sends="a connection message that allows 2000 subscriptions, to a client that is to subscribe to 1100 tokens (which "
    "takes several messages)",
    expects="the sequence of each of its messages is higher than that of the one before",
    why="The base message format says so, and a server finds lost requests by it.",
)  # fmt: skip
async def sequence_rises(bench: ClientBench) -> None:
    """The numbers of the client's messages rise."""
    await bench.start(_MANY)
    attempt = await bench.attempt()
    link = await attempt.accept()
    link.values = False  # 1100 of them would only take time
    await link.greet(maxSubscriptions=2_000)
    await link.subscribed(_MANY)
    if not link.requests:
        raise SilenceError("the client did not subscribe to anything within 5 s of the connection message")
    if len(link.messages) == 1:
        raise NotTestableError("the client sends only one message on a connection")
    last: Any = None
    for message in link.messages:
        number = message.envelope.get("sequence")
        if not _is_number(number):
            bench.fail("MB.client-sequence", f"a message without a sequence: {message.brief()}", link.number)
        if last is not None:
            text = f"the sequence {shown(number)} follows {shown(last)}"
            bench.require(number > last, "MB.client-sequence", text, link.number)
        last = number


@CLIENT.case(
    "C-MB-04", "core", "MB.fragmented",
    sends="an update in 7 fragments, then one in fragments of one byte, with a ping between them",
    expects="both values reach the application",
    why="WebSocket lets anybody on the way split a message.",
)  # fmt: skip
async def fragmented(bench: ClientBench) -> None:
    """Messages in several fragments are read, also with pings between."""
    bench.need_events("update")
    await bench.start()
    link = await bench.session()
    first, second = bench.fresh_price(), bench.fresh_price()
    message = link.envelope("token_update", link.update_data(bench.wanted[0], first))
    await link.send_text(_text(message), fragments=7)
    read = await hears(bench, first)
    bench.require(read, "MB.fragmented", "an update in 7 fragments did not reach the application", link.number)
    payload = _text(link.envelope("token_update", link.update_data(bench.wanted[0], second))).encode()
    for index in range(len(payload)):
        opcode = Opcode.CONTINUATION if index else Opcode.TEXT
        await link.send_frame(opcode, payload[index : index + 1], fin=index == len(payload) - 1)
        if index == len(payload) // 2:
            await link.ping(b"between")
    read = await hears(bench, second)
    text = "an update in fragments of one byte, with a ping between, did not reach the application"
    bench.require(read, "MB.fragmented", text, link.number)


def _text(message: object) -> str:
    return json.dumps(message, separators=(",", ":"))

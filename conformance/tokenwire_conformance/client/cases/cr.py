"""CR: the time that opening may take, and the size of messages."""

import asyncio
import json
from typing import Final

from tokenwire_conformance.client.bench import CLIENT, ClientBench
from tokenwire_conformance.client.cases.steps import RETURN_S, lives
from tokenwire_conformance.client.link import Attempt, Link
from tokenwire_conformance.figures import CONNECTION_TIMEOUT_S, MAX_MESSAGE_BYTES
from tokenwire_conformance.wire.wire import SilenceError

__all__: list[str] = []

_SLACK_S: Final = 2.0
_DECIMAL_MEGABYTE: Final = 1_000_000
_LONG: Final = tuple(f"CONFORMANCE-{number:04d}-{'x' * 90}" for number in range(1_100))


async def _given_up(bench: ClientBench, attempt: Attempt, what: str) -> None:
    limit_s = CONNECTION_TIMEOUT_S + _SLACK_S
    left_s = max(0.1, attempt.at_s + limit_s - asyncio.get_running_loop().time())
    try:
        await attempt.ended(left_s)
    except (SilenceError, TimeoutError):
        text = f"{what}, and {limit_s:g} s after it was opened the client still held the connection"
        bench.fail("CR.open-timeout-client", text, attempt.number)


@CLIENT.case(
    "C-CR-01", "core", "CR.open-timeout-client",
    sends="nothing: the TCP connection is accepted and the upgrade request never answered",
    expects="the client closes the TCP connection within 5 s (7 s with slack), and tries again",
    why="A server that hangs is as good as none, and another try may reach a better one.",
)  # fmt: skip
async def unanswered(bench: ClientBench) -> None:
    """An opening that is not answered is given up after 5 s."""
    await bench.start()
    attempt = await bench.attempt()
    await attempt.request()
    await _given_up(bench, attempt, "the handshake was not answered")
    try:
        await bench.attempt(RETURN_S)
    except SilenceError as error:
        bench.fail("CR.open-timeout-client", f"after it gave up an opening, {error}")


@CLIENT.case(
    "C-CR-02", "core", "CR.open-timeout-client",
    sends="the answer to the handshake, one line a second for 10 s, and never its end",
    expects="the client closes the TCP connection within 5 s (7 s with slack)",
    why="A time-out that every byte starts anew never comes.",
)  # fmt: skip
async def half_answered(bench: ClientBench) -> None:
    """An opening that is answered byte by byte is given up after 5 s."""
    await bench.start()
    attempt = await bench.attempt()
    await attempt.request()

    async def drip() -> None:
        await attempt.send_raw(b"HTTP/1.1 101 Switching Protocols\r\n")
        for number in range(10):
            await asyncio.sleep(1)
            await attempt.send_raw(f"X-Line-{number}: x\r\n".encode())

    dripping = asyncio.create_task(drip())
    try:
        await _given_up(bench, attempt, "the answer to the handshake did not come to its end")
    finally:
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)


async def _send_padded(link: Link, size: int) -> None:
    """An error message of exactly ``size`` bytes: the one message of the specification with a free text."""
    data = {"code": "UPSTREAM_STALE", "message": "", "level": "warning"}
    message = link.envelope("error", data)
    text = json.dumps(message, separators=(",", ":"))
    message["data"]["message"] = "x" * (size - len(text))
    await link.send_json(message)


@CLIENT.case(
    "C-CR-03", "core", "CR.message-size-accepted",
    sends="a warning of 1,000,000 bytes (its text is that long), then an update",
    expects="the connection is kept, and the update reaches the application",
    why="A message may have 1 MB.",
)  # fmt: skip
async def a_million(bench: ClientBench) -> None:
    """A message of 1,000,000 bytes is read."""
    await bench.start()
    link = await bench.session()
    await _send_padded(link, _DECIMAL_MEGABYTE)
    await lives(bench, link, "CR.message-size-accepted", f"a message of {_DECIMAL_MEGABYTE} bytes")


@CLIENT.case(
    "C-CR-04", "core", "CR.megabyte",
    sends="a warning of 1,048,576 bytes (its text is that long), then an update",
    expects="the connection is kept, and the update reaches the application",
    why="1 MB is read as 1,048,576 bytes, both directions.",
)  # fmt: skip
async def a_mebibyte(bench: ClientBench) -> None:
    """A message of exactly 1,048,576 bytes is read."""
    await bench.start()
    link = await bench.session()
    await _send_padded(link, MAX_MESSAGE_BYTES)
    await lives(bench, link, "CR.megabyte", f"a message of {MAX_MESSAGE_BYTES} bytes")


@CLIENT.case(
    "C-CR-05", "core", "CR.message-size-sent",
    sends="a connection message that allows 2000 subscriptions, to a client that is to subscribe to 1100 tokens with "
    "names of 107 characters",
    expects="the client subscribes, and no message of it has more than 1,048,576 bytes",
    why="A message may have 1 MB, both directions.",
)  # fmt: skip
async def sends_no_more(bench: ClientBench) -> None:
    """The client sends no message of more than 1 MB."""
    await bench.start(_LONG)
    attempt = await bench.attempt()
    link = await attempt.accept()
    link.values = False  # 1100 of them would only take time
    await link.greet(maxSubscriptions=2_000)
    if not await link.first_request():
        raise SilenceError("the client did not subscribe to anything within 5 s of the connection message")
    await link.subscribed(bench.wanted)
    for message in link.messages:
        size = len(message.payload)
        text = f"the client sent a message of {size} bytes"
        bench.require(size <= MAX_MESSAGE_BYTES, "CR.message-size-sent", text, link.number)

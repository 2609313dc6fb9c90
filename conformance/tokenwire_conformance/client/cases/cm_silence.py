"""CM: servers from which nothing comes, or only pings."""

import asyncio
from typing import Final

from tokenwire_conformance.client.bench import CLIENT, ClientBench
from tokenwire_conformance.figures import IDLE_TIMEOUT_S
from tokenwire_conformance.wire.frames import Opcode
from tokenwire_conformance.wire.wire import SilenceError

__all__: list[str] = []

_EVER_S: Final = 60.0
_TOLERANCE_S: Final = 3.0
_PING_S: Final = 8.0
_STAY_S: Final = 45.0


async def _leaving_s(bench: ClientBench) -> float | None:
    """How long after the last byte the client leaves a server that has become silent."""
    await bench.start()
    link = await bench.session()
    await asyncio.sleep(0.5)
    link.answers_pings = False
    link.answers = False
    # The last byte is a message, so that the client's own clock and the suite's agree on when silence began.
    await link.update(bench.wanted[0])
    began_s = asyncio.get_running_loop().time()
    try:
        await link.closing(_EVER_S)
    except SilenceError:
        return None
    return asyncio.get_running_loop().time() - began_s


@CLIENT.case(
    "C-CM-30", "timing", "CM.silent-server", deadline_s=90,
    sends="a session, and then nothing at all: not even an answer to a ping. The TCP connection stays open",
    expects="the client ends the connection within 60 s, four heartbeat intervals",
    why="A half-open connection looks like a quiet market.",
)  # fmt: skip
async def silent_server(bench: ClientBench) -> None:
    """A server that has become silent is noticed."""
    waited_s = await _leaving_s(bench)
    text = f"{_EVER_S:g} s after the last byte from the server the client still held the connection"
    bench.require(waited_s is not None, "CM.silent-server", text)


@CLIENT.case(
    "C-CM-31", "timing", "CM.client-dead-limit", deadline_s=90,
    sends="a session, and then nothing at all: not even an answer to a ping. The TCP connection stays open",
    expects="the client ends the connection 20 s after the last byte, give or take 3 s",
    why="Earlier, a late ping of the server would end a good connection; later, prices stay old for longer.",
)  # fmt: skip
async def dead_limit(bench: ClientBench) -> None:
    """A server that has become silent is left after 20 s."""
    waited_s = await _leaving_s(bench)
    told = "not within 60 s" if waited_s is None else f"after {waited_s:.1f} s"
    fits = waited_s is not None and abs(waited_s - IDLE_TIMEOUT_S) <= _TOLERANCE_S
    bench.require(fits, "CM.client-dead-limit", f"the client left a silent server {told}, not after 20 s")


@CLIENT.case(
    "C-CM-32", "timing", "CM.any-frame-is-life", deadline_s=90,
    sends="a session, and then only a ping every 8 s, for 45 s; pings of the client are not answered",
    expects="the client stays",
    why="Any byte shows that the server lives.",
)  # fmt: skip
async def any_byte_is_life(bench: ClientBench) -> None:
    """A server that only sends pings is not left."""
    await bench.start()
    link = await bench.session()
    link.answers_pings = False
    loop = asyncio.get_running_loop()
    until_s = loop.time() + _STAY_S
    while loop.time() < until_s:
        await link.ping(b"life")
        try:
            await link.closing(min(_PING_S, until_s - loop.time()))
        except SilenceError:
            continue
        text = f"the client left after {loop.time() - link.opened_s:.0f} s, although there was a ping every 8 s"
        bench.fail("CM.any-frame-is-life", text, link.number)


@CLIENT.case(
    "C-CM-33", "core", "CM.client-pong",
    sends="three pings with different payloads",
    expects="a pong with the payload of the last one within 5 s (one pong may answer several pings)",
    why="A server takes a client that answers nothing for dead.",
)  # fmt: skip
async def pong(bench: ClientBench) -> None:
    """Pings are answered."""
    await bench.start()
    link = await bench.session()
    for number in range(3):
        await link.ping(f"conformance-{number}".encode())
    after = 0
    while True:
        try:
            control = await link.control(Opcode.PONG, 5, after=after)
        except SilenceError:
            bench.fail("CM.client-pong", "a ping was not answered within 5 s", link.number)
        if control.payload == b"conformance-2":
            return
        after = link.controls.index(control) + 1

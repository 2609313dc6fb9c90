"""CR: the connection requirements: size of messages, number of connections, time-outs."""

import asyncio
import contextlib
import json
import sys
from dataclasses import dataclass

from tokenwire_conformance.figures import CONNECTION_TIMEOUT_S, MAX_CONNECTIONS, MAX_MESSAGE_BYTES, REPLY_S, SLACK_S
from tokenwire_conformance.model import Violation
from tokenwire_conformance.server.bench import SERVER, Bench
from tokenwire_conformance.server.checkers import sizes
from tokenwire_conformance.server.over_run import judge_run
from tokenwire_conformance.server.peer import Answer, ConnectFailedError, Peer
from tokenwire_conformance.wire.frames import Opcode, encode_frame
from tokenwire_conformance.wire.messages import Received, shown
from tokenwire_conformance.wire.wire import EndedError, SilenceError, cut

__all__: list[str] = []

_MEGABYTE = 1_000_000  # below either meaning of the word
_BOMB_BYTES = 2 * MAX_MESSAGE_BYTES
_ENDLESS = 2**62
_GROUP = 50  # connections opened side by side
_FLOOD = 60  # more than the 50 that I-35 tells
_FREE_S = 10.0
_FILES = MAX_CONNECTIONS + 200


# --- size --------------------------------------------------------------------------------------------------
@SERVER.case(
    "S-CR-01", "limits", "CR.message-size-accepted",
    sends=f"a subscribe with one token, made {_MEGABYTE:,} bytes long by spaces behind it",
    expects="it is answered with success",
    why="1 MB is allowed, and spaces mean nothing in JSON.",
    deadline_s=30,
)  # fmt: skip
async def megabyte(bench: Bench) -> None:
    """A message of 1,000,000 bytes is accepted."""
    await _accepted(bench, _MEGABYTE, "CR.message-size-accepted")


@SERVER.case(
    "S-CR-02", "limits", "CR.megabyte",
    sends=f"a subscribe with one token, made {MAX_MESSAGE_BYTES:,} bytes long by spaces behind it",
    expects="it is answered with success",
    why="The limit itself is allowed, and MB means 2 to the power of 20 here.",
    deadline_s=30,
)  # fmt: skip
async def binary_megabyte(bench: Bench) -> None:
    """A message of 1,048,576 bytes is accepted."""
    await _accepted(bench, MAX_MESSAGE_BYTES, "CR.megabyte")


async def _accepted(bench: Bench, size: int, clause: str) -> None:
    peer = await bench.strict()
    await peer.send_text(_padded(peer, bench.tokens(1), size))
    answer = await peer.answer(_answered)
    told = "; ".join(m.brief() for m in answer.messages if m.type != "token_update")
    ending = f" ({peer.ending()})" if peer.ended_s is not None else ""
    bench.require(answer.accepted(), clause, f"{size} bytes were answered with {told or 'silence'}{ending}", peer)


@SERVER.case(
    "S-CR-03", "limits", "CR.oversize-not-served",
    sends=f"a subscribe with one token; then one with another, made {MAX_MESSAGE_BYTES + 1:,} bytes long by spaces",
    expects="the first is answered, the second not with success",
    why="A limit that is not kept protects nobody's memory.",
    deadline_s=30,
)  # fmt: skip
async def oversize_not_served(bench: Bench) -> None:
    """A message of more than 1 MB is not served."""
    peer, answer = await _oversize(bench, "CR.oversize-not-served")
    told = f"a message of {MAX_MESSAGE_BYTES + 1} bytes was answered with success"
    bench.require(not answer.accepted(), "CR.oversize-not-served", told, peer)


@SERVER.case(
    "S-CR-04", "limits", "CR.oversize-told",
    sends=f"a subscribe with one token; then one with another, made {MAX_MESSAGE_BYTES + 1:,} bytes long by spaces",
    expects="an error message MESSAGE_TOO_LARGE, and the connection is closed with 1009",
    why="A client that is told why can send smaller messages.",
    deadline_s=30,
)  # fmt: skip
async def oversize_told(bench: Bench) -> None:
    """A message of more than 1 MB is told, and closes with 1009."""
    peer, answer = await _oversize(bench, "CR.oversize-told")
    codes = answer.codes()
    bench.require("MESSAGE_TOO_LARGE" in codes, "CR.oversize-told", f"the codes told were {shown(codes)}", peer)
    code = await peer.closing(REPLY_S)
    bench.require(code == 1009, "CR.oversize-told", f"the connection ended with {code}", peer)


async def _oversize(bench: Bench, clause: str) -> tuple[Peer, Answer]:
    peer = await bench.strict()
    one, two = bench.tokens(2)
    before = await peer.subscribe([one])
    bench.require(before.of("subscription"), clause, "a request of normal size was not answered", peer)
    await peer.send_text(_padded(peer, [two], MAX_MESSAGE_BYTES + 1))
    return peer, await peer.answer(_answered)


@SERVER.case(
    "S-CR-05", "limits", "CR.oversize-told",
    sends="a subscribe with one token; then the beginning of a frame that announces 2 to the power of 62 bytes, and "
    "no more",
    expects="the connection is closed with 1009 within 5 s",
    why="What is announced can be judged before it comes; waiting for it would hold the connection for ever.",
    deadline_s=30,
)  # fmt: skip
async def endless_frame(bench: Bench) -> None:
    """A frame that announces an endless payload is refused at once."""
    peer = await bench.strict()
    before = await peer.subscribe(bench.tokens(1))
    bench.require(before.of("subscription"), "CR.oversize-told", "a normal request was not answered", peer)
    await peer.send_raw(encode_frame(Opcode.TEXT, b'{"type":', mask=True, declared_length=_ENDLESS))
    code = await peer.closing(REPLY_S)
    bench.require(code == 1009, "CR.oversize-told", f"the connection ended with {code}", peer)


@SERVER.case(
    "S-CR-06", "limits", "CR.oversize-inflated", "CR.oversize-not-served",
    sends=f"a subscribe with one token; then one with another, made {_BOMB_BYTES:,} bytes long by spaces and "
    "compressed to a few thousand",
    expects="the second is not answered with success, and the connection is closed with 1009",
    why="A few bytes must not cost the server megabytes.",
    deadline_s=30,
)  # fmt: skip
async def deflate_bomb(bench: Bench) -> None:
    """A compressed message that inflates beyond 1 MB is refused."""
    peer = await bench.strict()
    bench.need(peer.deflate is not None, "the server did not accept permessage-deflate")
    one, two = bench.tokens(2)
    before = await peer.subscribe([one])
    bench.require(before.of("subscription"), "CR.oversize-inflated", "a normal request was not answered", peer)
    await peer.send_text(_padded(peer, [two], _BOMB_BYTES), compressed=True)
    answer = await peer.answer(_answered)
    told = f"{_BOMB_BYTES} bytes, compressed, were answered with success"
    bench.require(not answer.accepted(), "CR.oversize-not-served", told, peer)
    code = await peer.closing(REPLY_S)
    bench.require(code == 1009, "CR.oversize-inflated", f"the connection ended with {code}", peer)


@SERVER.case(
    "S-CR-07", "limits", "CR.message-size-sent",
    sends="nothing of its own, unless no other case was run",
    expects=f"no message of the run has more than {MAX_MESSAGE_BYTES:,} bytes, inflated",
    why="A client that keeps to the limit would have to end the connection.",
    deadline_s=30, over_run=True,
)  # fmt: skip
async def sizes_sent(bench: Bench) -> None:
    """No message sent is larger than 1 MB."""
    await judge_run(bench, "CR.message-size-sent", sizes)


def _padded(peer: Peer, tokens: list[str], size: int) -> str:
    return json.dumps(peer.subscription("subscribe", tokens)).ljust(size)


def _answered(answer: Answer) -> bool:
    return bool(answer.of("subscription") or answer.of("error"))


# --- number of connections ---------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Try:
    """An attempt to connect."""

    peer: Peer | None
    first: Received | None
    failure: ConnectFailedError | None = None

    @property
    def admitted(self) -> bool:
        return self.first is not None and self.first.type == "connection" and (
            self.first.data.get("status") == "connected"
        )  # fmt: skip


async def _try(bench: Bench, *, answers_close: bool = True, told: bool = False) -> _Try:
    try:
        peer = await bench.connect(offer_deflate=False, timeout_s=2 * CONNECTION_TIMEOUT_S)
    except ConnectFailedError as error:
        return _Try(None, None, error)
    peer.answers_close = answers_close
    if not told:
        bench.untold.add(peer.number)
    first = None
    with contextlib.suppress(SilenceError, EndedError):
        first = await peer.hello(2 * CONNECTION_TIMEOUT_S)
    return _Try(peer, first)


@SERVER.case(
    "S-CR-08", "limits", "CR.max-connections", "CR.thousand-served", "CR.capacity-told", "CR.capacity-http",
    "CM.cleanup",
    sends=f"{MAX_CONNECTIONS} connections, then a few more; when one was refused, {_FLOOD} at once that do not finish "
    "their close handshakes; then one admitted connection closes and another breaks off, and two new ones come. No "
    "other case runs meanwhile",
    expects=f"{MAX_CONNECTIONS} are admitted (their first message is connection) and none more; the next gets an error "
    "message MAX_CONNECTIONS and is closed with 1013; of the many at once some get HTTP 503 with Retry-After; the two "
    "new ones are admitted within 10 s",
    why="The limit keeps an instance healthy, and has to be given back by each connection that ends.",
    deadline_s=120, alone=True,
)  # fmt: skip
async def thousand_connections(bench: Bench) -> None:
    """1000 connections are served, the next is not, and places are given back."""
    bench.need(_files_allowed(), f"needs {_FILES} open files for the process: raise the limit (ulimit -n)")
    await asyncio.sleep(SLACK_S)  # so that the connections of the cases before are gone
    admitted, refused = await _crowd(bench)
    # A server may make room by ending older ones.
    admitted = [peer for peer in admitted if not peer.is_left]
    count = len(admitted)
    told = f"{count} connections were admitted and open at once"
    bench.require(count <= MAX_CONNECTIONS, "CR.max-connections", told)
    _note(bench, count >= MAX_CONNECTIONS, "CR.thousand-served", f"{told}, the next was refused")
    if not admitted or refused is None:
        bench.fail("CR.thousand-served", told)
    await _told(bench, refused)
    await _flooded(bench)
    await admitted[0].close()
    await admitted[-1].abort()
    free = await _places(bench, 2)
    told = f"two connections ended, and {free} of two new ones were admitted within {_FREE_S:g} s"
    bench.require(free == 2, "CM.cleanup", told)


async def _crowd(bench: Bench) -> tuple[list[Peer], _Try | None]:
    """Connections until one is refused, at most a few more than the limit."""
    admitted: list[Peer] = []
    while len(admitted) < MAX_CONNECTIONS:
        group = min(_GROUP, MAX_CONNECTIONS - len(admitted))
        tries = await asyncio.gather(*(_try(bench) for _ in range(group)))
        admitted += [found.peer for found in tries if found.admitted and found.peer is not None]
        if any(not found.admitted for found in tries):
            break
    for _ in range(3):
        found = await _try(bench, told=True)
        if not found.admitted:
            return admitted, found
        if found.peer is not None:
            admitted.append(found.peer)
    return admitted, None


async def _told(bench: Bench, refused: _Try) -> None:
    """What the connection beyond the maximum was told."""
    if refused.peer is None:
        _note(bench, False, "CR.capacity-told", f"it was not completed: {refused.failure}")
        return
    first = refused.first
    fits = first is not None and first.type == "error" and first.data.get("code") == "MAX_CONNECTIONS"
    said = first.brief() if first else "nothing"
    _note(bench, fits, "CR.capacity-told", f"beyond the maximum came first: {said}", refused.peer)
    code: int | None = None
    with contextlib.suppress(SilenceError):
        code = await refused.peer.closing(REPLY_S)
    _note(bench, code == 1013, "CR.capacity-told", f"beyond the maximum the connection ended with {code}", refused.peer)


async def _flooded(bench: Bench) -> None:
    """What many refused at once are told."""
    flood = await asyncio.gather(*(_try(bench, answers_close=False) for _ in range(_FLOOD)))
    answers = [found.failure.response for found in flood if found.failure and found.failure.response]
    fits = any(answer.status == 503 and answer.header("retry-after") for answer in answers)
    told = f"of {_FLOOD} refused at once none got HTTP 503 with Retry-After, {len(answers)} another HTTP answer"
    _note(bench, fits, "CR.capacity-http", told)
    for found in flood:
        if found.peer is not None:
            await found.peer.abort()


async def _places(bench: Bench, wanted: int) -> int:
    """How many new connections, up to ``wanted``, are admitted in time."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + _FREE_S
    free = 0
    while free < wanted and loop.time() < deadline_s:
        if (await _try(bench)).admitted:
            free += 1
        else:
            await asyncio.sleep(0.25)
    return free


def _note(bench: Bench, holds: object, clause: str, message: str, peer: Peer | None = None) -> None:
    if not holds:
        bench.violations.append(Violation(clause, message, peer.number if peer else None))


def _files_allowed() -> bool:
    """Whether the process may open as many sockets; its own limit is raised as far as it goes."""
    if sys.platform == "win32":
        return True
    import resource  # noqa: PLC0415 - not there on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _FILES:
        wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted >= _FILES
    return True


# --- time-outs ---------------------------------------------------------------------------------------------
@SERVER.case(
    "S-CR-09", "timing", "CR.open-timeout-server",
    sends="on three TCP connections: nothing at all; half of an upgrade request and no more; an upgrade request of "
    "which one byte comes every half second",
    expects="the server ends each of them 5 s later",
    why="Openings that never end would otherwise fill the server without a single connection.",
    deadline_s=30,
)  # fmt: skip
async def opening_ends(bench: Bench) -> None:
    """An opening that is not completed is dropped after 5 s."""
    peer = await bench.strict()
    await peer.close()
    target = bench.facts.target
    request = f"GET {target.request_target('')} HTTP/1.1\r\nHost: {target.authority}\r\n".encode()
    limit_s = CONNECTION_TIMEOUT_S + 2 * SLACK_S
    results = await asyncio.gather(*(_opening(bench, *how) for how in ((b"", b""), (request, b""), (b"", request))))
    for what, spent_s in zip(("nothing", "half a request", "a request byte by byte"), results, strict=True):
        told = f"with {what} sent the server still held the connection after {limit_s:g} s"
        bench.expect(spent_s is not None, "CR.open-timeout-server", told)


async def _opening(bench: Bench, at_once: bytes, slowly: bytes) -> float | None:
    """Seconds until the server ended a TCP connection on which this was sent; ``None`` when it did not."""
    loop = asyncio.get_running_loop()
    target = bench.facts.target
    name = target.host if target.tls else None
    try:
        reader, writer = await asyncio.open_connection(target.host, target.port, ssl=target.tls, server_hostname=name)
    except OSError as error:  # SSL errors are OSErrors as well
        raise ConnectFailedError(f"no connection to {target.host}:{target.port}: {error.strerror or error}") from error
    begun_s = loop.time()

    async def drip() -> None:
        for byte in slowly:
            await asyncio.sleep(0.5)
            writer.write(bytes([byte]))

    dripping = asyncio.create_task(drip())
    try:
        writer.write(at_once)
        async with asyncio.timeout(CONNECTION_TIMEOUT_S + 2 * SLACK_S):
            with contextlib.suppress(OSError):
                while await reader.read(4096):
                    pass
        return loop.time() - begun_s
    except TimeoutError:
        return None
    finally:
        dripping.cancel()
        cut(writer)


@SERVER.case(
    "S-CR-10", "timing", "CR.close-timeout",
    sends="a binary message, and no answer to the close frame that comes for it",
    expects="the server ends the TCP connection within 5 s of its close frame",
    why="A peer that has gone does not finish its close handshake, and its place must not wait for it.",
    deadline_s=30,
)  # fmt: skip
async def closing_ends(bench: Bench) -> None:
    """A close handshake that the client does not finish is cut after 5 s."""
    peer = await bench.strict()
    peer.answers_close = False
    await peer.send_frame(Opcode.BINARY, b"\x00")
    try:
        await peer.closing(REPLY_S)
    except SilenceError:
        bench.need(False, "the server does not close for a binary message, and nothing else makes it close for sure")
    limit_s = CONNECTION_TIMEOUT_S + 2 * SLACK_S
    try:
        await peer.ended(limit_s)
    except SilenceError:
        bench.fail("CR.close-timeout", f"the connection was open {limit_s:g} s after the server's close frame", peer)

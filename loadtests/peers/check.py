"""Check that the peers do the benchmark's task: ``python -m loadtests.peers.check [NAME …]``.

Each installed peer is started with five tokens and a tick every 200 ms; three clients of two different sets verify
handshake, numbers, bodies, the grid, compression and how it stops. One that can't run is named with the reason.
"""

import argparse
import asyncio
import contextlib
import json
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from websockets.extensions import ClientExtensionFactory, Extension
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, PerMessageDeflate
from websockets.frames import Frame
from websockets.typing import ExtensionParameter

from loadtests.machine import free_port
from loadtests.peers.manifest import NAMES_HELP, PEERS, Compress, Peer, peer_named

INTERVAL_MS = 200
TICKS = 4
"""A client stops after messages of this many ticks."""
LIMIT_S = 20
"""Time for a peer to start, and for its clients to get their messages."""
STOP_S = 3
HEAD = '42["message",'
TOKENS = [f"{name:A<44}" for name in ("DOGE", "WIF", "BONK", "POPCAT", "MEW")]
SETS = [[0, 1, 2, 3, 4], [1, 3]]
CHANGED = [[0, 1, 2, 3, 4], [0, 2], [3, 1]]
"""Tokens that change in each tick: of the second one the clients of the second set get nothing."""


class CheckError(Exception):
    """A peer that does not do what it should, in one line."""


@dataclass(slots=True)
class Got:
    """What one client received."""

    messages: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    """Each with its arrival, CLOCK_MONOTONIC in ns."""
    negotiated: bool = False
    compressed: int = 0
    """Frames with RSV1 set."""


class NotingDeflate(Extension):
    """permessage-deflate that counts the frames it inflates."""

    name = PerMessageDeflate.name

    def __init__(self, inner: Extension, got: Got) -> None:
        self.inner, self.got = inner, got
        got.negotiated = True

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        self.got.compressed += frame.rsv1
        return self.inner.decode(frame, max_size=max_size)

    def encode(self, frame: Frame) -> Frame:
        return self.inner.encode(frame)


class Offer(ClientExtensionFactory):
    """Offers permessage-deflate as browsers do."""

    name = PerMessageDeflate.name

    def __init__(self, got: Got) -> None:
        self.inner, self.got = ClientPerMessageDeflateFactory(client_max_window_bits=True), got

    def get_request_params(self) -> Sequence[ExtensionParameter]:
        return self.inner.get_request_params()

    def process_response_params(self, params: Sequence[ExtensionParameter], accepted: Sequence[Extension]) -> Extension:
        return NotingDeflate(self.inner.process_response_params(params, accepted), self.got)


def update(token: int, tick: int) -> str:
    """About as long as a real update: 300 bytes; written as JSON.stringify would."""
    data = {"token": TOKENS[token], "price": 0.1234 + tick / 1000, "volume": 1234567 + token, "name": "x" * 200}
    return json.dumps(data, separators=(",", ":"))


def workload(kind: str) -> dict[str, Any]:
    return {
        "name": "check",
        "interval_ms": INTERVAL_MS,
        "kind": kind,
        "tokens": TOKENS,
        "sets": SETS,
        "ticks": [[[token, update(token, tick)] for token in changed] for tick, changed in enumerate(CHANGED)],
    }


def updates_of(tick: int, wanted: list[int]) -> list[str]:
    tick %= len(CHANGED)
    return [update(token, tick) for token in CHANGED[tick] if token in wanted]


async def line(stream: asyncio.StreamReader, what: str) -> str:
    try:
        text = (await asyncio.wait_for(stream.readline(), LIMIT_S)).decode().strip()
    except TimeoutError:
        raise CheckError(f"it did not print {what!r} within {LIMIT_S} s") from None
    if not text.startswith(what):
        raise CheckError(f"it printed {text[:80]!r} instead of {what!r}")
    return text


@contextlib.asynccontextmanager
async def served(peer: Peer, compress: Compress, kind: str) -> AsyncIterator[tuple[int, int]]:
    """The started peer: its port and the instant of tick 0. At the end it must stop by SIGTERM in time."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        path = Path(folder) / "workload.json"
        path.write_text(json.dumps(workload(kind)))
        process = await asyncio.create_subprocess_exec(
            *peer.argv(port, path, compress),
            cwd=peer.directory,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            try:
                await line(process.stdout, "listening")
                start = int((await line(process.stdout, "grid "))[5:])
            except CheckError as error:
                with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                    process.kill()
                said = (await process.stderr.read()).decode(errors="replace").strip()
                raise CheckError(f"{error}: {said.splitlines()[-1][:200]}" if said else str(error)) from None
            yield port, start
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), STOP_S)
            except TimeoutError:
                raise CheckError(f"it runs on {STOP_S} s after SIGTERM") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            await process.wait()
            process._transport.close()  # type: ignore[attr-defined]


async def subscribe(peer: Peer, connection: ClientConnection, wanted: list[int]) -> None:
    tokens = [TOKENS[token] for token in wanted]
    text = json.dumps({"type": "subscription", "data": {"action": "subscribe", "tokens": tokens}})
    if peer.dialect == "socketio":
        for expected, answer in (('0{"sid"', "40"), ('40{"sid"', f"{HEAD}{text}]")):
            received = await connection.recv()
            if not str(received).startswith(expected):
                raise CheckError(f"{received!r:.80} instead of {expected}")
            await connection.send(answer)
    else:
        await connection.send(text)


async def receive(peer: Peer, port: int, wanted: list[int], got: Got) -> ClientConnection:
    """Subscribe and read until enough ticks have come; the connection stays open."""
    path = "/socket.io/?EIO=4&transport=websocket" if peer.dialect == "socketio" else "/api/v1/ws/token-data"
    connection = await connect(
        f"ws://127.0.0.1:{port}{path}", compression=None, extensions=[Offer(got)], ping_interval=None, close_timeout=0.2
    )
    await subscribe(peer, connection, wanted)
    ticks = set[int]()
    while len(ticks) < TICKS:
        text = await connection.recv()
        arrived = time.monotonic_ns()
        if not isinstance(text, str):
            raise CheckError("a binary message")
        if peer.dialect == "socketio":
            if text == "2":
                await connection.send("3")
                continue
            if not text.startswith(HEAD) or not text.endswith("]"):
                raise CheckError(f"not a data message: {text[:80]!r}")
            text = text[len(HEAD) : -1]
        message = json.loads(text)
        got.messages.append((arrived, message))
        ticks.add(message["timestamp"])
    return connection


def judge(peer: Peer, kind: str, start: int, wanted: list[int], got: Got) -> None:
    """Numbers, bodies and the grid of one client."""
    numbers = [message["sequence"] for _, message in got.messages]
    first = numbers[0] if peer.easier else 1
    if numbers != list(range(first, first + len(numbers))):
        raise CheckError(f"numbers {numbers[:12]}, not {first}, {first + 1}, …")
    by_tick: dict[int, list[Any]] = {}
    for arrived, message in got.messages:
        tick = (arrived - start) // (INTERVAL_MS * 1_000_000)
        if message["type"] != ("token_batch" if kind == "batch" else "token_update"):
            raise CheckError(f"type {message['type']!r}")
        if abs(message["timestamp"] - time.time() * 1000) > 60_000:
            raise CheckError(f"timestamp {message['timestamp']}, which is not now in ms")
        if kind == "batch" and tick in by_tick:
            raise CheckError("two batches in a tick")
        by_tick.setdefault(tick, []).extend(message["data"]["updates"] if kind == "batch" else [message["data"]])
    if kind == "single":
        by_tick.pop(max(by_tick))  # it may be cut short
    for tick, updates in by_tick.items():
        expected = [json.loads(text) for text in updates_of(tick, wanted)]
        if updates != expected:
            tokens = [one.get("token", "")[:6].rstrip("A") for one in updates]
            raise CheckError(f"tick {tick} has updates of {tokens}, not those of the workload")


async def examine(peer: Peer, compress: Compress, kind: str) -> str:
    """What was found right, in a line; CheckError for what is wrong."""
    wanted = [SETS[0], SETS[0], SETS[1]]
    got = [Got() for _ in wanted]
    async with contextlib.AsyncExitStack() as stack, served(peer, compress, kind) as (port, start):
        try:
            async with asyncio.timeout(LIMIT_S):
                connections = await asyncio.gather(
                    *(receive(peer, port, one, into) for one, into in zip(wanted, got, strict=True))
                )
        except TimeoutError:
            raise CheckError(f"{[len(one.messages) for one in got]} messages within {LIMIT_S} s") from None
        except (WebSocketException, OSError, ValueError, KeyError, TypeError) as error:
            raise CheckError(f"{type(error).__name__}: {error}") from None
        for connection in connections:
            stack.push_async_callback(connection.close)
        for one, into in zip(wanted, got, strict=True):
            judge(peer, kind, start, one, into)
        if compress == "none" and any(one.negotiated for one in got):
            raise CheckError("it negotiated compression although it was told not to")
        if compress != "none" and kind == "batch":
            if not all(one.negotiated for one in got):
                raise CheckError("it did not take the offer of permessage-deflate")
            if not got[0].compressed:
                raise CheckError("no message of more than 1 KB came compressed")
    return f"{sum(len(one.messages) for one in got)} messages, {sum(one.compressed for one in got)} compressed"


def cases(peer: Peer) -> list[tuple[Compress, str]]:
    """What each peer is checked with: every mode with batches, and single messages."""
    return [*((mode, "batch") for mode in peer.modes), ("none", "single")]


def main() -> int:
    parser = argparse.ArgumentParser(description="Check that the peers do the benchmark's task (about 2 s a line).")
    parser.add_argument("peers", nargs="*", metavar="NAME", type=peer_named, help=NAMES_HELP)
    options = parser.parse_args()
    failed = 0
    for peer in options.peers or PEERS:
        if not peer.available():
            print(f"{peer.name}: not checked, {peer.why_not()}", flush=True)
            continue
        print(f"{peer.name}: {peer.versions()}", flush=True)
        for compress, kind in cases(peer):
            try:
                said = "right, " + asyncio.run(examine(peer, compress, kind))
            except CheckError as error:
                failed += 1
                said = f"WRONG: {error}"
            print(f"  {compress:<8} {kind:<7} {said}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

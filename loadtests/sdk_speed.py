"""How many token updates a second the SDK delivers on one core, beside a bare ``websockets`` and ``json`` loop.

``python -m loadtests.sdk_speed`` starts, on one core, a feeder that sends ``token_batch`` messages of 100 updates over
loopback as fast as they are read, each with its own sequence and every update with its next version; and on another
core, one after the other, clients that read them. What counts is the CPU time of the client's process per update, so
the feeder's own speed does not matter. A client that does not get every update, or gets one twice, is an error.

It is over in about a minute. Needs Linux (it pins processes to cores).
"""

import argparse
import asyncio
import base64
import contextlib
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

from loadtests.machine import apart

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

ROOT: Final = Path(__file__).parents[1]
TOKENS: Final = 100
FIRST: Final = 1_000_000  # numbers of one width, so that a message is one template
HEAP: Final = 262_144  # bytes that wait in the feeder's socket at most
TEMPLATES: Final = 16
GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
CAPABILITIES: Final = ("batch", "details", "heartbeat", "resume")
CLIENT_TIMEOUT_S: Final = 120


# --- what is sent ---------------------------------------------------------------------------------------------------


def addresses() -> list[str]:
    """100 addresses as they occur on the wire."""
    random = Random(5)
    return ["".join(random.choices(ALPHABET, k=44)) for _ in range(TOKENS)]


def templates() -> list[bytes]:
    """Messages whose sequence, and versions of all updates, are still ``%d``; each with prices of its own."""
    random = Random(6)
    return [_template(random) for _ in range(TEMPLATES)]


def _template(random: Random) -> bytes:
    updates = ",".join(
        f'{{"address":"{address}","price":"0.{random.randrange(10**7, 10**8)}1",'
        f'"marketCap":"{random.randrange(10**9)}","volume":{{"h24":"{random.randrange(10**7)}.5","h1":"{random.randrange(10**5)}","m5":"0"}},'
        f'"version":%d,"sourceTime":1764547204875}}'
        for address in addresses()
    )
    head = '{"type":"token_batch","sequence":%d,"timestamp":1764547205000,"data":{"updates":['
    return (head + updates + "]}}").encode()


def framed(text: bytes, opcode: int = 1) -> bytes:
    """One unmasked WebSocket frame."""
    size = len(text)
    if size < 126:
        return bytes([0x80 | opcode, size]) + text
    if size < 65_536:
        return bytes([0x80 | opcode, 126]) + size.to_bytes(2, "big") + text
    return bytes([0x80 | opcode, 127]) + size.to_bytes(8, "big") + text


async def _handshake(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    request = await reader.readuntil(b"\r\n\r\n")
    fields = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(b":") for line in request.split(b"\r\n")[1:])
    }
    accept = base64.b64encode(hashlib.sha1(fields[b"sec-websocket-key"] + GUID).digest())
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )


async def _request(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The next frame of the client: opcode and text."""
    first, second = await reader.readexactly(2)
    size = second & 0x7F
    if size > 125:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
    mask = await reader.readexactly(4)
    data = await reader.readexactly(size)
    whole = (mask * (size // 4 + 1))[:size]
    return first & 15, (int.from_bytes(data, "big") ^ int.from_bytes(whole, "big")).to_bytes(size, "big")


async def feed(messages: int) -> None:
    """Serves one client after the other, ``messages`` messages each; prints its port first, and ends with its input."""
    made = templates()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            writer.transport.set_write_buffer_limits(high=HEAP)
            await _handshake(reader, writer)
            hello = {
                "status": "connected", "connectionId": "f30104da-a116-406a-8f0d-b2caf2444da6",
                "maxSubscriptions": 1000, "capabilities": CAPABILITIES, "session": "q0T3h1vJ7cXwYb2mZk9LrA",
                "resumed": False, "subscriptions": [], "stream": "m1x7",
            }  # fmt: skip
            writer.write(_told("connection", FIRST, hello))
            opcode, text = await _request(reader)
            while opcode != 1 or b'"subscribe"' not in text:
                opcode, text = await _request(reader)
            asked = json.loads(text)["data"]
            answer = {"action": "subscribe", "tokens": asked["tokens"], "status": "success", "active": TOKENS}
            writer.write(_told("subscription", FIRST + 1, answer | {"requestId": asked["requestId"]}))
            for number in range(messages):
                numbers = (FIRST + 2 + number, *(FIRST + number,) * TOKENS)
                writer.write(framed(made[number % TEMPLATES] % numbers))
                await writer.drain()
            while (await _request(reader))[0] != 8:
                pass
            writer.write(framed(b"\x03\xe8", 8))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await asyncio.to_thread(sys.stdin.buffer.read)


def _told(kind: str, sequence: int, data: dict[str, Any]) -> bytes:
    return framed(json.dumps({"type": kind, "sequence": sequence, "timestamp": 1764547205000, "data": data}).encode())


# --- what reads it --------------------------------------------------------------------------------------------------


class Meter:
    """CPU time of this process from the ``skipped``-th update on."""

    def __init__(self, updates: int) -> None:
        self.updates = updates
        self.skipped = min(updates // 10, 20_000)
        self.counted = 0
        self._begun = False
        self._cpu_s = self._wall_s = 0.0

    def is_full(self) -> bool:
        """Whether enough were counted; to be asked after each message."""
        if not self._begun and self.counted >= self.skipped:
            self._begun = True
            self._cpu_s, self._wall_s = time.process_time(), time.perf_counter()
            self.skipped = self.counted
        return self.counted >= self.updates

    def result(self) -> dict[str, float]:
        """Figures of what was counted since."""
        cpu_s, wall_s = time.process_time() - self._cpu_s, time.perf_counter() - self._wall_s
        updates = self.counted - self.skipped
        return {"updates": updates, "us": cpu_s / updates * 1e6, "per_s": updates / cpu_s, "busy": cpu_s / wall_s}


@contextlib.asynccontextmanager
async def _subscribed(url: str) -> "AsyncIterator[ClientConnection]":
    from websockets.asyncio.client import connect  # the feeder and the SDK are measured without it

    async with connect(url) as socket:
        subscription = {"action": "subscribe", "tokens": addresses(), "requestId": "r"}
        await socket.send(json.dumps({"type": "subscription", "data": subscription}))
        yield socket


async def frames(url: str, meter: Meter) -> dict[str, float]:
    """``websockets`` alone, no message is looked into: what no client over this package can do without."""
    async with _subscribed(url) as socket:
        for _ in range(2):
            await socket.recv()
        async for _ in socket:
            meter.counted += TOKENS
            if meter.is_full():
                return meter.result()
    raise AssertionError("the feeder ended early")


async def bare(url: str, meter: Meter) -> dict[str, float]:
    """``websockets`` and ``json``, nothing checked."""
    async with _subscribed(url) as socket:
        async for text in socket:
            message = json.loads(text)
            if message["type"] == "token_batch":
                for update in message["data"]["updates"]:
                    if update["price"]:
                        meter.counted += 1
                if meter.is_full():
                    return meter.result()
    raise AssertionError("the feeder ended early")


async def events(url: str, meter: Meter) -> dict[str, float]:
    """The SDK, ``async for event in client``."""
    from tokenwire import Gap, Snapshot, TokenClient, Update

    async with TokenClient(url, capabilities=CAPABILITIES) as client:
        await client.subscribe(addresses())
        async for event in client:
            if isinstance(event, Update | Snapshot):
                if event.quote.price:
                    meter.counted += 1
                if meter.is_full():
                    result = meter.result()
                    _check(client.metrics, meter)
                    return result
            elif isinstance(event, Gap):
                raise AssertionError(f"{event}")
    raise AssertionError("the feeder ended early")


def _check(metrics: Any, meter: Meter) -> None:
    found = (metrics.conflated_in_client, metrics.duplicates, metrics.gaps, metrics.stale_versions)
    if any(found) or metrics.invalid_messages:
        raise AssertionError(f"{metrics}")
    if meter.counted != metrics.updates:
        raise AssertionError(f"{meter.counted} of {metrics.updates} updates")


NAMES: Final = {
    "frames": "`websockets`, messages not looked into",
    "bare": "`websockets` and `json.loads`",
    "sdk": "`async for event in TokenClient(…)`",
}
CLIENTS: Final[dict[str, Callable[[str, Meter], Awaitable[dict[str, float]]]]] = {
    "frames": frames,
    "bare": bare,
    "sdk": events,
}


def read(kind: str, port: int, updates: int, profile: str | None) -> None:
    """Runs one client and prints its figures."""

    async def run() -> dict[str, float]:
        return await CLIENTS[kind](f"ws://127.0.0.1:{port}", Meter(updates))

    if profile is None:
        print(json.dumps(asyncio.run(run())))
        return
    import cProfile

    profiler = cProfile.Profile()
    result = profiler.runcall(asyncio.run, run())
    profiler.dump_stats(profile)
    print(json.dumps(result))


# --- the comparison -------------------------------------------------------------------------------------------------


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "loadtests.sdk_speed", *arguments]


def _measure(kind: str, port: int, updates: int, core: int) -> dict[str, float]:
    try:
        done = _client(kind, port, updates, core)
    except subprocess.TimeoutExpired:
        raise SystemExit(
            f"sdk_speed: the client {kind!r} took longer than {CLIENT_TIMEOUT_S} s: fewer --updates"
        ) from None
    if done.returncode:
        raise SystemExit(f"sdk_speed: the client {kind!r} failed: {done.stderr.strip().splitlines()[-1]}")
    result: dict[str, float] = json.loads(done.stdout)
    return result


def _client(kind: str, port: int, updates: int, core: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command("--role", kind, "--port", str(port), "--updates", str(updates), "--core", str(core)),
        capture_output=True, text=True, timeout=CLIENT_TIMEOUT_S, check=False, cwd=ROOT,
    )  # fmt: skip


def compare(updates: int, rounds: int, path: Path | None) -> None:
    """All kinds of client in turn, forth and back, and their medians."""
    core, others = apart()
    feeder = subprocess.Popen(
        _command("--role", "feeder", "--updates", str(updates), "--core", str(others[-1] if others else core)),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )  # fmt: skip
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in CLIENTS}
    try:
        assert feeder.stdout is not None
        port = int(feeder.stdout.readline())
        for number in range(rounds):
            for kind in CLIENTS if number % 2 == 0 else reversed(CLIENTS):
                found[kind].append(_measure(kind, port, updates, core))
                print(f"round {number + 1}, {kind}: {found[kind][-1]['per_s']:,.0f} updates/s", file=sys.stderr)
    finally:
        feeder.kill()
        feeder.wait()
    base = statistics.median(result["us"] for result in found["bare"])
    print("| client | updates/s on one core | us per update | least to most | to bare |\n|---|---|---|---|---|")
    rows = []
    for kind, results in found.items():
        costs = sorted(result["us"] for result in results)
        cost = statistics.median(costs)
        spread = f"{costs[0]:.2f} to {costs[-1]:.2f}"
        print(f"| {NAMES[kind]} | {1e6 / cost:,.0f} | {cost:.2f} | {spread} | {cost / base:.2f} |")
        rows.append({"client": kind, "per_s": 1e6 / cost, "us": cost, "ratio": cost / base, "rounds": results})
    if path is not None:
        path.write_text(json.dumps({"updates": updates, "batch": TOKENS, "rows": rows}, indent=1) + "\n", "utf-8")


def _is_writable(path: Path) -> bool:
    if path.exists():
        return path.is_file() and os.access(path, os.W_OK)
    return path.parent.is_dir() and os.access(path.parent, os.W_OK)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.sdk_speed", description=__doc__)
    parser.add_argument("--updates", type=int, default=400_000, help="token updates for each client and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--role", choices=("feeder", *CLIENTS), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--profile", metavar="FILE", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.updates < TOKENS or given.rounds < 1:
        parser.error(f"at least {TOKENS} updates and one round")
    if not hasattr(os, "sched_setaffinity"):
        parser.error("it needs Linux: it pins processes to cores")
    if given.json is not None and not _is_writable(given.json):
        parser.error(f"--json {given.json}: no file can be written there")  # now, not after a minute
    if given.core is not None:
        os.sched_setaffinity(0, {given.core})
    with contextlib.suppress(KeyboardInterrupt):
        if given.role is None:
            compare(given.updates, given.rounds, given.json)
        elif given.role == "feeder":
            asyncio.run(feed(-(-given.updates // TOKENS)))
        else:
            read(given.role, given.port, given.updates, given.profile)


if __name__ == "__main__":
    main()

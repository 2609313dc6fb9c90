"""What clients that never read cost the others: ``python -m loadtests.dead_readers``.

Two runs against a server of its own on loopback: 100 clients that read, then the same with five more that subscribe,
send pings and never read a byte. Printed for both: how long an update takes from the server's clock to the reader
(one machine, one clock), how many updates came, and the growth of the server's resident memory.
"""

import argparse
import asyncio
import contextlib
import json
import math
import signal
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from websockets.asyncio.client import ClientConnection, connect

from loadtests.faults.process import ServedProcess
from loadtests.faults.served import symbol

__all__ = ["Figures", "measure"]

_PATH = "/api/v1/ws/token-data?caps=batch,resume,details"
_TOKENS = 100
_CATCH_UP_S = 0.5  # in which readers read what came while others still connected
_PATIENCE_S = 60.0  # for the update that ends the run
_LEAST_S = 2


@dataclass(frozen=True)
class Figures:
    """One run: latencies in ms, updates each client got of those made in the same time, growth of memory in bytes."""

    p50_ms: float
    p99_ms: float
    fewest: int
    most: int
    growth_bytes: int

    def __str__(self) -> str:
        return (
            f"p50 {self.p50_ms:6.1f} ms  p99 {self.p99_ms:6.1f} ms  "
            f"updates each {self.fewest}-{self.most}  memory +{self.growth_bytes / 1024:.0f} KiB"
        )


async def measure(healthy: int, dead: int, seconds: float) -> Figures:
    """One run with so many clients of each kind."""
    with tempfile.TemporaryDirectory() as folder:
        server = ServedProcess(Path(folder) / "truth.jsonl", tokens=_TOKENS, max_connections=healthy + dead)
        await server.start()
        try:
            url = f"ws://127.0.0.1:{server.port}{_PATH}"
            async with contextlib.AsyncExitStack() as stack:
                for _ in range(dead):
                    await stack.enter_async_context(_dead(url))
                readers = [await stack.enter_async_context(connect(url, compression=None)) for _ in range(healthy)]
                for reader in readers:
                    await _subscribe(reader)
                before = server.resident_bytes()
                begin_ms = time.time_ns() / 1e6 + _CATCH_UP_S * 1e3
                end_ms = begin_ms + seconds * 1e3
                try:
                    async with asyncio.timeout(_CATCH_UP_S + seconds + _PATIENCE_S):
                        samples = await asyncio.gather(*(_read(reader, begin_ms, end_ms) for reader in readers))
                except TimeoutError:
                    raise SystemExit(f"dead_readers: a reader got no update for {_PATIENCE_S:g} s") from None
                growth = server.resident_bytes() - before
        finally:
            await server.end(signal.SIGKILL)
    latencies = sorted(latency for sample in samples for latency in sample)
    counts = [len(sample) for sample in samples]
    if len(latencies) < 2:
        raise SystemExit("dead_readers: hardly an update came; take more --seconds")
    cuts = statistics.quantiles(latencies, n=100)
    return Figures(cuts[49], cuts[98], min(counts), max(counts), growth)


@contextlib.asynccontextmanager
async def _dead(url: str) -> AsyncIterator[ClientConnection]:
    """A client that subscribes and never reads, but shows life, so that only its not reading can be its end."""
    async with connect(url, compression=None, ping_interval=None, close_timeout=0) as client:
        await _subscribe(client)
        client.transport.pause_reading()
        task = asyncio.create_task(_ping(client))
        try:
            yield client
        finally:
            task.cancel()
            client.transport.abort()


async def _ping(client: ClientConnection) -> None:
    with contextlib.suppress(Exception):
        while True:
            await asyncio.sleep(1)
            await client.pong()


async def _subscribe(client: ClientConnection) -> None:
    names = [symbol(number) for number in range(_TOKENS)]
    await client.send(json.dumps({"type": "subscription", "data": {"action": "subscribe", "tokens": names}}))


async def _read(client: ClientConnection, begin_ms: float, end_ms: float) -> list[float]:
    """Latencies of the updates that the server made between these times, read until there is a later one."""
    latencies: list[float] = []
    expected = None
    while True:
        message = json.loads(await client.recv())
        assert expected is None or message["sequence"] == expected, "a hole"
        expected = message["sequence"] + 1
        if message["type"] == "token_batch":
            if message["timestamp"] >= end_ms:
                return latencies
            if message["timestamp"] >= begin_ms:
                latencies.append(time.time_ns() / 1e6 - message["timestamp"])


async def _main(options: argparse.Namespace) -> None:
    for dead in (0, options.dead, 0, options.dead):
        figures = await measure(options.healthy, dead, options.seconds)
        print(f"{options.healthy} readers, {dead} dead:  {figures}", flush=True)


def main() -> None:
    """Two rounds of both runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--healthy", type=int, default=100)
    parser.add_argument("--dead", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    if options.healthy < 1 or options.dead < 0:
        parser.error("--healthy is at least 1, --dead at least 0")
    if not (math.isfinite(options.seconds) and options.seconds >= _LEAST_S):
        parser.error(f"--seconds is at least {_LEAST_S}: fewer updates make no figures")
    asyncio.run(_main(options))


if __name__ == "__main__":
    main()

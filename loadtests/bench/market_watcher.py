"""Real clients of M5 beside the sink: each reads every message and knows which trade comes next.

``python -m loadtests.bench.market_watcher --port P --path PATH --clients N [--subscribe TEXT]``. Prints ``ready`` when
all are connected; on ``measure FIRST_NS RATE BEGIN_NS END_NS`` (trade *n* is planned at FIRST_NS + n / RATE) it listens
until END_NS and prints a JSON line. Decoding is that of the ``websockets`` package.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from loadtests.bench.market_server import number_of
from loadtests.bench.orders import line

__all__ = ["Watcher", "judge"]

BURST_NS: Final = 4_000_000
"""Messages that come closer together than this were written together."""


class Watcher:
    """One connection: when each message came, and the trades in it."""

    def __init__(self) -> None:
        self.arrivals: list[tuple[int, list[int]]] = []
        self.fault = ""

    async def run(self, url: str, subscribe: str, connected: asyncio.Event) -> None:
        """Read until cancelled."""
        try:
            async with connect(url, compression=None, max_size=None, ping_interval=None, proxy=None) as socket:
                if subscribe:
                    await socket.send(subscribe)
                connected.set()
                await self._read(socket)
        except (ConnectionClosed, OSError, ValueError, KeyError) as error:
            self.fault = f"a watcher: {error!r}"
        finally:
            connected.set()

    async def _read(self, socket: ClientConnection) -> None:
        async for message in socket:
            at_ns = time.monotonic_ns()
            trades = trades_in(json.loads(message))
            if trades:
                self.arrivals.append((at_ns, trades))


def trades_in(message: dict[str, Any]) -> list[int]:
    """The numbers of the trades in a message."""
    if message["type"] == "transaction":
        return [number_of(message["data"]["price"])]
    if message["type"] == "transaction_batch":
        return [number_of(each["price"]) for each in message["data"]["transactions"]]
    return []


def judge(watchers: Sequence[Watcher], first_ns: int, rate: float, begin_ns: int, end_ns: int) -> dict[str, Any]:
    """What came within the window: of the median watcher the trades, messages and writes; all delays; a fault, if a
    trade was missing, came twice or out of order."""
    fault = next((watcher.fault for watcher in watchers if watcher.fault), "")
    delays_us: list[int] = []
    counts: list[tuple[int, int, int]] = []
    for watcher in watchers:
        inside = [(at, numbers) for at, numbers in watcher.arrivals if begin_ns <= at < end_ns]
        everything = [number for _, numbers in watcher.arrivals for number in numbers]
        if everything != list(range(everything[0], everything[0] + len(everything))) if everything else True:
            fault = fault or "a watcher did not get every trade once, in order"
        delays_us += [(at - first_ns - int(n / rate * 1e9)) // 1000 for at, numbers in inside for n in numbers]
        writes = sum(1 for one, other in zip([(0, []), *inside], inside, strict=False) if other[0] - one[0] > BURST_NS)
        counts.append((sum(len(numbers) for _, numbers in inside), len(inside), writes))
    trades, messages, writes = (statistics.median(each) for each in zip(*counts, strict=True))
    return {"fault": fault, "trades": trades, "messages": messages, "writes": writes, "delays_us": delays_us}


async def main() -> None:
    """Obey the lines of standard input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--subscribe", default="", help="the first message of each")
    chosen = parser.parse_args()
    watchers = [Watcher() for _ in range(chosen.clients)]
    events = [asyncio.Event() for _ in watchers]
    url = f"ws://127.0.0.1:{chosen.port}{chosen.path}"
    tasks = [
        asyncio.create_task(watcher.run(url, chosen.subscribe, event))
        for watcher, event in zip(watchers, events, strict=True)
    ]
    await asyncio.gather(*(event.wait() for event in events))
    print("ready", flush=True)
    words = (await line()).split()
    if len(words) == 5:
        first_ns, rate, begin_ns, end_ns = int(words[1]), float(words[2]), int(words[3]), int(words[4])
        await asyncio.sleep((end_ns - time.monotonic_ns()) / 1e9 + 0.1)
        print(json.dumps(judge(watchers, first_ns, rate, begin_ns, end_ns)), flush=True)
        await line()
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(130)

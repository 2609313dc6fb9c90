"""Real clients beside the sink, which decode everything and compare it with the workload.

``python -m loadtests.bench.checker --port P --workload FILE --numbers 0,1,… [--query Q] [--deflate] [--dialect D]``.
Prints ``loaded``; on ``connect`` it connects and prints ``ready``; on ``measure FIRST FIRST_NS INTERVAL_NS TICKS`` it
receives until the window is over, judges, and prints a JSON line. Decoding is that of the ``websockets`` package and,
for the zstd capability, of schemas/README.md.
"""

import argparse
import asyncio
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import zstandard
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from loadtests.bench.oracle import Arrival, Window, merge, verify
from loadtests.bench.orders import line
from loadtests.bench.workloads import Workload, parse, subscribe_text

PATH = "/api/v1/ws/token-data"
SOCKETIO_PATH = "/socket.io/?EIO=4&transport=websocket"
SOCKETIO_HEAD = '42["message",'
MAX_WINDOW_BYTES = 8_388_608


class Zstd:
    """Binary messages: flag, length of head (2 bytes), of body (4), the head in clear, the body's Zstandard data."""

    def __init__(self) -> None:
        self._stream = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()

    def text(self, message: bytes) -> str:
        if message[0] == 0:
            self._stream = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()
        head_end = 7 + int.from_bytes(message[1:3], "big")
        body: bytes = self._stream.decompress(message[head_end:])
        if len(body) != int.from_bytes(message[3:7], "big"):
            raise ValueError("a body has not the length that was stated")
        text = message[7:head_end] + body
        return text.decode()


class Client:
    """One connection: everything it got, in order. ``fault`` is set when it can't be decoded."""

    def __init__(self, workload: Workload, number: int, dialect: str) -> None:
        self.number = number
        self.arrivals: list[Arrival] = []
        self.fault = ""
        self._workload = workload
        self._dialect = dialect
        self._zstd = Zstd()

    async def run(self, url: str, deflate: bool, subscribed: asyncio.Event) -> None:
        compression = "deflate" if deflate else None
        try:
            async with connect(url, compression=compression, max_size=None, ping_interval=None, proxy=None) as socket:
                if self._dialect == "socketio":
                    await socket.recv()
                    await socket.send("40")
                    await socket.recv()
                await socket.send(self._subscription())
                subscribed.set()
                await self._receive(socket)
        except (ConnectionClosed, OSError) as error:
            self.fault = f"a checking client lost its connection: {error}"
        except ValueError as error:
            self.fault = f"a message can't be decoded: {error}"
        finally:
            subscribed.set()

    def _subscription(self) -> str:
        text = subscribe_text(self._workload, self.number % len(self._workload.sets))
        return f"{SOCKETIO_HEAD}{text}]" if self._dialect == "socketio" else text

    async def _receive(self, socket: ClientConnection) -> None:
        async for message in socket:
            at_ns = time.monotonic_ns()
            text = message if isinstance(message, str) else self._zstd.text(message)
            if self._dialect == "socketio":
                if text == "2":
                    await socket.send("3")
                if not text.startswith(SOCKETIO_HEAD):
                    continue
                text = text[len(SOCKETIO_HEAD) : -1]
            self.arrivals.append((at_ns, text))


async def main() -> None:
    """Obey the lines of standard input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workload", type=Path, required=True)
    parser.add_argument("--numbers", required=True, help="numbers of the connections, which tell what they hold")
    parser.add_argument("--query", default="")
    parser.add_argument("--deflate", action="store_true")
    parser.add_argument("--dialect", default="websocket")
    chosen = parser.parse_args()
    workload = parse(chosen.workload.read_text(encoding="utf-8"))
    path = SOCKETIO_PATH if chosen.dialect == "socketio" else PATH + chosen.query
    clients = [Client(workload, int(number), chosen.dialect) for number in chosen.numbers.split(",")]
    print("loaded", flush=True)
    if await line() != "connect":
        return
    events = [asyncio.Event() for _ in clients]
    tasks = [
        asyncio.create_task(client.run(f"ws://127.0.0.1:{chosen.port}{path}", chosen.deflate, event))
        for client, event in zip(clients, events, strict=True)
    ]
    await asyncio.gather(*(event.wait() for event in events))
    print("ready", flush=True)
    command = (await line()).split()
    if len(command) == 5 and command[0] == "measure":
        window = Window(*(int(word) for word in command[1:]))
        await asyncio.sleep((window.end_ns - time.monotonic_ns()) / 1e9 + 0.05)
        verdict = merge([verify(workload, c.number, c.arrivals, window) for c in clients])
        fault = next((client.fault for client in clients if client.fault), verdict.mismatch)
        print(json.dumps({**asdict(verdict), "mismatch": fault}), flush=True)
        await line()
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(130)

"""What an idle, subscribed connection costs the server in memory: ``python loadtests/footprint.py``.

Starts a server of its own on loopback, opens connections in batches (with and without permessage-deflate
offered, as browsers do), subscribes each to one token, and divides the growth of the server's RSS. Then closes
them, opens as many again, and shows that memory comes back.
"""

import argparse
import asyncio
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

PATH = "/api/v1/ws/token-data"
FORGET_S = 22  # the timer wheel remembers a closed connection (without its socket) for a heartbeat
SUBSCRIBE = b'{"type":"subscription","data":{"action":"subscribe","tokens":["DOGE"]}}'


def rss_kib(pid: int) -> int:
    """Resident memory of a process in KiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+)", status)
    assert found is not None
    return int(found[1])


async def open_one(port: int, deflate: bool) -> asyncio.StreamWriter:
    """Connect, subscribe, and wait for the first value; what follows is left unread until the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n" if deflate else ""
    writer.write(
        f"GET {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{offer}\r\n".encode()
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 101 " in head, head
    assert (b"permessage-deflate" in head) is deflate
    writer.write(bytes((0x81, 0x80 | len(SUBSCRIBE))) + bytes(4) + SUBSCRIBE)
    await reader.readuntil(b"token_update")
    return writer


async def open_many(port: int, count: int, deflate: bool) -> list[asyncio.StreamWriter]:
    """Open connections, 100 at a time."""
    writers: list[asyncio.StreamWriter] = []
    while len(writers) < count:
        batch = min(100, count - len(writers))
        writers += await asyncio.gather(*(open_one(port, deflate) for _ in range(batch)))
    return writers


async def measure(pid: int, port: int, count: int) -> None:
    """Print the cost per connection, with and without deflate offered, and what remains afterwards."""
    await asyncio.gather(*(w.drain() for w in await open_many(port, 50, True)))
    base = rss_kib(pid)
    print(f"server RSS with 50 connections: {base / 1024:.1f} MiB")
    for deflate in (False, True, False):
        before = rss_kib(pid)
        writers = await open_many(port, count, deflate)
        await asyncio.sleep(1)
        after = rss_kib(pid)
        print(
            f"{count} connections, deflate {'offered' if deflate else 'not offered'}: "
            f"{(after - base) / count:.2f} KiB each above the start ({(after - before) / count:+.2f} above before)"
        )
        for writer in writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
        await asyncio.sleep(FORGET_S)
        print(f"  after closing them: {(rss_kib(pid) - base) / 1024:+.1f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=5000)
    parser.add_argument("--port", type=int, default=18093)
    chosen = parser.parse_args()
    needed = chosen.connections + 200
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, max(needed, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
    command = [sys.executable, "-m", "tokenwire_server", "run", "--port", str(chosen.port), "--drain", "0"]
    command += ["--max-connections", str(needed), "--update-interval", "3600", "--log-level", "warning"]
    # A quiet market: what its history takes is not what a connection costs.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env={**os.environ, "TOKENWIRE_SIMULATOR_RATE": "0.01"}
    ) as server:
        assert server.stdout is not None
        server.stdout.readline()
        try:
            asyncio.run(measure(server.pid, chosen.port, chosen.connections))
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(20)


if __name__ == "__main__":
    main()

"""CPU per message of one small update to 1000 connections, beside a C loop of send(): ``make bench-fanout``.

Ours and the floor take turns (ABBA) on the same core with the same sink on another; each message of ours carries
its own sequence. Both send the same number of bytes at the same rate. Prints the median ratio of the rounds.
"""

import argparse
import asyncio
import os
import re
import statistics
import subprocess
import sys
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenwire_server.ports import Sink

PORT = 18094
TICKS_PER_S = 20
HERE = Path(__file__).parent


class OneToken:
    """A token that changes before every tick, with a value as long as a real one's."""

    name = "one"
    cadence_ms = 60_000

    async def run(self, sink: "Sink") -> None:
        from tokenwire_server.market.trades import Side, TokenInfo, Trade
        from tokenwire_server.ports import SourceState

        address = "DezXAZ8z7PnrnRJjz3wXBoRgixCa6xjnB263bDogeDog"
        sink.tokens(self.name, [TokenInfo(address, "DOGE", supply=Decimal(88770097830))])
        sink.state(self.name, SourceState.LIVE)
        time_ms = 1_700_000_000_000
        for number in range(10**9):
            sink.clock(self.name, time_ms + number * 25)
            price = Decimal("0.1234") + Decimal(number % 1000).scaleb(-7)
            sink.trades(
                self.name,
                [Trade(address, str(number), price, Decimal("1234.5"), Side.BUY, time_ms + number * 25)],
            )
            await asyncio.sleep(0.5 / TICKS_PER_S)


async def serve() -> None:
    """Serve one changing token, with defaults otherwise."""
    from tokenwire_server.app import running
    from tokenwire_server.settings import Settings
    from tokenwire_server.telemetry.logs import configure_logging

    configure_logging("warning")
    settings = Settings(port=PORT, max_connections=5000, update_interval_s=1 / TICKS_PER_S, drain_s=0)
    async with running(settings, [OneToken()], handle_signals=True) as started:
        print("listening", flush=True)
        await started.server.finished.wait()


def cpu_s(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pinned(core: int, *command: str) -> subprocess.Popen[str]:
    """Start a command on one core."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    os.sched_setaffinity(process.pid, {core})
    return process


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def ours(tool: str, connections: int, seconds: float) -> tuple[float, int]:
    """CPU microseconds per message, idle cost taken off, and bytes per message."""
    server = pinned(0, sys.executable, __file__, "--serve")
    try:
        assert line(server) == "listening\n"
        begin = cpu_s(server.pid)
        subprocess.run(["sleep", str(seconds)], check=True)
        idle = cpu_s(server.pid) - begin
        sink = pinned(1, tool, "sink", str(PORT), str(connections), str(seconds + 2))
        assert line(sink).startswith("connected")
        subprocess.run(["sleep", "2"], check=True)
        begin = cpu_s(server.pid)
        subprocess.run(["sleep", str(seconds)], check=True)
        busy = cpu_s(server.pid) - begin
        found = re.match(r"sink bytes=(\d+) reads=(\d+) cpu=([\d.]+)", line(sink))
        assert found is not None
        size = round(int(found[1]) / int(found[2]))
        if float(found[3]) > 0.85:
            raise SystemExit(f"invalid: the sink used {float(found[3]):.0%} of its core")
        expected = seconds * TICKS_PER_S * connections
        seen = int(found[1]) / size * seconds / (seconds + 2)
        if not 0.97 < seen / expected < 1.03:
            raise SystemExit(f"invalid: {seen:.0f} messages of {expected:.0f} arrived")
        return (busy - idle) * 1e6 / expected, size
    finally:
        server.terminate()
        server.wait(20)


def floor(tool: str, connections: int, seconds: float, size: int) -> float:
    """CPU microseconds per message of the C loop."""
    server = pinned(0, tool, "floor", str(PORT), str(connections), str(seconds), str(TICKS_PER_S), str(size))
    line(server)
    sink = pinned(1, tool, "sink", str(PORT), str(connections), str(seconds))
    found = re.search(r"us_per_message=([\d.]+)", line(server))
    assert found is not None
    sink.wait(30)
    server.wait(30)
    return float(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        import uvloop

        uvloop.run(serve())
        return
    with tempfile.TemporaryDirectory() as folder:
        tool = str(Path(folder) / "fanout")
        subprocess.run(["cc", "-O2", "-o", tool, str(HERE / "fanout.c")], check=True)
        ratios = []
        for number in range(chosen.rounds):
            if number % 2 == 0:
                us, size = ours(tool, chosen.connections, chosen.seconds)
                least = floor(tool, chosen.connections, chosen.seconds, size)
            else:
                least = floor(tool, chosen.connections, chosen.seconds, size)
                us, size = ours(tool, chosen.connections, chosen.seconds)
            ratios.append(us / least)
            print(f"round {number + 1}: {size} bytes; ours {us:.2f} us, floor {least:.2f} us: {us / least:.2f}")
        print(f"median ratio {statistics.median(ratios):.2f} (min {min(ratios):.2f}, max {max(ratios):.2f})")


if __name__ == "__main__":
    main()

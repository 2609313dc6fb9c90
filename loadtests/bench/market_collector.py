"""The collector of M7: the steady trades of ``market_server``, written to Kafka instead of being served.

``python -m loadtests.bench.market_collector --tokens N --rate R``. ``KAFKA_BOOTSTRAP_SERVERS`` and
``TOKENWIRE_KAFKA_TOPICS`` say where to. Prints ``trades NS``, the planned instant of trade 0. Stops on SIGTERM.
"""

import argparse
import asyncio
import signal

import uvloop

from loadtests.bench.market_server import Steady
from tokenwire_server.roles import open_bus
from tokenwire_server.settings import Settings, load
from tokenwire_server.stream.collector import BusSink
from tokenwire_server.stream.topics import topics_of
from tokenwire_server.telemetry.logs import configure_logging


async def collect(settings: Settings, tokens: int, rate: float) -> None:
    """Write until a signal comes."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    bus = open_bus(settings, "the bench")
    sink = BusSink(bus, topics_of(settings), "bench")
    await sink.begin()
    tasks = [asyncio.create_task(each) for each in (sink.run(), Steady(tokens, rate, 0).run(sink))]
    try:
        await stop.wait()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await bus.close()


def main() -> None:
    """Read the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1)
    parser.add_argument("--rate", type=float, default=100.0, help="trades a second")
    chosen = parser.parse_args()
    configure_logging("warning")
    uvloop.run(collect(load(), chosen.tokens, chosen.rate))


if __name__ == "__main__":
    main()

"""One processor as a process, to be killed: ``python -m server.tests.stream.processor_process SERVERS PREFIX NAME``."""

import asyncio
import sys

from tokenwire_server.bus.kafka import KafkaBus
from tokenwire_server.stream.processor import Processor

from .test_processor import PLAN, topics_named


async def main(servers: str, prefix: str, name: str) -> None:
    bus = KafkaBus(servers)
    await Processor(bus, topics_named(prefix), name, PLAN, 100).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

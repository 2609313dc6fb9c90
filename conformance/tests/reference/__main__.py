"""``python -m conformance.tests.reference --port 8910 [--fault NAME …]`` serves it on loopback."""

import argparse
import asyncio

from conformance.tests.reference import FAULTS, ReferenceServer, Settings


async def _serve(port: int, settings: Settings) -> None:
    server = ReferenceServer(settings)
    await server.start("127.0.0.1", port)
    print(f"ws://127.0.0.1:{port}/api/v1/ws/token-data", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8910)
    parser.add_argument("--fault", action="append", default=[], choices=sorted(FAULTS))
    parser.add_argument("--accepts-any", action="store_true")
    parser.add_argument("--tokens", type=int, default=300)
    given = parser.parse_args()
    chosen = Settings(faults=frozenset(given.fault), accepts_any=given.accepts_any, tokens=given.tokens)
    asyncio.run(_serve(given.port, chosen))

"""Subscribe to tokens and print what comes, trouble included. Run: python quickstart.py [URL] [--count 20]"""

import argparse
import asyncio
import contextlib
import os

from tokenwire import Error, Gap, Reconnecting, Snapshot, Stale, TokenClient, Update

DEFAULT_URL = os.environ.get("TOKENWIRE_URL", "ws://127.0.0.1:8080")


async def main(url: str, names: list[str], count: int) -> None:
    async with TokenClient(url) as client:
        result = await client.subscribe(names)
        for name, code in result.rejected.items():
            print(f"{name} was not accepted: {code}")
        async for event in client:
            match event:
                case Update(quote=quote) | Snapshot(quote=quote):
                    print(f"{quote.name} {quote.price} USD")
                    count -= 1
                case Reconnecting():
                    print(f"connection lost ({event.cause}), next try in {event.delay_ms} ms")
                case Gap():
                    print(f"messages were lost ({event.cause}); {event.repair}")
                case Stale() | Error():
                    print(f"{event.code}: {event.message}")
            if count <= 0:
                return  # leaving the block closes the connection


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", nargs="?", default=DEFAULT_URL)
    parser.add_argument("--names", nargs="+", default=["DOGE", "PEPE"])
    parser.add_argument("--count", type=int, default=20, help="values to print")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(options.url, options.names, options.count))

"""Callbacks instead of a loop. Run: python callbacks.py [URL] [--seconds 10]"""

import argparse
import asyncio
import contextlib
import os

from tokenwire import ConnectionState, Error, Gap, Snapshot, TokenClient, Update

DEFAULT_URL = os.environ.get("TOKENWIRE_URL", "ws://127.0.0.1:8080")


def show_value(event: Update | Snapshot) -> None:
    print(f"{event.quote.name} {event.quote.price}")


async def alarm(event: Gap | Error) -> None:
    """Coroutine functions work as well; the next callback waits for them."""
    await asyncio.sleep(0)
    print(f"look at this: {event}")


def show_state(state: ConnectionState) -> None:
    print(f"now {state}")


async def main(url: str, names: list[str], seconds: float) -> None:
    async with TokenClient(url) as client:
        client.on_state(show_state)
        client.on(Snapshot, show_value)
        client.on(Update, show_value)
        client.on(Gap, alarm)
        client.on(Error, alarm)
        await client.subscribe(names)
        try:
            async with asyncio.timeout(seconds):
                await client.run()
        except TimeoutError:
            print("time is up")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", nargs="?", default=DEFAULT_URL)
    parser.add_argument("--names", nargs="+", default=["DOGE", "PEPE"])
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(options.url, options.names, options.seconds))

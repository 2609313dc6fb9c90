"""Without asyncio. Run: python blocking.py [URL] [--count 20]"""

import argparse
import contextlib
import os

from tokenwire import Snapshot, Update
from tokenwire.sync import TokenClient

DEFAULT_URL = os.environ.get("TOKENWIRE_URL", "ws://127.0.0.1:8080")


def main(url: str, names: list[str], count: int) -> None:
    with TokenClient(url) as client:
        client.subscribe(names)
        for event in client:
            if isinstance(event, Update | Snapshot):
                print(f"{event.quote.name} {event.quote.price}")
                count -= 1
            if count <= 0:
                break
        # The connection lives on in its thread; `latest` is current whenever it is asked.
        for name, quote in client.latest.items():
            print(f"latest {name} {quote.price}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", nargs="?", default=DEFAULT_URL)
    parser.add_argument("--names", nargs="+", default=["DOGE", "PEPE"])
    parser.add_argument("--count", type=int, default=20, help="values to print")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        main(options.url, options.names, options.count)

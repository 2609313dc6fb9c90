"""Stop, start again, and go on where it stopped. Run it twice: python checkpoint.py [URL] [--file position.json]

With a server that resumes (within two minutes), messages that were sent and not yet dealt with are sent once more, and
what changed since comes as the newest value; `missed` counts the versions in between, and `delivery="every"` would
bring each of them. Otherwise a Gap event says that something is missing, and current values follow.
"""

import argparse
import asyncio
import contextlib
import os
from pathlib import Path

from tokenwire import ClientCheckpoint, Connected, Gap, Resumed, Snapshot, TokenClient, Update

DEFAULT_URL = os.environ.get("TOKENWIRE_URL", "ws://127.0.0.1:8080")


def save(path: Path, checkpoint: ClientCheckpoint) -> None:
    """Replace the file in one step, readable by its owner only: a checkpoint holds the session's secret."""
    scratch = path.with_suffix(".new")
    scratch.touch(mode=0o600)
    scratch.write_text(checkpoint.to_json(), "utf-8")
    scratch.replace(path)


def load(path: Path) -> str | None:
    return path.read_text("utf-8") if path.exists() else None


async def main(url: str, names: list[str], path: Path, count: int) -> None:
    # ack="checkpoint": the server keeps what the last saved checkpoint does not cover.
    async with TokenClient(url, checkpoint=load(path), ack="checkpoint") as client:
        await client.subscribe(names)  # those that the checkpoint holds already are just confirmed
        async for event in client:
            match event:
                case Connected():
                    print("a new session")
                case Resumed():
                    print(f"resumed after {event.outage_ms} ms")
                case Gap():
                    print(f"something is missing: {event.cause}")
                case Update(quote=quote) | Snapshot(quote=quote):
                    print(f"{quote.name} {quote.price}")  # the work; the checkpoint follows it, never precedes it
                    save(path, client.checkpoint())
                    count -= 1
            if count <= 0:
                return


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?", default=DEFAULT_URL)
    parser.add_argument("--names", nargs="+", default=["DOGE", "PEPE"])
    parser.add_argument("--file", type=Path, default=Path("position.json"))
    parser.add_argument("--count", type=int, default=10, help="values to print")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(options.url, options.names, options.file, options.count))

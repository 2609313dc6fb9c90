"""More tokens than a connection may hold. Run: python many_tokens.py [URL] [--names-file FILE] [--seconds 10]

The client opens as many connections as it takes (max_connections, 10 by default) and merges what they bring.
"""

import argparse
import asyncio
import contextlib
import itertools
import os
from pathlib import Path

from tokenwire import Snapshot, TokenClient, Update

DEFAULT_URL = os.environ.get("TOKENWIRE_URL", "ws://127.0.0.1:8080")

# Names of the simulated market are put together like this; a server has some of them and rejects the others.
HEADS = ["BABY", "MOON", "TURBO", "MEGA", "SAFE", "DARK", "SUPER", "GIGA", "BASED", "LASER", "COSMIC", "TINY", "LUCKY"]
TAILS = ["CAT", "DOG", "FROG", "APE", "INU", "PIG", "BULL", "BEAR", "WHALE", "SHARK", "PANDA", "DUCK", "GOAT", "OWL"]


async def main(url: str, names: list[str], seconds: float) -> None:
    async with TokenClient(url, max_connections=10) as client:
        result = await client.subscribe(names)
        print(f"{len(result.accepted)} tokens over {client.connections} connections, {len(result.rejected)} rejected")
        values = 0
        try:
            async with asyncio.timeout(seconds):
                async for event in client:
                    values += isinstance(event, Update | Snapshot)
        except TimeoutError:
            pass
        print(f"{values} values; newest of {len(client.latest)} tokens known")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?", default=DEFAULT_URL)
    parser.add_argument("--names-file", type=Path, help="a name a line; by default names of the simulated market")
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    if options.names_file:
        chosen = options.names_file.read_text("utf-8").split()
    else:
        chosen = [head + tail for head, tail in itertools.product(HEADS, TAILS)]
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(options.url, chosen, options.seconds))

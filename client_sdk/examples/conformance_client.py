"""The client as the conformance suite wants it: events as JSON lines.

Run: tokenwire-conformance client --exec "python conformance_client.py {url} {tokens}"
"""

import argparse
import asyncio
import contextlib
import json

from tokenwire import (
    ConnectionFailedError,
    ConnectionState,
    Error,
    Gap,
    Snapshot,
    Stale,
    SubscriptionError,
    TokenClient,
    Update,
)


def tell(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


def tell_state(state: ConnectionState) -> None:
    tell("state", state=state)


def tell_value(event: Snapshot | Update) -> None:
    tell("update", address=event.quote.address, price=event.quote.price, sequence=event.sequence)


def tell_gap(event: Gap) -> None:
    tell("gap", **{"from": event.first, "to": event.last})


def tell_error(event: Error) -> None:
    tell("error", code=event.code, level=event.level)


def tell_stale(event: Stale) -> None:
    tell("error", code=event.code, level="warning")


async def subscribe(client: TokenClient, names: list[str]) -> None:
    # What the server refuses is told as an error event, too, and the rest goes on.
    with contextlib.suppress(SubscriptionError):
        await client.subscribe(names)


async def main(url: str, names: list[str], retries: int | None, seconds: float | None) -> None:
    async with TokenClient(url, max_retries=retries) as client:
        tell_state(client.state)
        client.on_state(tell_state)
        for kind, callback in ((Snapshot, tell_value), (Update, tell_value), (Gap, tell_gap), (Error, tell_error)):
            client.on(kind, callback)
        client.on(Stale, tell_stale)
        with contextlib.suppress(ConnectionFailedError, TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(subscribe(client, names), client.run())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="the server")
    parser.add_argument("tokens", type=lambda text: text.split(","), help="names, separated by commas")
    parser.add_argument("--retries", type=int, default=10, help="tries to reconnect (default: 10)")
    parser.add_argument("--seconds", type=float, help="end after so long (default: never)")
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(arguments.url, arguments.tokens, arguments.retries, arguments.seconds))

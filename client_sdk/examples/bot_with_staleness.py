"""A bot that acts only on values it may trust. Run: python bot_with_staleness.py [URL] [--seconds 10]

It holds still while the client is not connected, after a gap until the token's next value, and while a source is
stale. An old price that looks alive is worse than none.
"""

import argparse
import asyncio
import contextlib
import os
from decimal import Decimal

from tokenwire import ConnectionState, Event, Gap, Reconnecting, Snapshot, Stale, TokenClient, Update

DEFAULT_URL = os.environ.get("TOKENWIRE_URL", "ws://127.0.0.1:8080")


class Bot:
    """Buys what fell by a thousandth since it last looked. Not advice."""

    def __init__(self) -> None:
        self.trusted: dict[str, Decimal] = {}
        """The last price of each token, by address, as long as it can be relied on."""

    def handle(self, event: Event, state: ConnectionState) -> None:
        match event:
            case Update(quote=quote, replayed=True):
                self.trusted[quote.address] = quote.price_decimal  # history: good to know, too old to act on
            case Update(quote=quote) | Snapshot(quote=quote):
                before = self.trusted.get(quote.address)
                self.trusted[quote.address] = quote.price_decimal
                if state is ConnectionState.CONNECTED and before and quote.price_decimal < before * Decimal("0.999"):
                    print(f"buy {quote.name} at {quote.price}")
            case Reconnecting() | Gap():
                print(f"holding still: {event.cause}")
                self.trusted.clear()
            case Stale():
                print(f"holding still: {event.message}")
                for address in event.tokens or list(self.trusted):  # no tokens named: all may be meant
                    self.trusted.pop(address, None)


async def main(url: str, names: list[str], seconds: float) -> None:
    bot = Bot()
    async with TokenClient(url, max_retries=None) as client:  # a bot never gives up
        await client.subscribe(names)
        try:
            async with asyncio.timeout(seconds):
                async for event in client:
                    bot.handle(event, client.state)
        except TimeoutError:
            print(f"trusted prices at the end: {len(bot.trusted)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?", default=DEFAULT_URL)
    parser.add_argument("--names", nargs="+", default=["DOGE", "PEPE"])
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(options.url, options.names, options.seconds))

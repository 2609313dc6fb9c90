"""A source that runs on one instance at a time: on the one that leads."""

import asyncio
from collections.abc import Iterator

from tokenwire_server.cache.leadership import Leadership
from tokenwire_server.market.values import PriceOf, ReadsMarket
from tokenwire_server.ports import Sink, Source, SourceState, Tallied
from tokenwire_server.tasks import end

__all__ = ["Elected"]


class Elected:
    """``source``, while this instance leads; it is cancelled when another one does, and may run again after that."""

    def __init__(self, source: Source, leadership: Leadership) -> None:
        self._source = source
        self._leadership = leadership

    @property
    def name(self) -> str:
        """That of the source."""
        return self._source.name

    @property
    def cadence_ms(self) -> int:
        """That of the source."""
        return self._source.cadence_ms

    def read_market(self, price_of: PriceOf) -> None:
        """Pass it on."""
        if isinstance(self._source, ReadsMarket):
            self._source.read_market(price_of)

    def tally(self) -> Iterator[tuple[str, str, int]]:
        """What the source counts."""
        if isinstance(self._source, Tallied):
            yield from self._source.tally()

    async def run(self, sink: Sink) -> None:
        """Run the source whenever this instance leads, until cancelled."""
        while True:
            if not self._leadership.leads:
                sink.state(self.name, SourceState.STARTING, "standing by: another instance polls")
            await self._leadership.wait(leads=True)
            running = asyncio.create_task(self._source.run(sink), name=f"{self.name}: elected")
            lost = asyncio.create_task(self._leadership.wait(leads=False))
            try:
                await asyncio.wait((running, lost), return_when=asyncio.FIRST_COMPLETED)
                if running.done():
                    return await running
            finally:
                await end(running, lost)

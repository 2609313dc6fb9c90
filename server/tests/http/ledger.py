"""A ledger that fails and waits when a test says so, over a real history."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tokenwire_server.history.port import HistoryError
from tokenwire_server.history.recorder import Recorder
from tokenwire_server.history.service import DataDirectory
from tokenwire_server.intake import POSTED
from tokenwire_server.pipeline import Pipeline


class Moody:
    """Passes everything on to a recorder, unless it is told to fail or to wait."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.fails_to_check = False
        self.fails_to_settle = False
        self.next_answer: asyncio.Event | None = None  # what the next one who asks what is known waits for
        self.may_settle = asyncio.Event()
        self.may_settle.set()
        self.asked = 0
        self.settled_calls = 0

    def check(self) -> None:
        if self.fails_to_check:
            raise HistoryError("the disk is full")
        self.recorder.check()

    async def known_ids(self, address: str, ids: Sequence[str]) -> set[str]:
        self.asked += 1
        gate, self.next_answer = self.next_answer, None
        known = await self.recorder.known_ids(address, ids)
        if gate is not None:
            await gate.wait()
        return known

    async def settled(self) -> None:
        self.settled_calls += 1
        await self.may_settle.wait()
        if self.fails_to_settle:
            raise HistoryError("the disk is full")
        await self.recorder.settled()


@asynccontextmanager
async def kept(pipeline: Pipeline, folder: Path) -> AsyncIterator[Moody]:
    """Keep what is told to the pipeline in a history in ``folder``."""
    directory = await DataDirectory.open(folder)
    try:
        recorder, pages = await directory.attach(pipeline.market, {POSTED})
        pipeline.keep(recorder, pages)
        yield Moody(recorder)
    finally:
        await directory.close()

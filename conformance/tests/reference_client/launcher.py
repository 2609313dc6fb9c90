"""Starts the reference client inside the suite's own event loop, so that its time may be virtual."""

import asyncio
import contextlib
from collections.abc import Callable
from random import Random
from typing import Final

from tokenwire_conformance.client.launch import Launched
from tokenwire_conformance.wire.wire import Clock

from .client import ReferenceClient

__all__ = ["InProcessLauncher"]


class _Running:
    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task

    @property
    def exit_status(self) -> int | None:
        if not self._task.done():
            return None
        return 1 if self._task.cancelled() or self._task.exception() else 0

    def complaint(self) -> str:
        if not self._task.done() or self._task.cancelled():
            return ""
        error = self._task.exception()
        return f"{type(error).__name__}: {error}" if error else ""

    async def over(self) -> None:
        await asyncio.wait({self._task})

    async def stop(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self._task


class InProcessLauncher:
    """A launcher of ``client.launch.Launcher``'s shape. Its randomness comes from the id of the case."""

    names_tokens = True

    def __init__(self, clock: Clock, faults: frozenset[str] = frozenset()) -> None:
        self._clock: Final = clock
        self._faults: Final = faults

    async def __call__(self, url: str, tokens: tuple[str, ...], case_id: str, emit: Callable[[str], None]) -> Launched:
        """Start a client as a task."""
        client = ReferenceClient(
            url, tokens, emit, clock=self._clock, random=Random(case_id), faults=self._faults
        )  # fmt: skip
        return _Running(asyncio.create_task(client.run()))

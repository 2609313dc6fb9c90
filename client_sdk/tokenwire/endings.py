"""Waiting for tasks that end something, in good order or, when that is cancelled, at once."""

import asyncio
from collections.abc import Collection
from typing import Any

__all__ = ["all_ended"]


async def all_ended(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Return when none of ``tasks`` runs any more; more may join while it waits.

    Being cancelled cancels them, each after it has begun: one that never began would leave what it is to end. They are
    waited for then, too.
    """
    try:
        await _wait(tasks)
    except asyncio.CancelledError:
        loop = asyncio.get_running_loop()
        for task in tasks:
            loop.call_soon(task.cancel)
        await _wait(tasks)
        raise


async def _wait(tasks: Collection[asyncio.Task[Any]]) -> None:
    while running := {task for task in tasks if not task.done()}:
        await asyncio.wait(running)

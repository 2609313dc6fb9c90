"""The end of tasks."""

import asyncio
from typing import Any, Final

__all__ = ["end"]

LOST_AFTER_S: Final = 5.0  # a task that was cancelled so long ago may not know


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel these, and return when all have ended, however they did.

    A cancellation can get lost: ``asyncio.wait_for`` before Python 3.12 swallows one that comes in the moment in which
    what it waits for is done, and libraries use it with every command. So it is repeated.
    """
    while waiting := [task for task in tasks if not task.done()]:
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting, timeout=LOST_AFTER_S)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # seen: it is not told of as never looked at

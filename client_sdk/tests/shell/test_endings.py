"""Ending several things at once, also when that is cancelled."""

import asyncio

import pytest

from tokenwire.endings import all_ended


async def test_what_has_just_begun_to_end_is_ended_too() -> None:
    ended = []

    async def ending(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(number)

    tasks = {asyncio.create_task(ending(1))}
    waiting = asyncio.create_task(all_ended(tasks))
    await asyncio.sleep(0)
    waiting.cancel()
    tasks.add(asyncio.create_task(ending(2)))
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert sorted(ended) == [1, 2]

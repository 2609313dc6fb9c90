"""Tasks end, also those that lose a cancellation."""

import asyncio

from tokenwire_server import tasks
from tokenwire_server.tasks import end

from .stream.virtual import run_virtual


def test_a_lost_cancellation_is_repeated() -> None:
    """As in ``asyncio.wait_for`` of Python 3.11, where what is waited for is done at the same moment."""
    lost = 0

    async def forgetful() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(3_600)
            except asyncio.CancelledError:
                if lost == 2:
                    raise
                lost += 1

    async def scenario() -> None:
        begin_s = asyncio.get_running_loop().time()
        task = asyncio.create_task(forgetful())
        await asyncio.sleep(0)
        await end(task)
        assert task.cancelled()
        assert asyncio.get_running_loop().time() - begin_s == 2 * tasks.LOST_AFTER_S

    run_virtual(scenario)
    assert lost == 2


def test_whatever_ended_them_is_not_raised() -> None:
    async def failing() -> None:
        raise ValueError

    async def scenario() -> None:
        failed, done = asyncio.create_task(failing()), asyncio.create_task(asyncio.sleep(0, 7))
        never = asyncio.create_task(asyncio.sleep(1))  # cancelled before its first step
        await asyncio.wait((failed, done))
        await end(failed, done, never)
        assert done.result() == 7
        assert never.cancelled()
        await end()

    run_virtual(scenario)

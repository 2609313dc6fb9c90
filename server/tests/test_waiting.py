"""A database that is waited for, and a signal that comes while it is being opened."""

import asyncio
import os
import signal

import pytest

from tokenwire_server import waiting
from tokenwire_server.errors import AwayError
from tokenwire_server.settings import Settings


class _Kept:
    is_closed = False

    async def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize("is_ended", [False, True])
async def test_a_signal_that_comes_while_it_is_opened_is_not_lost(
    is_ended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, tries = _Kept(), 0

    async def opened(*_: object) -> _Kept:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise AwayError("not there yet")
        if is_ended:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.05)
        return kept

    monkeypatch.setattr(waiting, "open_history", opened)
    opening = waiting.open_when_there(Settings(), "collect", port=None, flag="--health-port")
    if is_ended:
        with pytest.raises(AwayError, match="not there yet"):
            await opening
    else:
        assert await opening is kept
    assert kept.is_closed is is_ended

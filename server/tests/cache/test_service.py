"""The shared cache of one server: its parts begin and end in good order. (A warning is an error.)"""

import gc

import pytest

from tokenwire_server.app import running
from tokenwire_server.cache.service import open_cache
from tokenwire_server.errors import UserError
from tokenwire_server.preflight import bind_socket
from tokenwire_server.settings import Settings

from .world import World

NOBODY = {"redis_url": "redis://127.0.0.1:1/0"}


async def test_a_server_whose_port_is_taken_leaves_nothing_behind() -> None:
    with bind_socket("127.0.0.1", 0) as taken:
        settings = Settings.model_validate(NOBODY | {"port": taken.getsockname()[1]})
        with pytest.raises(UserError, match="in use"):
            async with running(settings, ()):
                pass
    gc.collect()


async def test_parts_that_end_before_their_first_step_leave_nothing_behind() -> None:
    async with open_cache(Settings.model_validate(NOBODY)) as cache:
        assert cache is not None
        market = World().pipeline
        cache.read(market)
        cache.publish(market, lambda *_: b"{}")
    gc.collect()

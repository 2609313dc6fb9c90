"""The client runs on both event loops."""

import asyncio
from collections.abc import Callable

import pytest
import uvloop

Factory = Callable[[], asyncio.AbstractEventLoop]
BOTH = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Factory]:
    """The client's own tests run on the standard loop and on uvloop, the others on the standard one."""
    return BOTH if item.module.__name__.endswith("test_client") else {"asyncio": asyncio.new_event_loop}  # type: ignore[attr-defined]

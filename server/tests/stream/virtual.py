"""Runs in virtual time: whoever only sleeps takes no time."""

from collections.abc import Callable, Coroutine
from typing import Any

import async_solipsism

__all__ = ["run_virtual"]


def run_virtual(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run ``main`` in a loop of its own."""
    loop = async_solipsism.EventLoop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()

"""The canary: a greenlet that sleeps and sees how late it is woken. When it is late, so is every measurement."""

from typing import NoReturn

import gevent

from loadtests.load.tally import CANARY_US, Tally
from loadtests.load.wire import now_us

__all__ = ["sing"]


def sing(tally: Tally) -> NoReturn:
    """Sleep 10 ms at a time for ever, noting how much longer it took."""
    while True:
        begin_us = now_us()
        gevent.sleep(CANARY_US / 1_000_000)
        lag_us = now_us() - begin_us - CANARY_US
        if not tally.final:
            tally.canary(lag_us)

"""Whether the cache can be reached: told by whoever tries, and tried again and again while it can't."""

import asyncio
from collections.abc import Awaitable, Callable
from enum import StrEnum
from random import Random
from typing import Final

from tokenwire_server.cache.port import AgainError, CacheError
from tokenwire_server.telemetry.logs import get_log

__all__ = ["MAX_BACKOFF_S", "CacheTask", "Link"]

CHECK_S: Final = 2.0
FIRST_BACKOFF_S: Final = 0.25
MAX_BACKOFF_S: Final = 5.0

_log = get_log(__name__)


class CacheTask(StrEnum):
    """What the cache is asked for."""

    LINK = "link"
    ELECTION = "election"
    PUBLISH = "publish"
    OPEN_BARS = "open bars"
    PAGES = "pages"
    RELOAD = "reload"
    JANITOR = "janitor"


class Link:
    """``ping`` gives the engine's name and version, or raises CacheError."""

    def __init__(self, ping: Callable[[], Awaitable[str]], rng: Random | None = None) -> None:
        self.engine = ""
        self._away = "it has not been reached yet"
        self._troubles: dict[CacheTask, str] = {}  # by what fails although the cache answers
        self.lost_count = 0
        self.failures = dict.fromkeys(CacheTask, 0)
        self._ping = ping
        self._rng = rng or Random()
        self._up = asyncio.Event()
        self._down = asyncio.Event()

    @property
    def is_up(self) -> bool:
        """Whether it answered last time."""
        return self._up.is_set()

    @property
    def reason(self) -> str:
        """Why it is of no use, or not of full use; empty when all is well."""
        return self._away or next(iter(self._troubles.values()), "")

    async def wait_up(self) -> None:
        """Until it can be reached."""
        await self._up.wait()

    def worked(self, what: CacheTask) -> None:
        """It did ``what`` was asked."""
        self._troubles.pop(what, None)

    def failed(self, what: CacheTask, error: CacheError) -> None:
        """It did not do ``what`` was asked."""
        self.failures[what] += 1
        if not isinstance(error, AgainError):
            self._lost(error)
        elif self._troubles.get(what) != str(error):
            self._troubles[what] = str(error)
            _log.warning("cache failed", what=str(what), reason=str(error))

    def _lost(self, error: CacheError) -> None:
        if self.is_up:
            self.lost_count += 1
            _log.warning("cache away", reason=str(error))
        elif str(error) != self._away:
            _log.warning("cache not reached", reason=str(error))
        self._away = str(error)
        self._up.clear()
        self._down.set()

    async def run(self) -> None:
        """Look after it until cancelled."""
        backoff_s = FIRST_BACKOFF_S
        while True:
            try:
                engine = await self._ping()
            except CacheError as error:
                self.failures[CacheTask.LINK] += 1
                self._lost(error)
                await asyncio.sleep(self._rng.uniform(backoff_s / 2, backoff_s))
                backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)
                continue
            if not self.is_up:
                _log.info("cache reached", engine=engine)
                self.engine, self._away, backoff_s = engine, "", FIRST_BACKOFF_S
                self._down.clear()
                self._up.set()
            try:
                async with asyncio.timeout(CHECK_S):
                    await self._down.wait()
            except TimeoutError:
                continue

"""The shell of the election: asks the cache when something is due, and tells those who wait for the outcome."""

import asyncio
import secrets
from collections.abc import Callable
from typing import Final

from tokenwire_server.cache.election import LEASE_MS, Due, Election
from tokenwire_server.cache.link import CacheTask, Link
from tokenwire_server.cache.port import Cache, CacheError
from tokenwire_server.telemetry.logs import get_log

__all__ = ["Leadership"]

_OWNER_BYTES: Final = 12
_log = get_log(__name__)


class Leadership:
    """Of ``lock``. Run it beside what waits for it. An instance takes part while ``may_lead()`` says so."""

    def __init__(self, cache: Cache, link: Link, lock: str, may_lead: Callable[[], bool] = lambda: True) -> None:
        self.lock = lock
        self._may_lead = may_lead
        self._cache = cache
        self._link = link
        self._owner = secrets.token_hex(_OWNER_BYTES)
        self._election = Election()
        self._turned = asyncio.Event()
        self._changed = asyncio.Condition()

    @property
    def fence(self) -> int:
        """Of this instance's leadership; 0: it does not lead."""
        return self._election.fence

    @property
    def leads(self) -> bool:
        """Whether this instance leads."""
        return self._election.leads

    async def wait(self, *, leads: bool) -> None:
        """Until this instance leads, or until it does not."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.leads is leads)

    def fenced(self, fence: int) -> None:
        """The cache refused what this one published with ``fence``."""
        self._election.fenced(fence)
        self._turned.set()

    async def run(self) -> None:
        """Take part until cancelled; then let others lead at once."""
        try:
            while True:
                before = self.leads
                await self._turn()
                if self.leads is not before:
                    _log.info("leading" if self.leads else "standing by", lock=self.lock, fence=self.fence)
                async with self._changed:
                    self._changed.notify_all()
        finally:
            if self._election.may_hold and self._link.is_up:
                await self._release()

    async def _turn(self) -> None:
        election, now_ms = self._election, self._now_ms
        led, asked_ms = self.leads, now_ms()
        election.allow(may_lead=self._may_lead())
        if led and not self.leads:
            return  # those who wait are told before the cache is
        due = election.due(asked_ms)
        if due is Due.NOTHING or not self._link.is_up:
            self._turned.clear()
            try:
                async with asyncio.timeout(election.wait_ms(asked_ms) / 1_000):
                    await (self._turned.wait() if due is Due.NOTHING else self._link.wait_up())
            except TimeoutError:
                pass
            return
        try:
            match due:
                case Due.ACQUIRE:
                    election.granted(await self._cache.acquire(self.lock, self._owner, LEASE_MS), asked_ms)
                case Due.RENEW:
                    election.renewed(await self._cache.renew(self.lock, self._owner, LEASE_MS), asked_ms)
                case Due.RELEASE:
                    await self._cache.release(self.lock, self._owner)
                    election.released(asked_ms)
        except CacheError as error:
            self._link.failed(CacheTask.ELECTION, error)
            election.unanswered(now_ms())
        else:
            self._link.worked(CacheTask.ELECTION)

    async def _release(self) -> None:
        try:
            await self._cache.release(self.lock, self._owner)
        except CacheError:
            return  # it ends by itself

    @staticmethod
    def _now_ms() -> int:
        return int(asyncio.get_running_loop().time() * 1_000)

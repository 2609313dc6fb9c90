"""The shared cache as a server opens, uses and closes it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Final

from tokenwire_server.cache.bar_writer import BarWriter, EncodeBar
from tokenwire_server.cache.elected import Elected
from tokenwire_server.cache.leadership import Leadership
from tokenwire_server.cache.link import CacheTask, Link
from tokenwire_server.cache.market import PublishedMarket
from tokenwire_server.cache.port import Cache, CacheError, CacheState, CacheStatus
from tokenwire_server.cache.publisher import Publisher
from tokenwire_server.cache.shared import SharedPages
from tokenwire_server.errors import UserError
from tokenwire_server.ports import Source
from tokenwire_server.settings import Settings
from tokenwire_server.tasks import end
from tokenwire_server.telemetry.logs import get_log
from tokenwire_server.telemetry.metrics import Kind, Metrics

__all__ = ["POLLERS", "PUBLISHERS", "SharedCache", "open_cache"]

PUBLISHERS: Final = "publisher"
"""The lock of those who poll and publish the index: one instance does both, as it publishes what it polled."""
POLLERS: Final = "poller"
"""The lock of those who poll and publish nothing: what they find goes to others by other ways."""
_JANITOR_CHECKS: Final = 10  # in an interval

_log = get_log(__name__)

Work = Callable[[], Coroutine[object, object, None]]


class SharedCache:
    """One instance's part in the shared cache. Made by :func:`open_cache`."""

    def __init__(self, cache: Cache, link: Link, settings: Settings) -> None:
        self.link = link
        self.pages: SharedPages | None = None
        self._cache = cache
        self._settings = settings
        self._market: PublishedMarket | None = None
        self._publisher: Publisher | None = None
        self._leaderships: dict[str, Leadership] = {}
        self._polling: set[str] = set()  # locks of instances that poll
        self._tasks: list[asyncio.Task[None]] = []

    def elected(
        self, sources: Sequence[Source], is_polled: Callable[[Source], bool], lock: str = PUBLISHERS
    ) -> list[Source]:
        """The same sources; those that poll, only while this instance leads those of ``lock``."""
        if any(map(is_polled, sources)):
            self._polling.add(lock)
        return [Elected(source, self._lead(lock)) if is_polled(source) else source for source in sources]

    def read(self, market: PublishedMarket) -> SharedPages:
        """Have pages of the shared index from now on, in place of the market's own."""
        settings = self._settings
        self.pages = SharedPages(self._cache, self.link, market.token_pages, market.now_ms, settings.poll_interval_ms)
        self._start(self.pages.run, CacheTask.RELOAD)
        return self.pages

    def publish(self, market: PublishedMarket, encode: EncodeBar) -> None:
        """Publish this market's tokens and open bars whenever this instance leads."""
        leadership, link = self._lead(PUBLISHERS), self.link
        self._market = market
        published = (lambda generation, index: None) if self.pages is None else self.pages.published
        max_age_ms = self._settings.poll_interval_ms
        publisher = self._publisher = Publisher(market, self._cache, link, leadership, max_age_ms, published)
        bars = BarWriter(market, self._cache, link, leadership, encode)
        market.trade_listeners.append(bars.on_trade)
        self._start(publisher.run, CacheTask.PUBLISH)
        self._start(bars.run, CacheTask.OPEN_BARS)
        self._start(self._clean, CacheTask.JANITOR)

    def status(self) -> CacheStatus:
        """How it is."""
        leaderships = self._leaderships.values()
        role = "leading" if any(one.leads for one in leaderships) else "standby" if leaderships else ""
        state = CacheState.DEGRADED if self.link.reason else CacheState.OK
        generation = 0 if self.pages is None else self.pages.generation
        return CacheStatus(state, self.link.reason, self.link.engine, role, generation)

    def observe(self, metrics: Metrics) -> None:
        """Have measured what this instance does with the cache."""
        link, leaderships, publisher = self.link, self._leaderships, self._publisher
        metrics.observe(
            "cache_up",
            description="1 while the shared cache (Redis) can be reached, else 0.",
            kind=Kind.GAUGE,
            read=lambda: [(int(link.is_up), {})],
        )
        metrics.observe(
            "cache_failures",
            description="Times that the shared cache did not do what it was asked, by task.",
            kind=Kind.COUNTER,
            read=lambda: [(count, {"task": task.value}) for task, count in link.failures.items()],
        )
        metrics.observe(
            "cache_leads",
            description="1 while this instance leads, as far as it knows, else 0, by lock.",
            kind=Kind.GAUGE,
            read=lambda: [(int(one.leads), {"lock": lock}) for lock, one in leaderships.items()],
        )
        if publisher is not None:
            metrics.observe(
                "cache_refreshes",
                description="Refreshes of the shared index by this instance; refused: another one leads since.",
                kind=Kind.COUNTER,
                read=lambda: [
                    (publisher.refreshes, {"outcome": "published"}),
                    (publisher.refused, {"outcome": "refused"}),
                ],
            )
        if self.pages is not None:
            self.pages.observe(metrics)

    async def close(self) -> None:
        """Let go of the lock, and end."""
        await end(*self._tasks)

    def _lead(self, lock: str) -> Leadership:
        leadership = self._leaderships.get(lock)
        if leadership is None:
            leadership = Leadership(self._cache, self.link, lock, lambda: self._may_lead(lock))
            self._leaderships[lock] = leadership
            self._start(leadership.run, f"{CacheTask.ELECTION} of {lock}")
        return leadership

    def _may_lead(self, lock: str) -> bool:
        """Who has nothing to publish, and nothing that would bring anything, must not keep others from it; nor who has
        another market than the others."""
        market = self._market
        followed = None if market is None else market.follow_status()
        if followed is not None and followed.reason:
            return False
        return lock in self._polling or (market is not None and len(market.market) > 0)

    def _start(self, work: Work, name: str) -> None:
        self._tasks.append(asyncio.create_task(_run(work, name), name=f"cache: {name}"))

    async def _clean(self) -> None:
        interval_ms = self._settings.janitor_interval_ms
        while True:
            await asyncio.sleep(interval_ms / 1_000 / _JANITOR_CHECKS)
            await self.link.wait_up()
            try:
                gone = await self._cache.tidy(interval_ms)
            except CacheError as error:
                self.link.failed(CacheTask.JANITOR, error)
            else:
                self.link.worked(CacheTask.JANITOR)
                if gone:
                    _log.info("cache tidied", keys=gone)


async def _run(work: Work, name: str) -> None:
    """A defect ends this part alone, and is never silent."""
    try:
        await work()  # made here: a task that is cancelled before its first step would leave it behind
    except Exception as error:  # whatever it is, the others go on
        _log.error("cache task failed", exc_info=error, task=name)


@asynccontextmanager
async def open_cache(settings: Settings) -> AsyncIterator[SharedCache | None]:
    """The cache that the settings name, within the block; None if they name none. It need not be there yet.

    Raises:
        UserError: the extra is missing, or the URL can't be used.
    """
    if settings.redis_url is None:
        yield None
        return
    try:
        from tokenwire_server.cache.redis import RedisCache  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        if error.name != "redis":
            raise
        raise UserError("REDIS_URL needs redis-py; install it: pip install 'tokenwire[redis]'") from None
    try:
        cache = RedisCache(settings.redis_url.get_secret_value(), settings.redis_prefix)
    except (ValueError, TypeError):
        raise UserError(
            "REDIS_URL can't be used; one looks like redis://:PASSWORD@HOST:6379/0, rediss://… or unix:///PATH"
        ) from None
    link = Link(cache.ping)
    shared = SharedCache(cache, link, settings)
    watching = asyncio.create_task(_run(link.run, CacheTask.LINK), name="cache: link")
    try:
        yield shared
    finally:
        await shared.close()
        await end(watching)
        await cache.close()
